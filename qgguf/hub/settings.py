"""What the environment says about the hub, as huggingface-hub reads it."""

import importlib
import os
from typing import Any

from qgguf.errors import ModelNotFoundError


def hub_settings() -> Any:
    """huggingface_hub.constants: what the environment says (HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE, ...).

    raises  ModelNotFoundError where huggingface-hub cannot even be imported for what it says
    """
    try:
        return importlib.import_module("huggingface_hub.constants")
    except ValueError as error:
        endpoint = os.environ.get("HF_ENDPOINT", "")
        raise ModelNotFoundError(f"HF_ENDPOINT={endpoint!r} is no URL ({error}). Correct it, or unset it.") from error
