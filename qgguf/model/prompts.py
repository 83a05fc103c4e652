"""Prompts: what is put before a text, per model and per task. Pure text."""

import re
from collections.abc import Mapping

from qgguf.errors import PromptError

QWEN3_INSTRUCTION_TEMPLATE = "Instruct: {instruction}\nQuery:"
"""No space after the colon: the model was trained so.  source: get_detailed_instruct on the model card."""

_RETRIEVAL = "Given a web search query, retrieve relevant passages that answer the query"

# Task sentences in English, as the model's authors advise for every language; documents take none of them.
TASKS: Mapping[str, str] = {
    "query": _RETRIEVAL,
    "retrieval": _RETRIEVAL,
    "question_answering": "Given a question, retrieve passages that answer the question",
    "code_search": "Given a natural language search query, retrieve code that solves or matches it",
    "similarity": "Retrieve semantically similar text",
    "classification": "Identify the category of the given text",
    "clustering": "Identify the topic or theme of the given text",
    "bitext": "Retrieve the translation of the given sentence",
}

DOCUMENT_PROMPT_NAMES = ("document", "passage", "corpus")
QUERY_PROMPT_NAMES = ("query",)


def instruction_prompts(template: str) -> dict[str, str]:
    """Prompts of all tasks for a model that takes instructions; documents have none.

    >>> instruction_prompts("Instruct: {instruction}\\nQuery:")["similarity"]
    'Instruct: Retrieve semantically similar text\\nQuery:'
    """
    return {name: with_instruction(template, task) for name, task in TASKS.items()} | {"document": ""}


def with_instruction(template: str, instruction: str) -> str:
    """The template with its `{instruction}` filled; braces in the instruction stay as they are."""
    return template.replace("{instruction}", instruction)


# Models whose files carry no prompts of ours, by general.name / general.basename.
_KNOWN: tuple[tuple[str, dict[str, str]], ...] = (
    (r"\be5[-_ ](small|base|large)", {"query": "query: ", "document": "passage: "}),
    (
        r"\bbge[-_ ](small|base|large)[-_ ]en",
        {"query": "Represent this sentence for searching relevant passages: ", "document": ""},
    ),
    (r"\bnomic[-_ ]embed", {"query": "search_query: ", "document": "search_document: "}),
    (
        r"mxbai[-_ ]embed[-_ ]large",
        {"query": "Represent this sentence for searching relevant passages: ", "document": ""},
    ),
)


def known_prompts(model_name: str) -> dict[str, str]:
    """Prompts from the model cards of well-known models; empty for others.

    >>> known_prompts("Multilingual E5 Small")["query"]
    'query: '
    >>> known_prompts("All MiniLM L6 v2")
    {}
    """
    name = model_name.lower()
    if "instruct" in name:  # the e5-instruct models take instructions, not these two words
        return {}
    return next((dict(prompts) for pattern, prompts in _KNOWN if re.search(pattern, name)), {})


def choose(
    prompts: Mapping[str, str],
    template: str | None,
    *,
    prompt: str | None,
    prompt_name: str | None,
    instruction: str | None,
    default_name: str | None,
) -> str:
    """The text to put before each text.

    prompt        taken as it is
    prompt_name   a key of `prompts`
    instruction   put into `template`
    default_name  used when none of the three is given; None for no prompt
    raises        PromptError: unknown name, two of the three at once, an instruction without a template
    """
    given = [
        word
        for word, value in (("prompt", prompt), ("prompt_name", prompt_name), ("instruction", instruction))
        if value is not None
    ]
    if len(given) > 1:
        raise PromptError(f"{' and '.join(given)} were both given; a text takes one prompt. Leave all but one out.")
    if prompt is not None:
        return prompt
    if instruction is not None:
        if template is None:
            raise PromptError("This model takes no instructions. Use prompt= to put any words before a text.")
        return with_instruction(template, instruction)
    name = prompt_name if prompt_name is not None else default_name
    if name is None:
        return ""
    if name not in prompts:
        raise PromptError(f"No prompt named {name!r}. This model has: {', '.join(sorted(prompts)) or 'none'}.")
    return prompts[name]
