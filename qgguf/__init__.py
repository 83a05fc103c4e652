"""Text embeddings from GGUF files, on llama.cpp, without torch."""

from typing import TYPE_CHECKING, Any

from qgguf._version import __version__
from qgguf.errors import QgError

if TYPE_CHECKING:
    from qgguf.convert.converter import convert_checkpoint
    from qgguf.embedder import Embedder, Embeddings

__all__ = ["Embedder", "Embeddings", "QgError", "__version__", "convert_checkpoint"]

_HOMES = {"Embedder": "embedder", "Embeddings": "embedder", "convert_checkpoint": "convert.converter"}


def __getattr__(name: str) -> Any:
    """Load what is used when it is used: numpy and llama.cpp take longer than all the rest."""
    if name not in _HOMES:
        raise AttributeError(f"module 'qgguf' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"qgguf.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
