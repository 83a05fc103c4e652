"""Options of one call of the Embedder."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeOptions:
    """What a caller may choose for one `encode`; see `qgguf.Embedder.encode` for each.

    No field has a default here, so that a method that forgets to pass one on is a type error.
    """

    prompt: str | None
    prompt_name: str | None
    instruction: str | None
    truncate_dim: int | None
    normalize_embeddings: bool
    precision: str
    show_progress_bar: bool | None
    truncate: str | None

    @property
    def names_prompt(self) -> bool:
        """Whether the caller chose a prompt in any way."""
        return self.prompt is not None or self.prompt_name is not None or self.instruction is not None
