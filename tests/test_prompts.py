"""Prompts of instructions, of names and of model cards, and which of them a call uses."""

import numpy as np
import pytest

from qgguf.errors import PromptError
from qgguf.model.families import Traits, family_of
from qgguf.model.prompts import checked_prompts, choose_prompt, instruction_prompts

QWEN3_EMBEDDING = family_of(Traits.of("qwen3", ["Qwen3 Embedding 0.6B"], 151669))
TEMPLATE = QWEN3_EMBEDDING.card_of("qwen3 embedding 0.6b").instruction_template
PROMPTS = instruction_prompts(TEMPLATE)
NOTHING = {"prompt": None, "prompt_name": None, "instruction": None, "default_name": None}


def pick(**given):
    return choose_prompt(PROMPTS, TEMPLATE, **NOTHING | given).text


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
        ("nomic-bert", "CodeRankEmbed", "Represent this query for searching relevant code: "),
        ("modern-bert", "modernbert-embed-base", "search_query: "),
        ("bert", "bge-large-zh-v1.5", "为这个句子生成表示以用于检索相关文章："),
        ("bert", "UAE-Large-V1", "Represent this sentence for searching relevant passages: "),
        ("bert", "snowflake-arctic-embed-xs", "Represent this sentence for searching relevant passages: "),
        ("bert", "Snowflake Arctic Embed M v1.5", "Represent this sentence for searching relevant passages: "),
        ("bert", "snowflake-arctic-embed-l-v2.0", "query: "),
        ("gemma-embedding", "Embeddinggemma 300m", "task: search result | query: "),
        ("eurobert", "jina-embeddings-v5-text-nano-retrieval", "Query: "),
        ("qwen3", "Jina Embeddings v5 Text Small Retrieval", "Query: "),
        ("qwen2vl", "jina-embeddings-v4-text-retrieval", "Query: "),
        ("llama-embed", "llama-nemotron-embed-1b-v2", "query: "),
        ("qwen2", "Nomic Embed Code", "Represent this query for searching relevant code: "),
        ("bert", "all-MiniLM-L6-v2", None),
        ("bert", "Multilingual E5 Large Instruct", None),
        ("modern-bert", "gte-modernbert-base", None),
        ("bert", "bge-m3", None),
    ],
)
def test_known_models_have_the_prompts_of_their_cards(architecture, name, query):
    """A model with a known name and architecture has the prompts of its card; no other model has any."""
    family = family_of(Traits.of(architecture, [name], 30522))
    assert family.card_of(name.lower()).prompts.get("query") == query


@pytest.mark.parametrize(
    ("architecture", "name"),
    [
        ("bert", "multilingual-e5-large-instruct"),
        ("llama", "E5 Mistral 7b Instruct"),
        ("llama", "SFR-Embedding-Mistral"),
        ("llama", "Linq Embed Mistral"),
        ("qwen2", "gte-Qwen2-1.5B-instruct"),
        ("llama-embed", "llama-embed-nemotron-8b"),
    ],
)
def test_known_instruct_models_have_the_template_with_a_space(architecture, name):
    """Unlike Qwen3-Embedding's, it has a space after the colon."""
    card = family_of(Traits.of(architecture, [name], 30522)).card_of(name.lower())
    assert instruction_prompts(card.instruction_template)["query"].endswith("\nQuery: ")


@pytest.mark.parametrize(
    ("architecture", "name", "smallest"),
    [
        ("nomic-bert", "nomic-embed-text-v1.5", 64),
        ("nomic-bert", "nomic-embed-text-v1", None),
        ("nomic-bert-moe", "nomic-embed-text-v2-moe", 256),
        ("gemma-embedding", "embeddinggemma-300m", 128),
        ("bert", "snowflake-arctic-embed-l-v2.0", 256),
        ("bert", "snowflake-arctic-embed-l", None),
    ],
)
def test_known_models_have_the_dims_of_their_cards(architecture, name, smallest):
    """Models that were trained to be cut have the smallest dims of their card."""
    assert family_of(Traits.of(architecture, [name], 30522)).card_of(name).smallest_dims == smallest


@pytest.mark.parametrize("option", ["prompt", "prompt_name", "instruction"])
@pytest.mark.parametrize("value", [3, b"query", ["query"], {"a": 1}, True, np.array("query"), "\ud83d"], ids=ascii)
def test_prompt_that_is_no_text_is_refused(option: str, value: object):
    """Another type, or a lone surrogate: the message names the argument in one line."""
    with pytest.raises(PromptError, match=f"^{option}=.*(a str is needed|lone surrogate)") as caught:
        pick(**{option: value})
    assert "\n" not in str(caught.value)


def test_prompt_of_numpy_is_a_text():
    """np.str_ is a str."""
    assert pick(prompt=np.str_("é: ")) == "é: "
    assert pick(prompt_name=np.str_("query")) == PROMPTS["query"]


def test_prompts_are_names_and_texts():
    """A mapping of str to str is copied; anything else is refused."""
    given = {"query": "é 한 😉: "}
    assert checked_prompts(given, "query") == given and checked_prompts(given, None) is not given
    for prompts, name in ((["query"], None), ({"query": 1}, None), ({1: "a"}, None), ({"a": "\ud83d"}, None), ({}, 5)):
        with pytest.raises(PromptError):
            checked_prompts(prompts, name)
