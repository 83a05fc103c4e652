"""The hub's settings from the environment, as huggingface-hub reads them."""

import importlib
import os
import urllib.parse
from typing import Any

from qgguf.errors import ModelNotFoundError


def hub_settings() -> Any:
    """Return `huggingface_hub.constants`, which holds HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE and others.

    raises  ModelNotFoundError: HF_ENDPOINT is not a URL
    """
    try:
        # huggingface-hub does this when it is imported, but not in release 0.30.
        urllib.parse.urlsplit(os.environ.get("HF_ENDPOINT", ""))
        return importlib.import_module("huggingface_hub.constants")
    except ValueError as error:
        endpoint = os.environ.get("HF_ENDPOINT", "")
        raise ModelNotFoundError(
            f"HF_ENDPOINT={endpoint!r} is not a URL ({error}). Correct it, or unset it."
        ) from error
