"""What the converter must know of an architecture, as a table; and a checkpoint's tensors matched against it."""

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
    """One weight, or one per layer where the names hold "{layer}".

    source  its names in checkpoints, without a prefix; the first is the usual one
    target  its name in GGUF
    shape   keys of `Architecture.sizes`, rows first
    """

    source: tuple[str, ...]
    target: str
    shape: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Parameter:
    """One value of config.json that goes into the GGUF.

    key      GGUF key after "<architecture>."
    config   its key in config.json; "outer.inner" for one inside another
    kind     int or float
    default  for checkpoints that leave it out; None: needed
    older    its key before transformers 5, where that is another
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
    classes      `architectures` in config.json
    prefixes     what may stand before a tensor's name
    weights      all that a checkpoint must hold
    dropped      pattern of names that a checkpoint may hold and an embedding does not need
    parameters   values of config.json in the order llama.cpp's converter writes them
    sizes        config -> the lengths that `weights` are made of; "layers", "heads" and "kv_heads" are among them
    refuse       config -> a sentence on what llama.cpp would compute differently, or None
    poolings     those the model may be used with
    tokenizer    "bpe" or "wordpiece"
    extra        GGUF keys after "<architecture>." that are the same for all models
    """

    name: str
    classes: tuple[str, ...]
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
class Placed:
    """A stored tensor and its name in the GGUF."""

    name: str
    stored: StoredTensor


def choose(architectures: Iterable[Architecture], config: Config) -> Architecture:
    """The table for a config.json.

    raises  CheckpointError: an architecture without a table
    """
    known = list(architectures)
    named = config.get("architectures")
    names = [name for name in named if isinstance(name, str)] if isinstance(named, list) else []
    for architecture in known:
        if any(name in architecture.classes for name in names):
            return architecture
    raise CheckpointError(
        f"config.json says architectures {names or named!r}, which cannot be converted. "
        f"These can: {', '.join(name for architecture in known for name in architecture.classes)}."
    )


def size(config: Config, key: str, default: float | None = None) -> int:
    """A whole number above 0 from config.json.

    raises  CheckpointError
    """
    value = _look_up(config, key)
    value = default if value is None else value
    if type(value) is not int or not 0 < value < 1 << 31:
        seen = f"lacks {key}" if value is None else f"says {key} {value!r}"
        raise CheckpointError(f"config.json {seen}; a whole number above 0 is needed. Download the checkpoint again.")
    return value


def number(config: Config, key: str, default: float | None = None) -> float:
    """A number above 0 from config.json.

    raises  CheckpointError
    """
    value = _look_up(config, key)
    value = default if value is None else value
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1e30:
        seen = f"lacks {key}" if value is None else f"says {key} {value!r}"
        raise CheckpointError(f"config.json {seen}; a number above 0 is needed. Download the checkpoint again.")
    return float(value)


def parameter_value(config: Config, parameter: Parameter) -> float:
    """The value of one parameter, an int where it is of that kind.

    raises  CheckpointError
    """
    key = parameter.older if parameter.older and _look_up(config, parameter.config) is None else parameter.config
    return (size if parameter.kind is int else number)(config, key, parameter.default)


def _look_up(config: Config, key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def place(architecture: Architecture, config: Config, stored: Sequence[StoredTensor]) -> list[Placed]:
    """Name every tensor that the GGUF needs; the dropped ones are left out.

    raises  CheckpointError: missing or unknown tensors, one stored twice, a shape that config.json does not give
    """
    sizes = architecture.sizes(config)
    if sizes["layers"] > len(stored):
        raise CheckpointError(
            f"config.json says {sizes['layers']} layers, the weight files hold {len(stored)} tensors in all. "
            "Give the config.json that belongs to these weights."
        )
    expected = _expected(architecture, sizes)
    found: dict[str, StoredTensor] = {}
    strange = []
    for tensor in stored:
        name = _without_prefix(tensor.name, architecture.prefixes, expected, architecture.dropped)
        target = expected.get(name)
        if target is None:
            strange += [] if architecture.dropped.fullmatch(name) else [tensor.name]
            continue
        if target[0] in found:
            raise CheckpointError(f"The checkpoint stores {name!r} twice, as {tensor.name!r} too. Keep one of them.")
        _check(tensor, target[1])
        found[target[0]] = tensor
    missing = list(dict.fromkeys(name for name in _usual_names(architecture, sizes) if expected[name][0] not in found))
    if missing or strange:
        _complain(missing, strange, architecture.name)
    return [Placed(target, tensor) for target, tensor in found.items()]


def _names(weight: Weight, source: str, sizes: Mapping[str, int]) -> Iterable[tuple[str, str]]:
    if "{layer}" not in weight.target:
        return [(source, weight.target)]
    layers = range(sizes["layers"])
    return [(source.format(layer=layer), weight.target.format(layer=layer)) for layer in layers]


def _expected(architecture: Architecture, sizes: Mapping[str, int]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Source name -> (target name, shape)."""
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


def _check(tensor: StoredTensor, shape: tuple[int, ...]) -> None:
    if tensor.shape != shape:
        raise CheckpointError(
            f"{tensor.file.name} stores {tensor.name!r} as {list(tensor.shape)}, config.json makes it {list(shape)}. "
            "Give the config.json that belongs to these weights."
        )
    if tensor.dtype not in ("F32", "F16", "BF16"):
        raise CheckpointError(
            f"{tensor.file.name} stores {tensor.name!r} as {tensor.dtype}. Give the original BF16, F16 or F32 weights."
        )


def _complain(missing: list[str], strange: list[str], architecture: str) -> None:
    def some(names: list[str]) -> str:
        return f"{len(names)} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"

    said = [f"lacks {some(missing)} of the tensors"] * bool(missing)
    said += [f"has {some(strange)} that are unknown"] * bool(strange)
    raise CheckpointError(
        f"The checkpoint {' and '.join(said)} for {architecture}. Give complete weights that belong to its config.json."
    )
