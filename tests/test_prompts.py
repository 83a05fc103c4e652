import pytest

from qgguf.errors import PromptError
from qgguf.model.prompts import QWEN3_INSTRUCTION_TEMPLATE, choose, instruction_prompts, known_prompts

PROMPTS = instruction_prompts(QWEN3_INSTRUCTION_TEMPLATE)


def pick(**given):
    asked = {"prompt": None, "prompt_name": None, "instruction": None, "default_name": None, **given}
    return choose(PROMPTS, QWEN3_INSTRUCTION_TEMPLATE, **asked)


def test_the_query_prompt_is_the_model_cards():
    """Letter for letter, with no space after the colon."""
    expected = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"

    assert PROMPTS["query"] == expected
    assert PROMPTS["document"] == ""


@pytest.mark.parametrize(
    "task",
    ["retrieval", "question_answering", "code_search", "similarity", "classification", "clustering", "bitext"],
)
def test_each_common_task_has_a_prompt(task):
    """Every preset is an instruction in the model's template."""
    assert PROMPTS[task].startswith("Instruct: ")
    assert PROMPTS[task].endswith("\nQuery:")


def test_any_instruction_fills_the_template():
    """Braces and other scripts in an instruction stay as they are."""
    assert pick(instruction="Trouve {x} 한 😉") == "Instruct: Trouve {x} 한 😉\nQuery:"


def test_a_prompt_is_taken_as_it_is():
    """A raw prompt wins nothing and loses nothing."""
    assert pick(prompt="é: ") == "é: "


def test_nothing_given_takes_the_default_or_nothing():
    """A plain encode has no prompt unless the model names one."""
    assert pick() == ""
    assert pick(default_name="similarity") == PROMPTS["similarity"]


def test_an_unknown_name_lists_the_known_ones():
    """The message holds every name there is."""
    with pytest.raises(PromptError, match=r"'querry'.*bitext.*query"):
        pick(prompt_name="querry")


def test_two_prompts_at_once_are_refused():
    """Which one was meant is not guessed."""
    with pytest.raises(PromptError, match="prompt and instruction were both given"):
        pick(prompt="a", instruction="b")


def test_an_instruction_without_a_template_is_refused():
    """MiniLM takes no instruction."""
    with pytest.raises(PromptError, match="takes no instructions"):
        choose({}, None, prompt=None, prompt_name=None, instruction="x", default_name=None)


@pytest.mark.parametrize(
    ("name", "query"),
    [
        ("Multilingual E5 Base", "query: "),
        ("e5-small-v2", "query: "),
        ("bge-small-en-v1.5", "Represent this sentence for searching relevant passages: "),
        ("Nomic Embed Text v1.5", "search_query: "),
        ("all-MiniLM-L6-v2", None),
        ("Multilingual E5 Large Instruct", None),
        ("bge-m3", None),
    ],
)
def test_known_models_have_their_cards_prompts(name, query):
    """Prompts of well-known models are found by name, and no other model gets one."""
    assert known_prompts(name).get("query") == query
