"""Arguments of sentence-transformers that have one possible value here: each is accepted, or refused with the way out.

Programs that were written for sentence-transformers pass them. None of them changes what is computed.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from qgguf.errors import OptionError
from qgguf.option_values import whole_number

_FILE_DECIDES = "It is for PyTorch; the GGUF file and the arguments of Embedder decide here. Leave it out"

OTHER_ATTRIBUTES: Mapping[str, str] = {
    "tokenize": "token_ids(text) returns the ids of a text",
    "preprocess": "token_ids(text) returns the ids of a text",
    "tokenizer": "token_ids(text) returns the ids of a text, and count_tokens(texts) their number",
    "get_max_seq_length": "it is the property max_tokens",
    "to": 'choose the device when the model is opened: Embedder(..., device="gpu")',
    "cuda": 'choose the device when the model is opened: Embedder(..., device="gpu")',
    "cpu": 'choose the device when the model is opened: Embedder(..., device="cpu")',
    "half": "the GGUF file has the type of the weights; choose another quantisation",
    "bfloat16": "the GGUF file has the type of the weights; choose another quantisation",
    "eval": "it is not needed, a model here is never trained",
    "start_multi_process_pool": "encode uses all cores, and memory does not grow with the number of texts",
    "encode_multi_process": "encode uses all cores, and memory does not grow with the number of texts",
    "truncate_embeddings": "give truncate_dim to encode",
    "truncate_sentence_embeddings": "give truncate_dim to encode",
    "save": "copy the file that the property path names",
    "save_pretrained": "copy the file that the property path names",
}
"""Attributes of SentenceTransformer that an Embedder does not have -> what to use instead."""


def flag(name: str, value: object) -> bool:
    """Return an argument that is True or False; numpy's are allowed.

    raises  OptionError naming the argument: a str such as "False" would count as True
    """
    if not isinstance(value, bool | np.bool_):
        raise OptionError(f"{name}={value!r}; True or False is needed.")
    return bool(value)


def check_opening(
    *,
    similarity_fn_name: object,
    trust_remote_code: object,
    revision: object,
    cache_folder: object,
    token: object,
    model_kwargs: object,
    processor_kwargs: object,
    tokenizer_kwargs: object,
    config_kwargs: object,
    backend: object,
) -> None:
    """Refuse arguments of SentenceTransformer(...) that would change something.

    raises  OptionError with the way out
    """
    flag("trust_remote_code", trust_remote_code)  # no code of a repository is ever run: both values are right
    # The argument may be an enum's member.
    function = getattr(similarity_fn_name, "value", similarity_fn_name)
    if function is not None and not (isinstance(function, str) and function == "cosine"):
        raise OptionError(
            f"similarity_fn_name={function!r}; similarity() is the cosine. Leave it out; "
            "for the dot product of vectors a and b: a @ b.T"
        )
    if revision is not None:
        raise OptionError(
            f"revision={revision!r}; a model is opened in the revision on this machine, else in the newest one. "
            "For another one: path = huggingface_hub.hf_hub_download(REPO, FILE, revision=...), then Embedder(path)"
        )
    if cache_folder is not None:
        raise OptionError(
            f"cache_folder={str(cache_folder)!r}; the environment variable HF_HUB_CACHE names the folder of the cached "
            "models. Set it before Python starts, and leave the argument out."
        )
    if token is not None and token is not True:
        raise OptionError(
            "token=...; the token is read from the environment variable HF_TOKEN, else the one that was saved at login "
            "is used. Set HF_TOKEN, and leave the argument out."
        )
    for name, value in (
        ("model_kwargs", model_kwargs),
        ("processor_kwargs", processor_kwargs),
        ("tokenizer_kwargs", tokenizer_kwargs),
        ("config_kwargs", config_kwargs),
    ):
        if value is not None and not (isinstance(value, Mapping) and not value):
            more = "; a limit of tokens is max_tokens=." if name in ("processor_kwargs", "tokenizer_kwargs") else "."
            raise OptionError(f"{name}={value!r}. {_FILE_DECIDES}{more}")
    if backend is not None:
        raise OptionError(f"backend={backend!r}; every model is computed by llama.cpp. Leave it out.")


def check_encode(
    *,
    batch_size: object,
    convert_to_numpy: object,
    convert_to_tensor: object,
    output_value: object,
    device: object,
    model_device: str,
) -> None:
    """Refuse arguments of SentenceTransformer.encode that would change something.

    model_device  "cpu" or "gpu": where the model runs
    raises        OptionError with the way out
    """
    if batch_size is not None and (whole_number(batch_size) or 0) < 1:
        raise OptionError(
            f"batch_size={batch_size!r}; a whole number of 1 or more is needed. It may be left out: texts are put into "
            "batches by their tokens."
        )
    if flag("convert_to_tensor", convert_to_tensor):
        raise OptionError(
            "convert_to_tensor=True; vectors are numpy arrays. Leave it out; torch.from_numpy(vectors) converts them."
        )
    if not flag("convert_to_numpy", convert_to_numpy):
        raise OptionError(
            "convert_to_numpy=False; vectors are numpy arrays. Leave it out; torch.from_numpy(vectors) converts them."
        )
    if not isinstance(output_value, str) or output_value != "sentence_embedding":
        raise OptionError(
            f"output_value={output_value!r}; each text has one vector here, not one for each token. Leave it out."
        )
    if device is not None:
        _check_device(device, model_device)


def _check_device(device: object, model_device: str) -> None:
    """Refuse another device than that of the model; "cuda:0" and a torch.device are allowed."""
    kind = getattr(device, "type", device)
    kind = kind.partition(":")[0] if isinstance(kind, str) else ""
    is_gpu = kind in ("gpu", "cuda", "mps", "xpu")
    if kind != "auto" and not (kind == "cpu" and model_device == "cpu") and not (is_gpu and model_device == "gpu"):
        raise OptionError(
            f"device={device!r}; this model runs on the {model_device}. Choose the device when it is opened: "
            'Embedder(..., device="cpu") or device="gpu".'
        )


def explain_attribute(kind: type[Any], name: str) -> str:
    """Return the message for an attribute that an object does not have."""
    instead = OTHER_ATTRIBUTES.get(name)
    return f"{kind.__name__!r} object has no attribute {name!r}" + (f"; {instead}" if instead else "")
