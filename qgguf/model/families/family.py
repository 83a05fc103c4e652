"""Family and Card: what is known of models beside the values of a file's header."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from qgguf.model.spec import Pooling

SPACED_TEMPLATE = "Instruct: {instruction}\nQuery: "
"""The instruction template of many models. Qwen3-Embedding's has no space at its end."""


@dataclass(frozen=True, slots=True)
class Traits:
    """The values that a family is recognised by, alike in a GGUF file and in a checkpoint to be converted.

    architecture  general.architecture
    names         general.name, general.basename and general.finetune in lower case, separated by spaces
    vocab_size    tokens in the vocabulary
    instruction_template  that of the model's own query prompt; None where it has none
    """

    architecture: str
    names: str
    vocab_size: int
    instruction_template: str | None = None

    @classmethod
    def of(
        cls, architecture: str, names: Iterable[str], vocab_size: int, instruction_template: str | None = None
    ) -> "Traits":
        """Return the traits of a model with these names, in any case."""
        return cls(architecture, " ".join(names).lower(), vocab_size, instruction_template)


def _always(traits: Traits) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Card:
    """Facts from the model cards of some models of a family.

    pattern               regular expression that is searched in the names in lower case
    prompts               prompt name -> text
    instruction_template  text with "{instruction}" in it; None: the models take no instruction
    smallest_dims         the models are trained to be cut to this many dims and more; None: not trained for it
    pooling               where the header declares none
    end_token             the token that ends each text, where the header does not ask for one
    prompt_is_unknown     queries need a prompt that is not known here
    warning               why the vectors of a GGUF file of these models are not the checkpoint's; "" where they are
    """

    pattern: str = ""
    prompts: Mapping[str, str] = field(default_factory=dict)
    instruction_template: str | None = None
    smallest_dims: int | None = None
    pooling: Pooling | None = None
    end_token: str | None = None
    prompt_is_unknown: bool = False
    warning: str = ""


_NO_CARD = Card()


@dataclass(frozen=True, slots=True)
class Family:
    """A family of models.

    name                  for messages
    architectures         values of general.architecture
    recognises            traits -> whether a model of these architectures belongs to the family
    causal                attention, where the header does not declare it
    decoder               llama.cpp has a KV cache and a vocabulary projection for these architectures
    frames_texts          a start and an end token are around each text, where the header does not declare it
    ignores_add_eos       texts end with the end token even where the header declares that they do not
    needed_tensors        names, each with the reason why the vectors are wrong without it
    exact_compute_buffer  whether `memory.compute_buffer` models the graph of these models exactly
    cards                 facts by the models' names; the first that matches counts
    """

    name: str
    architectures: tuple[str, ...]
    recognises: Callable[[Traits], bool] = _always
    causal: bool = True
    decoder: bool = True
    frames_texts: bool = False
    ignores_add_eos: bool = False
    needed_tensors: Mapping[str, str] = field(default_factory=dict)
    exact_compute_buffer: bool = False
    cards: tuple[Card, ...] = ()

    def card_of(self, names: str) -> Card:
        """Return the card of a model; one without any facts where none is known.

        names  as in `Traits`
        """
        return next((card for card in self.cards if re.search(card.pattern, names)), _NO_CARD)
