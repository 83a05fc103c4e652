"""Prompts of instructions, of names and of model cards, and which of them a call uses."""

import pytest

from qgguf.errors import PromptError
from qgguf.model.families import Traits, family_of
from qgguf.model.prompts import choose_prompt, instruction_prompts

QWEN3_EMBEDDING = family_of(Traits.of("qwen3", ["Qwen3 Embedding 0.6B"], 151669))
TEMPLATE = QWEN3_EMBEDDING.instruction_template
PROMPTS = instruction_prompts(TEMPLATE)
NOTHING = {"prompt": None, "prompt_name": None, "instruction": None, "default_name": None}


def pick(**given):
    return choose_prompt(PROMPTS, TEMPLATE, **NOTHING | given)


def test_the_query_prompt_equals_the_model_cards():
    """The query prompt has every letter of the model card's, and no space after the colon."""
    expected = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"

    assert PROMPTS["query"] == expected
    assert PROMPTS["document"] == ""


@pytest.mark.parametrize(
    "task",
    ["retrieval", "question_answering", "code_search", "similarity", "classification", "clustering", "bitext"],
)
def test_each_common_task_has_a_prompt(task):
    """Every task's prompt is its instruction in the model's template."""
    assert PROMPTS[task].startswith("Instruct: ")
    assert PROMPTS[task].endswith("\nQuery:")


def test_any_instruction_fills_the_template():
    """Braces and other scripts in an instruction do not change."""
    assert pick(instruction="Trouve {x} 한 😉") == "Instruct: Trouve {x} 한 😉\nQuery:"


def test_a_prompt_is_used_unchanged():
    """A prompt goes before the text without any change."""
    assert pick(prompt="é: ") == "é: "


def test_a_call_without_options_uses_the_default_prompt():
    """A plain encode has no prompt unless the model has a default prompt."""
    assert pick() == ""
    assert pick(default_name="similarity") == PROMPTS["similarity"]


def test_an_unknown_name_is_refused():
    """The message lists the names of this model's prompts."""
    with pytest.raises(PromptError, match=r"'querry'.*bitext.*query"):
        pick(prompt_name="querry")


def test_two_prompts_at_once_are_refused():
    """A text takes one prompt, and the message names those that were given."""
    with pytest.raises(PromptError, match="prompt and instruction were both given"):
        pick(prompt="a", instruction="b")


def test_an_instruction_without_a_template_is_refused():
    """MiniLM takes no instruction."""
    with pytest.raises(PromptError, match="takes no instructions"):
        choose_prompt({}, None, **NOTHING | {"instruction": "x"})


@pytest.mark.parametrize(
    ("architecture", "name", "query"),
    [
        ("bert", "Multilingual E5 Base", "query: "),
        ("bert", "e5-small-v2", "query: "),
        ("bert", "bge-small-en-v1.5", "Represent this sentence for searching relevant passages: "),
        ("bert", "mxbai-embed-large-v1", "Represent this sentence for searching relevant passages: "),
        ("nomic-bert", "Nomic Embed Text v1.5", "search_query: "),
        ("nomic-bert-moe", "Nomic Embed Text v2 MoE", "search_query: "),
        ("bert", "all-MiniLM-L6-v2", None),
        ("bert", "Multilingual E5 Large Instruct", None),
        ("bert", "bge-m3", None),
        ("qwen2", "Nomic Embed Code", None),
    ],
)
def test_known_models_have_the_prompts_of_their_cards(architecture, name, query):
    """A model with a known name and architecture has the prompts of its card; no other model has any."""
    family = family_of(Traits.of(architecture, [name], 30522))
    assert family.prompts_of(name).get("query") == query
