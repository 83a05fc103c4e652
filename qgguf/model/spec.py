"""ModelSpec and Pooling: the description of a model, without file access or native calls."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from qgguf.errors import OptionError


class Pooling(IntEnum):
    """How a text's vector is made from its token rows; the values are those of the GGUF key `*.pooling_type`."""

    NONE = 0
    MEAN = 1
    CLS = 2
    LAST = 3
    RANK = 4

    @classmethod
    def from_name(cls, text: str) -> "Pooling":
        """Return the pooling with this name: one of `POOLING_NAMES`, in upper or lower case.

        raises  OptionError: another name

        >>> Pooling.from_name("last")
        <Pooling.LAST: 3>
        """
        name = text.lower() if isinstance(text, str) else ""
        name = "last" if name == "lasttoken" else name  # sentence-transformers' own name for it
        if name not in POOLING_NAMES:
            raise OptionError(f"pooling={text!r} is unknown. Choose one of: {', '.join(POOLING_NAMES)}.")
        return cls[name.upper()]

    @property
    def makes_vectors(self) -> bool:
        """Whether this pooling gives one vector for each text. RANK gives a score, NONE a row for each token."""
        return self.name.lower() in POOLING_NAMES


POOLING_NAMES = ("mean", "cls", "last")
"""The poolings that a user may name, in the order in which help and messages list them."""


ATTENTIONS = ("causal", "bidirectional")
"""The kinds of attention that a user may name: to the tokens before, or to all tokens of the text."""


@dataclass(frozen=True, slots=True)
class SpecChoices:
    """What a caller knows better than a file.

    pooling    None: the file's
    causal     None: the file's
    end_token  text of a token of the vocabulary; "": texts end without one; None: the file's
    """

    pooling: Pooling | None = None
    causal: bool | None = None
    end_token: str | None = None

    @classmethod
    def of(cls, pooling: str | None, attention: str | None, end_token: str | None) -> "SpecChoices":
        """Return the choices as they are named in `qgguf.Embedder`.

        raises  OptionError: another pooling or attention
        """
        if attention is not None and attention not in ATTENTIONS:
            raise OptionError(f"attention={attention!r} is unknown. Choose one of: {', '.join(ATTENTIONS)}.")
        return cls(
            pooling=None if pooling is None else Pooling.from_name(pooling),
            causal=None if attention is None else attention == "causal",
            end_token=end_token,
        )


FILES_OWN = SpecChoices()


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Description of a model: the values of its GGUF header, corrected where the header is known to be wrong.

    name                 general.name, else general.basename, else the file's stem
    architecture         general.architecture: "qwen3", "bert", ...
    quantization         general.file_type as a word: "Q4_K_M", "F16", ...
    size_bytes           the file's size
    n_params             number of weights in all tensors
    n_layers             number of layers
    dims                 full length of a vector
    n_heads, n_kv_heads  number of attention heads; of key and value heads
    head_dim             width of one key head
    vocab_size           number of tokens in the vocabulary
    context_length       number of positions that the model was trained with
    max_tokens           the checkpoint's own max_seq_length; None where it declares none
    causal               each token attends only to itself and the tokens before it; else to all tokens of its text
    is_decoder           its architecture has a KV cache and a vocabulary projection, whatever its attention
    pooling              None where the file declares none and none could be inferred
    start_token_id       id that must begin each text although the header does not ask for it; mostly None
    end_token_id         id that must end each text; None where the model has none
    end_token            the text of this token
    prompts              prompt name -> text that goes before a text
    default_prompt_name  prompt of a plain `encode`; None for no prompt
    instruction_template with "{instruction}" in it; None where the model takes no instruction
    mrl_dims             (smallest, largest) dims that the model was trained to be cut to; None: not trained for it
    source_repo, source_revision, source_sha256   origin of the weights; "" or () if unknown
    corrections          what was missing or wrong in the header and which value is used instead, a sentence each
    warnings             why vectors may differ from the checkpoint's, a sentence each
    prompt_is_unknown    queries need a prompt that neither the file nor qgguf knows
    end_token_is_chosen  the caller named the end token, which replaces all that the file puts after a text
    exact_compute_buffer whether `memory.compute_buffer` models this model's graph exactly, not only approximately
    """

    name: str
    architecture: str
    quantization: str
    size_bytes: int
    n_params: int
    n_layers: int
    dims: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    vocab_size: int
    context_length: int
    max_tokens: int | None
    causal: bool
    pooling: Pooling | None
    end_token_id: int | None
    end_token: str | None
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    instruction_template: str | None = None
    mrl_dims: tuple[int, int] | None = None
    source_repo: str = ""
    source_revision: str = ""
    source_sha256: tuple[str, ...] = ()
    corrections: tuple[str, ...] = ()
    exact_compute_buffer: bool = False
    start_token_id: int | None = None
    is_decoder: bool = True
    warnings: tuple[str, ...] = ()
    prompt_is_unknown: bool = False
    end_token_is_chosen: bool = False

    def pools_last_row(self, pooling: Pooling | None = None) -> bool:
        """Return whether a text's vector is the row of its last token, so that no other row has to leave the model.

        pooling  the pooling in use, if it is not the file's
        """
        return self.causal and (self.pooling if pooling is None else pooling) is Pooling.LAST
