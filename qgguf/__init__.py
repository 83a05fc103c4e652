"""Text embeddings from GGUF files, on llama.cpp, without torch.

The public names are those of this module's `__all__`, the errors of `qgguf.errors` and the functions of
`qgguf.vectors`. Everything else may move between releases.
"""

from typing import TYPE_CHECKING, Any

from qgguf._version import __version__
from qgguf.errors import QgError

if TYPE_CHECKING:
    from qgguf.convert.converter import convert_checkpoint
    from qgguf.embedder import Embedder, Embeddings
    from qgguf.hub.cache import LocalModel, list_models
    from qgguf.hub.resolve import pull
    from qgguf.inference.stats import EngineStats
    from qgguf.memory.planner import Plan
    from qgguf.model.spec import ModelSpec, Pooling
    from qgguf.native.strategy import Strategy

__all__ = [
    "Embedder",
    "Embeddings",
    "EngineStats",
    "LocalModel",
    "ModelSpec",
    "Plan",
    "Pooling",
    "QgError",
    "Strategy",
    "__version__",
    "convert_checkpoint",
    "list_models",
    "pull",
]

_HOMES = {
    "Embedder": "embedder",
    "Embeddings": "embedder",
    "EngineStats": "inference.stats",
    "LocalModel": "hub.cache",
    "ModelSpec": "model.spec",
    "Plan": "memory.planner",
    "Pooling": "model.spec",
    "Strategy": "native.strategy",
    "convert_checkpoint": "convert.converter",
    "list_models": "hub.cache",
    "pull": "hub.resolve",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: numpy and llama.cpp take longer to load than all the rest."""
    if name not in _HOMES:
        raise AttributeError(f"module 'qgguf' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"qgguf.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
