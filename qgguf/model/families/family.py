"""Family: what is known of a family of models beside the values of a file's header."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from qgguf.model.spec import Pooling


@dataclass(frozen=True, slots=True)
class Traits:
    """The values that a family is recognised by, alike in a GGUF file and in a checkpoint to be converted.

    architecture  general.architecture
    names         general.name, general.basename and general.finetune in lower case, separated by spaces
    vocab_size    tokens in the vocabulary
    """

    architecture: str
    names: str
    vocab_size: int

    @classmethod
    def of(cls, architecture: str, names: Iterable[str], vocab_size: int) -> "Traits":
        """Return the traits of a model with these names, in any case."""
        return cls(architecture, " ".join(names).lower(), vocab_size)


def _always(traits: Traits) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Family:
    """A family of models.

    name                  for messages
    architectures         values of general.architecture
    recognises            traits -> whether a model of these architectures belongs to the family
    causal                attention, where the header does not declare it
    pooling               where the header declares none; None: unknown
    end_token             the token that ends each text of a last-token model, where the header does not ask for one
    ignores_add_eos       texts end with `end_token` even where the header declares that they do not
    prompts               (pattern that is searched in the model's name in lower case, prompt name -> text)
    instruction_template  text with "{instruction}" in it; None: the models take no instruction
    smallest_dims         the models are trained to be cut to this many dims and more; None: not trained for it
    exact_compute_buffer  whether `memory.compute_buffer` models the graph of these models exactly
    """

    name: str
    architectures: tuple[str, ...]
    recognises: Callable[[Traits], bool] = _always
    causal: bool = True
    pooling: Pooling | None = None
    end_token: str | None = None
    ignores_add_eos: bool = False
    prompts: tuple[tuple[str, Mapping[str, str]], ...] = ()
    instruction_template: str | None = None
    smallest_dims: int | None = None
    exact_compute_buffer: bool = False

    def prompts_of(self, model_name: str) -> dict[str, str]:
        """Return the prompts of a model's card, prompt name -> text; {} where none are known.

        model_name  general.name
        """
        name = model_name.lower()
        if "instruct" in name:  # such models take instructions instead, E5's too
            return {}
        return next((dict(prompts) for pattern, prompts in self.prompts if re.search(pattern, name)), {})
