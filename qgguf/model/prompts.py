"""Prompts: the texts that go before a text, and which of them a call uses."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from qgguf.errors import PromptError

_INSTRUCTED = re.compile(r"(Instruct: ).+(\nQuery: ?)")
_PLACE = "{instruction}"
_RETRIEVAL = "Given a web search query, retrieve relevant passages that answer the query"

# Task instructions. They are in English, which the authors of such models advise for every language of the texts;
# documents take none.
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


@dataclass(frozen=True, slots=True)
class Prompt:
    """What goes before each text of a call.

    The model's own words may name control tokens, such as `<|im_start|>`, which then are these tokens. In the words of
    a caller's instruction such a name is plain text, as in the texts.

    before       the prompt; with an instruction, what the template has before it
    instruction  the caller's words
    after        what the template has after them
    """

    before: str = ""
    instruction: str = ""
    after: str = ""

    @property
    def text(self) -> str:
        """The whole prompt."""
        return self.before + self.instruction + self.after


NO_PROMPT = Prompt()


def instruction_prompts(template: str) -> dict[str, str]:
    r"""Return the prompts of all tasks for a model that takes instructions; the one of documents is "".

    >>> instruction_prompts("Instruct: {instruction}\nQuery:")["similarity"]
    'Instruct: Retrieve semantically similar text\nQuery:'
    """
    return {name: with_instruction(template, task) for name, task in TASKS.items()} | {"document": ""}


def template_of(query_prompt: str) -> str | None:
    r"""Return the instruction template that a query prompt follows, or None.

    >>> template_of("Instruct: Find é\nQuery: ")
    'Instruct: {instruction}\nQuery: '
    """
    match = _INSTRUCTED.fullmatch(query_prompt)
    return None if match is None else match[1] + _PLACE + match[2]


def with_instruction(template: str, instruction: str) -> str:
    """Return the template with its `{instruction}` filled in; braces in the instruction stay."""
    return template.replace(_PLACE, instruction, 1)


def checked_prompts(prompts: Mapping[str, str], default_name: str | None) -> dict[str, str]:
    """Return a caller's prompts as a dict of str to str.

    raises  PromptError: no mapping, or something else than str in it; a default name that is no str
    """
    if not isinstance(prompts, Mapping):
        raise PromptError(f"prompts={prompts!r}; a dict of names and texts is needed, such as {{'query': 'query: '}}.")
    for name, text in prompts.items():
        if not isinstance(name, str) or not isinstance(text, str):
            raise PromptError(f"prompts has {name!r}: {text!r}; names and texts are str. Use '' for no text.")
        _check_text(f"prompts[{name!r}]", text)
    if default_name is not None:
        _check_text("default_prompt_name", default_name)
    return dict(prompts)


def _check_text(option: str, value: object) -> None:
    """Refuse what is not a str, or has no UTF-8 form.

    raises  PromptError
    """
    if not isinstance(value, str):
        raise PromptError(f"{option}={value!r} is {type(value).__name__}; a str is needed.")
    if any("\ud800" <= letter <= "\udfff" for letter in value):
        raise PromptError(f"{option}={value!r} holds a lone surrogate, which is not a character. Replace it.")


def choose_prompt(
    prompts: Mapping[str, str],
    template: str | None,
    *,
    prompt: str | None,
    prompt_name: str | None,
    instruction: str | None,
    default_name: str | None,
) -> Prompt:
    """Return what goes before each text of a call.

    prompt        used unchanged
    prompt_name   a key of `prompts`
    instruction   filled into `template`
    default_name  used when none of the three is given; None for no prompt
    raises        PromptError: unknown name, no str, two of the three given, an instruction without a template
    """
    options = {"prompt": prompt, "prompt_name": prompt_name, "instruction": instruction}
    for option, value in options.items():
        if value is not None:
            _check_text(option, value)
    given = [name for name, value in options.items() if value is not None]
    if len(given) > 1:
        raise PromptError(f"{' and '.join(given)} were both given; a text takes one prompt. Leave all but one out.")
    if prompt is not None:
        return Prompt(prompt)
    if instruction is not None:
        if template is None:
            raise PromptError("This model takes no instructions. Use prompt= to put any words before a text.")
        before, _, after = template.partition(_PLACE)
        return Prompt(before, instruction, after)
    name = prompt_name if prompt_name is not None else default_name
    if name is None:
        return NO_PROMPT
    if name not in prompts:
        raise PromptError(f"No prompt named {name!r}. This model has: {', '.join(sorted(prompts)) or 'none'}.")
    return Prompt(prompts[name])
