"""Models by name: the catalogue, verified downloads, and the Hugging Face cache. Knows nothing about llama.cpp."""

from qgguf.hub.cache import LocalModel, list_models, remove
from qgguf.hub.remote_header import read_remote_header
from qgguf.hub.resolve import default_model, locate, pull, resolve
from qgguf.hub.snapshot import fetch_checkpoint

__all__ = [
    "LocalModel",
    "default_model",
    "fetch_checkpoint",
    "list_models",
    "locate",
    "pull",
    "read_remote_header",
    "remove",
    "resolve",
]
