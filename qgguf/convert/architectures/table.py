"""Architecture: a table of what the converter must know of one, and the matching of a checkpoint's tensors to it."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qgguf.convert.safetensors import StoredTensor
from qgguf.errors import CheckpointError
from qgguf.model.spec import Pooling

Config = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Weight:
    """One weight; with "{layer}" in the names, one weight of each layer.

    source  its names in checkpoints, without a prefix; the first one is the most common
    target  its name in GGUF
    shape   keys of `Architecture.sizes`, rows first
    """

    source: tuple[str, ...]
    target: str
    shape: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Parameter:
    """One value of config.json that is written to the GGUF.

    key      GGUF key after "<architecture>."
    config   its key in config.json; "outer.inner" for a nested one
    kind     int or float
    default  for checkpoints without it; None: required
    older    its key before transformers 5, if that is another
    """

    key: str
    config: str
    kind: type[int] | type[float]
    default: float | None = None
    older: str = ""


@dataclass(frozen=True, slots=True)
class Architecture:
    """One architecture.

    name         general.architecture
    classes      values of `architectures` in config.json
    model_type   value of `model_type` in config.json, which decides where there is no `architectures`
    prefixes     prefixes that a tensor's name may have
    weights      the weights that a checkpoint must hold
    dropped      pattern of tensor names that an embedding does not need
    parameters   values of config.json in the order in which llama.cpp's converter writes them
    sizes        config -> the lengths that the shapes of `weights` name, with "layers", "heads" and "kv_heads"
    refuse       config -> the reason why llama.cpp would compute other vectors, or None
    poolings     the poolings that its models may have
    tokenizer    "bpe" or "wordpiece"
    extra        (GGUF key after "<architecture>.", value) that are the same for all models
    """

    name: str
    classes: tuple[str, ...]
    model_type: str
    prefixes: tuple[str, ...]
    weights: tuple[Weight, ...]
    dropped: re.Pattern[str]
    parameters: tuple[Parameter, ...]
    sizes: Callable[[Config], dict[str, int]]
    refuse: Callable[[Config], str | None]
    poolings: tuple[Pooling, ...]
    tokenizer: str
    extra: tuple[tuple[str, bool], ...] = ()


@dataclass(frozen=True, slots=True)
class NamedTensor:
    """A stored tensor and its name in the GGUF."""

    name: str
    stored: StoredTensor


def architecture_of(architectures: Iterable[Architecture], config: Config) -> Architecture:
    """Return the architecture of a config.json.

    raises  CheckpointError: none of these
    """
    known = list(architectures)
    declared = config.get("architectures")
    if declared is None or declared == []:
        declared = _class_of_type(known, config.get("model_type"))
    names = [name for name in declared if isinstance(name, str)] if isinstance(declared, list) else []
    for architecture in known:
        if any(name in architecture.classes for name in names):
            return architecture
    raise CheckpointError(
        f"config.json has architectures {names or declared!r}, which cannot be converted. "
        f"These can: {', '.join(name for architecture in known for name in architecture.classes)}."
    )


def _class_of_type(known: Iterable[Architecture], model_type: object) -> list[str] | None:
    """Return the class of a model whose config.json has no `architectures`, as files of older programs."""
    for architecture in known:
        if architecture.model_type == model_type:
            return [architecture.classes[0]]
    if model_type is None:
        raise CheckpointError(
            "config.json has neither architectures nor model_type. Use the config.json of the original checkpoint."
        )
    return [str(model_type)]


def is_dropped(architecture: Architecture, name: str) -> bool:
    """Return whether an embedding does not need the tensor of this name."""
    names = (name, *(name.removeprefix(prefix) for prefix in architecture.prefixes))
    return any(architecture.dropped.fullmatch(one) for one in names)


def size(config: Config, key: str, default: float | None = None) -> int:
    """Return a whole number above 0 from config.json.

    default  returned where the key is missing or null; None: the key is required
    raises   CheckpointError: missing, or no such number
    """
    value = _look_up(config, key)
    value = default if value is None else value
    if type(value) is not int or not 0 < value < 1 << 31:
        seen = f"lacks {key}" if value is None else f"has {key} {value!r}"
        raise CheckpointError(f"config.json {seen}; a whole number above 0 is needed. Download the checkpoint again.")
    return value


def number(config: Config, key: str, default: float | None = None) -> float:
    """Return a number above 0 from config.json.

    default  as of `size`
    raises   CheckpointError: missing, or no such number
    """
    value = _look_up(config, key)
    value = default if value is None else value
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1e30:
        seen = f"lacks {key}" if value is None else f"has {key} {value!r}"
        raise CheckpointError(f"config.json {seen}; a number above 0 is needed. Download the checkpoint again.")
    return float(value)


def parameter_value(config: Config, parameter: Parameter) -> float:
    """Return the value of one parameter, an int if it is of that kind.

    raises  CheckpointError: missing, or no number above 0
    """
    key = parameter.older if parameter.older and _look_up(config, parameter.config) is None else parameter.config
    return (size if parameter.kind is int else number)(config, key, parameter.default)


def _look_up(config: Config, key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def name_tensors(architecture: Architecture, config: Config, stored: Sequence[StoredTensor]) -> list[NamedTensor]:
    """Return every tensor that the GGUF needs with its name there, without the dropped ones.

    raises  CheckpointError: missing or unknown tensors, one stored twice, another shape than config.json gives
    """
    sizes = architecture.sizes(config)
    if sizes["layers"] > len(stored):
        raise CheckpointError(
            f"config.json has {sizes['layers']} layers, the weight files hold {len(stored)} tensors in all. "
            "Give the config.json that belongs to these weights."
        )
    expected = _expected(architecture, sizes)
    named: dict[str, StoredTensor] = {}
    unknown = []
    for tensor in stored:
        name = _without_prefix(tensor.name, architecture.prefixes, expected, architecture.dropped)
        target = expected.get(name)
        if target is None:
            if not architecture.dropped.fullmatch(name):
                unknown.append(tensor.name)
            continue
        if target[0] in named:
            raise CheckpointError(f"The checkpoint stores {name!r} twice, as {tensor.name!r} too. Keep one of them.")
        _check_tensor(tensor, target[1])
        named[target[0]] = tensor
    missing = list(dict.fromkeys(name for name in _usual_names(architecture, sizes) if expected[name][0] not in named))
    if missing or unknown:
        raise _wrong_tensors(missing, unknown, architecture.name)
    return [NamedTensor(target, tensor) for target, tensor in named.items()]


def _names(weight: Weight, source: str, sizes: Mapping[str, int]) -> Iterable[tuple[str, str]]:
    if "{layer}" not in weight.target:
        return [(source, weight.target)]
    layers = range(sizes["layers"])
    return [(source.format(layer=layer), weight.target.format(layer=layer)) for layer in layers]


def _expected(architecture: Architecture, sizes: Mapping[str, int]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return source name -> (target name, shape)."""
    return {
        name: (target, tuple(sizes[word] for word in weight.shape))
        for weight in architecture.weights
        for source in weight.source
        for name, target in _names(weight, source, sizes)
    }


def _usual_names(architecture: Architecture, sizes: Mapping[str, int]) -> Iterable[str]:
    return [name for weight in architecture.weights for name, _ in _names(weight, weight.source[0], sizes)]


def _without_prefix(
    name: str, prefixes: tuple[str, ...], expected: Mapping[str, object], dropped: re.Pattern[str]
) -> str:
    shorter = [name.removeprefix(prefix) for prefix in prefixes]
    return next((short for short in (name, *shorter) if short in expected or dropped.fullmatch(short)), name)


def _check_tensor(tensor: StoredTensor, shape: tuple[int, ...]) -> None:
    if tensor.shape != shape:
        raise CheckpointError(
            f"{tensor.file.name} stores {tensor.name!r} as {list(tensor.shape)}, config.json makes it {list(shape)}. "
            "Give the config.json that belongs to these weights."
        )
    if tensor.dtype not in ("F32", "F16", "BF16"):
        raise CheckpointError(
            f"{tensor.file.name} stores {tensor.name!r} as {tensor.dtype}. Give the original BF16, F16 or F32 weights."
        )


def _wrong_tensors(missing: list[str], unknown: list[str], architecture: str) -> CheckpointError:
    def some(names: list[str]) -> str:
        return f"{len(names)} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"

    faults = []
    if missing:
        faults.append(f"lacks {some(missing)} of the tensors")
    if unknown:
        faults.append(f"has {some(unknown)} that are unknown")
    return CheckpointError(
        f"The checkpoint {' and '.join(faults)} for {architecture}. "
        "Give complete weights that belong to its config.json."
    )
