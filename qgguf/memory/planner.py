"""Estimate a model's GPU and host memory, and choose the best settings that fit a budget. Pure.

The figures follow llama.cpp's own arithmetic and are checked against what llama.cpp reports when it loads on a CPU
(scripts/check_memory.py): weights, KV cache, compute buffer, output rows, the repacked copy. Not checked on a GPU yet:
the driver's share (GPU_CONTEXT_BYTES), the working copies of its kernels, and the half-precision copies that CUDA's
attention makes of a quantised cache. The rest of a GPU's memory is compared with what llama.cpp reserves on Mesa's
software device, by its Vulkan backend (tests/test_gpu.py). The compute buffer is computed from the graph for Qwen3 and
BERT (at most 3.4 % off); for others it is an estimate with a margin (COMPUTE_BUFFER_MARGIN). The program's own memory
is a measured constant.

An example: two layers of 1 MB that see 2048 tokens (2304 KV cells, those for prompts included):

>>> tiny = ModelSizes(
...     n_layers=2, dims=256, n_heads=4, n_kv_heads=2, head_dim=64, ffn=768, vocab_size=1000, context_length=4096,
...     default_tokens=2048, decoder=True, last_rows=True, exact_compute_buffer=True,
...     layers=({"Q8_0": 1_000_000}, {"Q8_0": 1_000_000}), input_bytes=272_000, output_norm_bytes=1024)
>>> plan(tiny, PlanRequest(vram=240_000_000)).n_gpu_layers
2

Its KV cache holds a key and a value of 2 * 64 numbers of 2 bytes for each cell and layer: 2 * 2304 * 2 * 128 * 2 bytes.

>>> cache = next(part for part in plan(tiny, PlanRequest(vram=240_000_000)).parts if part.name == "KV cache (GPU)")
>>> cache.size_bytes, 2 * 2304 * 2 * 128 * 2
(2359296, 2359296)

The tied output matrix is only looked up, on the host, and never multiplied (see native/row_reader.py), so no GPU holds
it in this plan.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product

from qgguf.errors import BudgetError, OptionError
from qgguf.memory.compute_buffer import GraphShape, compute_buffer_bytes
from qgguf.option_values import LEAST_MAX_TOKENS, whole_number
from qgguf.units import in_gigabytes

KV_TYPES: Mapping[str, float] = {"f16": 2.0, "q8_0": 34 / 32, "q4_0": 18 / 32}
"""KV cache type -> bytes per number, the best first."""

KV_COSTS: Mapping[str, str] = {
    "f16": "",
    "q8_0": "the KV cache in 8 bits: vectors of cosine 0.997 or more to those of 16 bits",
    "q4_0": "the KV cache in 4 bits: vectors of cosine 0.94 to 0.98 to those of 16 bits",
}
"""What a KV cache type costs, measured on random weights of the 0.6B shape and of a smaller one
(scripts/measure_kv.py); not measured on real weights yet."""

REPACKED = frozenset(["Q4_0", "Q4_K", "IQ4_NL", "MXFP4"])
"""Types that llama.cpp keeps in a second layout on x86 with AVX2; on ARM also Q5_K, Q6_K and Q8_0."""

_REPACKED_ON_ARM = REPACKED | {"Q5_K", "Q6_K", "Q8_0"}

GPU_CONTEXT_BYTES = 200 << 20
"""What a driver takes for a process before its first tensor: an assumption for CUDA, not measured yet."""

_FLASH_HEAD_DIMS = frozenset([40, 64, 72, 80, 96, 112, 128, 256])
"""Head sizes for which CUDA has flash attention, without conditions (ggml-cuda/fattn.cu). MiniLM's 32 is not one."""

DRIVER_PARTS = ("kernels' working copies", "driver")
"""Names of the parts of a GPU's memory that llama.cpp does not report: upper limits, and less with some drivers."""

COMPUTE_BUFFER_MARGIN = 0.15
"""Share that is added to the compute buffer of a model whose graph `memory.compute_buffer` does not model."""

COMPUTE_BUFFER_NOTE = (
    f"estimated, with a margin of {100 * COMPUTE_BUFFER_MARGIN:.0f} %: the graph of this architecture is not modelled"
)
"""The line that users see where the margin applies."""

PROGRAM_BYTES = 120_000_000
"""Interpreter, numpy and llama.cpp."""

BYTES_PER_TOKEN_NAME = 400
"""Bytes per token of the vocabulary's tables, llama.cpp's and our own."""

DEFAULT_MAX_TOKENS = 8192
"""Token limit where a checkpoint declares none: the length with which Qwen3-Embedding's authors evaluate it."""

SMALLEST_LIMIT = 2048
"""The planner never lowers the token limit below this by itself: most passages are shorter."""

LOGIT_BYTES, MOST_SEQUENCES, LEAST_SEQUENCES = 40_000_000, 256, 64
"""llama.cpp keeps a row of logits for each sequence: bytes for all of them, the largest and the smallest number."""

KEPT_PREFIXES, KEPT_TOKENS = 4, 256
"""Prompts that stay in the KV cache between calls, and their tokens in total."""

MOST_LANES = 8
"""Largest number of contexts that an encoder uses in parallel."""

# (micro-batch, tokens in a batch): for texts that may be split, and for texts that must be computed in one piece, where
# a longer text enlarges the micro-batch. The best first; figures: docs/laboratory-log.md.
_BATCHES = ((512, 512), (256, 256), (128, 128))
_ONE_PASS_BATCHES = ((512, 256), (256, 256))
_CELL_PADDING = 256
_POOL_STEP = 2 << 20


@dataclass(frozen=True, slots=True)
class ModelSizes:
    """Sizes of a model, from a GGUF file's header; `model.from_gguf.sizes_of` reads them.

    n_layers, dims, n_heads, n_kv_heads, head_dim, ffn, vocab_size, context_length
    default_tokens     longest text where the user names no limit
    decoder            has a KV cache and a vocabulary projection, whatever its attention; else an encoder
    last_rows          a text's vector is its last token's row, so that texts may be split and few rows leave the model
    exact_compute_buffer  memory.compute_buffer models this model's graph; else the planner adds a margin
    experts            experts that compute each token; 1 where there are none
    post_norm          the layers normalise after their sums, as BERT's
    sliding_window     some layers see the last tokens only
    means              llama.cpp pools by the mean; only where not last_rows
    gated              the feed-forward part has a gate
    layers             for each layer: type of its matrices -> bytes; norms and biases are under "other"
    input_bytes        token and position embeddings: only looked up, always on the host
    input_type         type of the token embedding
    output_bytes       output matrix; 0 where it is tied to the token embedding
    output_norm_bytes  final norm
    """

    n_layers: int
    dims: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    ffn: int
    vocab_size: int
    context_length: int
    default_tokens: int
    decoder: bool
    last_rows: bool
    exact_compute_buffer: bool
    layers: tuple[Mapping[str, int], ...]
    input_bytes: int
    output_norm_bytes: int
    means: bool = False
    gated: bool = True
    experts: int = 1
    post_norm: bool = False
    sliding_window: bool = False
    input_type: str = "Q6_K"
    output_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the memory that a model takes.

    memory  "CPU" or "GPU"
    mapped  pages of the model's file: the system may drop them and read them again
    """

    name: str
    memory: str
    size_bytes: int
    mapped: bool = False


@dataclass(frozen=True, slots=True)
class Settings:
    """How a model is run, as far as memory is concerned.

    n_gpu_layers  layers on the GPU, the last ones; llama.cpp's number of the same name counts the output too
    kv_type       a key of KV_TYPES
    max_tokens    longest text
    cells         tokens that fit the context at once, at least max_tokens
    batch_tokens  tokens in a batch of several texts
    micro_batch   tokens that llama.cpp computes at once
    n_sequences   texts in a batch, and the prompts that stay in the KV cache
    repack        make the CPU's faster layout of the weights
    lanes         contexts side by side over the same weights
    """

    n_gpu_layers: int
    kv_type: str
    max_tokens: int
    cells: int
    batch_tokens: int
    micro_batch: int
    n_sequences: int
    repack: bool = True
    lanes: int = 1


@dataclass(frozen=True, slots=True)
class Plan:
    """Settings that fit the memory, and what each part of it takes.

    settings      what to run with
    n_layers      layers of the model
    parts         bytes by name; names are unique
    costs         what the settings give up against the best ones, a sentence each
    fits_ram      False: the system must read some weights from the file again and again
    exact_compute_buffer  False: the compute buffer is an estimate, with COMPUTE_BUFFER_MARGIN
    """

    settings: Settings
    n_layers: int
    parts: tuple[Part, ...]
    costs: tuple[str, ...] = ()
    fits_ram: bool = True
    exact_compute_buffer: bool = True

    @property
    def n_gpu_layers(self) -> int:
        """Layers on the GPU, the last ones."""
        return self.settings.n_gpu_layers

    @property
    def max_texts(self) -> int:
        """Largest number of texts in a batch."""
        return self.settings.n_sequences - KEPT_PREFIXES

    @property
    def use_mmap(self) -> bool:
        """Always true: the system can evict memory-mapped weights when other programs need the memory."""
        return True

    @property
    def vram_bytes(self) -> int:
        """Bytes of the GPU's memory."""
        return sum(part.size_bytes for part in self.parts if part.memory == "GPU")

    @property
    def ram_bytes(self) -> int:
        """Bytes of the host's memory, pages of the model's file included."""
        return sum(part.size_bytes for part in self.parts if part.memory == "CPU")

    @property
    def unmapped_ram_bytes(self) -> int:
        """Bytes of the host's memory that the system cannot drop: without pages of the model's file."""
        return sum(part.size_bytes for part in self.parts if part.memory == "CPU" and not part.mapped)

    @property
    def required_ram_bytes(self) -> int:
        """Bytes of the host's memory that the plan needs to run: `ram_bytes`, or less where not `fits_ram`."""
        return self.ram_bytes if self.fits_ram else self.unmapped_ram_bytes


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """What a user asks for, and what the machine gives, as far as memory is concerned.

    vram               bytes of the GPU's memory for everything on it, the driver's share included; None: use no GPU
    ram                bytes of the host's memory; None: no limit
    max_tokens         longest text; None: the model's own limit, or less where the budget requires it
    kv_type            a key of KV_TYPES; None: the planner chooses
    threads            CPU threads: an encoder computes in that many contexts side by side, up to MOST_LANES
    repacked           types that get a second layout on this CPU
    gpu_context_bytes  the driver's share of the GPU's memory
    """

    vram: int | None = None
    ram: int | None = None
    max_tokens: int | None = None
    kv_type: str | None = None
    threads: int = 1
    repacked: frozenset[str] = REPACKED
    gpu_context_bytes: int = GPU_CONTEXT_BYTES

    def __post_init__(self) -> None:
        """Convert numpy's integers, whose products overflow.

        raises  OptionError: no whole number
        """
        for name in ("vram", "ram", "max_tokens", "threads", "gpu_context_bytes"):
            value = getattr(self, name)
            number = whole_number(value)
            if number is None and value is not None:
                raise OptionError(f"{name}={value!r}; a whole number is needed.")
            object.__setattr__(self, name, number)


# What is needed


def parts_of(
    sizes: ModelSizes,
    settings: Settings,
    *,
    repacked: frozenset[str] = REPACKED,
    gpu_context_bytes: int = GPU_CONTEXT_BYTES,
) -> tuple[Part, ...]:
    """Return every part of the memory that a model with these settings takes.

    repacked           types that get a second layout on this CPU
    gpu_context_bytes  the driver's share
    """
    n_gpu = settings.n_gpu_layers
    n_host = sizes.n_layers - n_gpu
    host_layers, gpu_layers = sizes.layers[:n_host], sizes.layers[n_host:]
    copied = repacked if settings.repack and not n_gpu else frozenset[str]()
    repacked_bytes = sum(size for layer in host_layers for name, size in layer.items() if name in copied)
    host_bytes = sum(sum(layer.values()) for layer in host_layers) - repacked_bytes
    # A tied matrix whose type is repacked gets a copy as the output matrix, although it is never multiplied.
    if sizes.decoder and not sizes.output_bytes and sizes.input_type in copied:
        repacked_bytes += sizes.input_bytes
    kv_layer = kv_bytes(sizes, settings.kv_type, cells_of(sizes, settings), n_layers=1)
    cpu_buffer, gpu_buffer = _compute_buffer(sizes, settings)
    rows = settings.n_sequences if sizes.last_rows else max(settings.cells, settings.n_sequences)
    head_on_gpu = _output_on_gpu(sizes, settings)
    parts = [
        Part("token embedding", "CPU", sizes.input_bytes, mapped=True),
        Part("layers (CPU)", "CPU", host_bytes, mapped=True),
        Part("layers repacked (CPU)", "CPU", repacked_bytes),
        Part("output matrix", "GPU" if head_on_gpu else "CPU", sizes.output_bytes, mapped=not head_on_gpu),
        Part("KV cache (CPU)", "CPU", settings.lanes * n_host * kv_layer),
        Part("compute buffer (CPU)", "CPU", settings.lanes * cpu_buffer),
        Part("outputs", "CPU", settings.lanes * output_bytes(sizes, rows)),
        Part("program and vocabulary", "CPU", PROGRAM_BYTES + BYTES_PER_TOKEN_NAME * sizes.vocab_size),
    ]
    if head_on_gpu and not sizes.output_bytes:
        parts.append(Part("output matrix (tied)", "GPU", sizes.input_bytes))
    if n_gpu:
        parts += [
            Part("layers (GPU)", "GPU", sum(sum(layer.values()) for layer in gpu_layers)),
            Part("output norm", "GPU", sizes.output_norm_bytes),
            Part("KV cache (GPU)", "GPU", settings.lanes * n_gpu * kv_layer),
            Part("compute buffer (GPU)", "GPU", settings.lanes * gpu_buffer),
            Part(DRIVER_PARTS[0], "GPU", settings.lanes * _working_bytes(sizes, settings)),
            Part(DRIVER_PARTS[1], "GPU", gpu_context_bytes),
        ]
    else:
        parts.append(Part("output norm", "CPU", sizes.output_norm_bytes, mapped=True))
    return tuple(part for part in parts if part.size_bytes)


def cells_of(sizes: ModelSizes, settings: Settings) -> int:
    """Return the KV cells that llama.cpp makes: those for prompts included, in steps of 256; none for an encoder."""
    if not sizes.decoder:
        return 0
    cells = settings.cells + (KEPT_TOKENS if sizes.last_rows else 0)
    return _rounded_up(cells, _CELL_PADDING)


def repacked_on(machine: str) -> frozenset[str]:
    """Return the types that llama.cpp keeps in a second layout on a processor; on x86 AVX2 is assumed.

    machine  platform.machine()
    """
    return _REPACKED_ON_ARM if machine.lower() in ("arm64", "aarch64") else REPACKED


def worth_repacking(machine: str, flags: frozenset[str]) -> frozenset[str]:
    """Return the types whose second layout makes the processor faster: no K-types on AVX-512 with VNNI.

    machine  platform.machine()
    flags    instruction sets by Linux's names; empty where they are unknown

    llama.cpp multiplies K-types in tiles, but not in the second layout. Measured on 2 cores of an AMD EPYC, the 0.6B
    shape in Q4_K_M: documents 223 to 234 tok/s with the second layout, 315 to 336 without; a query of 8 tokens after
    its prompt 61 ms with, 70 without. With llama.cpp compiled for AVX2 alone, on the same machine: documents 152 with,
    164 without; the query 87 and 138 ms. On ARM llama.cpp's own choice is used, unmeasured.
    """
    k_types = {"Q4_K", "Q5_K", "Q6_K"} if "avx512_vnni" in flags else set()
    return repacked_on(machine) - k_types


def kv_bytes(sizes: ModelSizes, kv_type: str, cells: int, n_layers: int) -> int:
    """Return the bytes of the keys and values of so many cells."""
    return int(2 * sizes.n_kv_heads * sizes.head_dim * KV_TYPES[kv_type] * cells) * n_layers


def output_bytes(sizes: ModelSizes, rows: int) -> int:
    """Return the bytes of the host's buffer for rows that leave the model.

    llama.cpp always adds logits, and vectors where it pools.
    """
    return 4 * rows * (sizes.vocab_size + (0 if sizes.last_rows else sizes.dims))


def n_sequences_of(vocab_size: int) -> int:
    """Return the sequences of a context, prompts included: 64 to 256, by the size of the logits that each one takes.

    >>> n_sequences_of(151669), n_sequences_of(30522)
    (65, 256)
    """
    return min(max(LOGIT_BYTES // (4 * vocab_size), LEAST_SEQUENCES), MOST_SEQUENCES)


def one_pass_tokens(tokens: int, n_sequences: int) -> int:
    """Return the micro-batch for texts that must be computed in one piece: room for the tokens, or a little more.

    llama.cpp aborts while it reserves the graph of the mean where this is no multiple of the sequences: it rounds the
    tokens up to one, but not the rows that it pools.

    >>> one_pass_tokens(512, 198), one_pass_tokens(512, 256)
    (594, 512)
    """
    return _rounded_up(tokens, n_sequences)


def _output_on_gpu(sizes: ModelSizes, settings: Settings) -> bool:
    """Whether every token goes through the vocabulary projection on the GPU: in a decoder that llama.cpp pools."""
    return bool(settings.n_gpu_layers) and sizes.decoder and not sizes.last_rows


def _compute_buffer(sizes: ModelSizes, settings: Settings) -> tuple[int, int]:
    """Return the bytes of the compute buffer: (on the CPU, on the GPU)."""
    sequences = settings.n_sequences
    # llama.cpp reserves the larger of a full micro-batch and of one token for each sequence.
    buffers = []
    for tokens in (settings.micro_batch, sequences):
        shape = GraphShape(
            post_norm=sizes.post_norm,
            gated=sizes.gated,
            dims=sizes.dims,
            queries=sizes.n_heads * sizes.head_dim,
            keys=sizes.n_kv_heads * sizes.head_dim,
            ffn=sizes.ffn,
            vocab=sizes.vocab_size,
            tokens=_rounded_up(tokens, sequences),
            outputs=min(tokens, sequences) if sizes.last_rows else tokens,
            cells=cells_of(sizes, settings),
            experts=sizes.experts,
            masks=2 if sizes.sliding_window else 1,
            rotation=0 if settings.kv_type == "f16" else _rotation(sizes.head_dim),
            pooled=0 if sizes.last_rows else sequences,
            means=sizes.means,
            cpu_layers=sizes.n_layers - settings.n_gpu_layers,
            gpu_layers=settings.n_gpu_layers,
            output_on_gpu=_output_on_gpu(sizes, settings),
            half_copies=True,
            score_heads=_score_heads(sizes, settings),
        )
        buffers.append(compute_buffer_bytes(shape))
    margin = 0 if sizes.exact_compute_buffer else COMPUTE_BUFFER_MARGIN
    on_cpu, on_gpu = (int(max(sizes_bytes) * (1 + margin)) for sizes_bytes in zip(*buffers, strict=True))
    return on_cpu, on_gpu


def _score_heads(sizes: ModelSizes, settings: Settings) -> int:
    """Return the heads whose scores are stored, since flash attention on a GPU lacks heads of this size; else 0.

    llama.cpp then computes without flash attention on the CPU too. With another backend than CUDA it is an upper limit.
    """
    lacks = settings.n_gpu_layers and sizes.post_norm and sizes.head_dim not in _FLASH_HEAD_DIMS
    return sizes.n_heads if lacks else 0


def _rotation(head_dim: int) -> int:
    """Return the width of the matrix with which llama.cpp rotates keys before it quantises them."""
    width = 64  # the largest 64 * 2^n that divides head_dim
    while head_dim % (2 * width) == 0:
        width *= 2
    return width if head_dim % 64 == 0 else 0


def _working_bytes(sizes: ModelSizes, settings: Settings) -> int:
    """Return the bytes of quantised or halved inputs of the largest matrix product, which GPU kernels allocate."""
    widest = max(sizes.ffn, sizes.n_heads * sizes.head_dim)
    return _rounded_up(4 * settings.micro_batch * widest, _POOL_STEP)


def _rounded_up(number: int, step: int) -> int:
    return -(-number // step) * step


# What fits


@dataclass(frozen=True, slots=True)
class Concession:
    """One thing that a plan gives up so that it needs less memory.

    name     what is given up
    amount   how much of it a plan gives up, as a number to compare
    reason   why it stands where it does in CONCESSIONS
    at_once  if the weights do not fit in memory, take this step as far as it goes: then more of the weights stay there
    """

    name: str
    amount: Callable[[Plan], int]
    reason: str
    at_once: bool = False


CONCESSIONS = (
    Concession(
        "KV cache in 8 bits instead of 16",
        lambda plan: plan.settings.kv_type == "q8_0",
        "The cache is the largest part besides the weights, and 8 bits cost the vectors little.",
        at_once=True,
    ),
    Concession(
        "smaller batches",
        lambda plan: -plan.settings.micro_batch,
        "They cost some speed, no precision.",
        at_once=True,
    ),
    Concession(
        "lower token limit",
        lambda plan: -plan.settings.max_tokens,
        "Longer texts are cut, which is logged. Not if the user set the limit, nor just for one more layer.",
        at_once=True,
    ),
    Concession(
        "KV cache in 4 bits",
        lambda plan: plan.settings.kv_type == "q4_0",
        "Every vector loses precision. Not just for one more layer.",
    ),
    Concession(
        "layers on the CPU instead of the GPU",
        lambda plan: -plan.n_gpu_layers,
        "Each of them takes a multiple of its time on the GPU.",
    ),
    Concession(
        "room for the weights in the host's memory",
        lambda plan: not plan.fits_ram,
        "The system drops their pages and reads them from the disk again and again: by far the slowest.",
    ),
)
"""What a plan gives up, in this order: each only if all before it, as far as they go, do not free enough memory.

So a larger budget never puts fewer layers on the GPU.
"""


def plan(sizes: ModelSizes, request: PlanRequest) -> Plan:
    """Return the best settings that hold the budgets; see CONCESSIONS.

    raises  BudgetError: nothing fits; OptionError: a token limit or KV type that the model does not have
    """
    _check(sizes, request)
    n_gpu = (0,) if request.vram is None else range(1, sizes.n_layers + 1)
    fits_ram = (True,) if request.ram is None else (True, False)
    closest: Plan | None = None
    for candidate in _candidates(sizes, request, n_gpu, fits_ram):
        counted = _with_parts(sizes, request, candidate)
        if not _excess(counted, request):
            return _with_costs(sizes, request, counted)
        if closest is None or _excess(counted, request) < _excess(closest, request):
            closest = counted
    assert closest is not None
    raise BudgetError(_nothing_fits(closest, request))


def larger_plan(sizes: ModelSizes, request: PlanRequest, here: Plan) -> Plan | None:
    """Return the plan that the smallest larger budget allows; None where `here` is the best there is.

    If `here` uses no GPU, it is the next better CPU plan, otherwise the next better GPU plan. Where `here` leaves
    layers to the CPU, it is the cheapest plan with all layers on the GPU. The request's own budgets do not count.
    """
    _check(sizes, request)
    n_gpu, n_layers = here.n_gpu_layers, sizes.n_layers
    # On a GPU only its memory is compared.
    rank = _rank(replace(here, fits_ram=here.fits_ram or n_gpu > 0))
    better = [candidate for candidate in _candidates(sizes, request, [n_gpu]) if _rank(candidate) < rank]
    if 0 < n_gpu < n_layers or (n_gpu == 0 and not better):
        better = _candidates(sizes, request, [n_layers])
    counted = (_with_parts(sizes, request, candidate) for candidate in better)
    cheapest = min(counted, key=lambda option: option.vram_bytes or option.ram_bytes, default=None)
    return cheapest and _with_costs(sizes, request, cheapest)


def smaller_plan(sizes: ModelSizes, request: PlanRequest, here: Plan) -> Plan | None:
    """Return the best plan that needs less than `here` of the GPU's memory, or of the host's where it uses no GPU.

    None where there is none. The request's own budgets do not count.
    """
    on_gpu = here.n_gpu_layers > 0
    vram, ram = (here.vram_bytes - 1, None) if on_gpu else (None, here.required_ram_bytes - 1)
    try:
        return plan(sizes, replace(request, vram=vram, ram=ram))
    except BudgetError:
        return None


def _check(sizes: ModelSizes, request: PlanRequest) -> None:
    limit, kv_type = request.max_tokens, request.kv_type
    if limit is not None and not LEAST_MAX_TOKENS <= limit <= sizes.context_length:
        raise OptionError(
            f"max_tokens={limit:,}; this model takes {LEAST_MAX_TOKENS} to {sizes.context_length:,} tokens."
        )
    if kv_type is not None and kv_type not in _kv_types(sizes):
        raise OptionError(f"kv_type={kv_type!r}; this model can have {', '.join(_kv_types(sizes))}.")


def _kv_types(sizes: ModelSizes) -> tuple[str, ...]:
    # A block holds 32 numbers, and heads are cut off at block borders.
    return tuple(KV_TYPES) if sizes.decoder and sizes.head_dim % 32 == 0 else ("f16",)


def _candidates(
    sizes: ModelSizes, request: PlanRequest, n_gpu: Iterable[int], fits_ram: Iterable[bool] = (True,)
) -> list[Plan]:
    """Return plans with these numbers of layers on the GPU, the best first; their parts are not computed yet."""
    candidates = [
        Plan(settings, sizes.n_layers, (), fits_ram=fits, exact_compute_buffer=sizes.exact_compute_buffer)
        for fits, n_layers in product(fits_ram, n_gpu)
        for settings in _settings(sizes, request, n_layers, repack=fits and _repacks(sizes, request))
    ]
    return sorted(candidates, key=_rank)


def _rank(candidate: Plan) -> tuple[int, ...]:
    """Return how much a plan gives up: of the last concession first, so that the first ones are made first."""
    in_full = not candidate.fits_ram and candidate.n_gpu_layers < candidate.n_layers
    return tuple(
        -concession.amount(candidate) if in_full and concession.at_once else concession.amount(candidate)
        for concession in reversed(CONCESSIONS)
    )


def _settings(sizes: ModelSizes, request: PlanRequest, n_gpu: int, repack: bool) -> Iterator[Settings]:
    """Yield all settings with so many layers on the GPU that the request allows, in no particular order."""
    on_one_device = n_gpu in (0, sizes.n_layers)
    kv_types: Iterable[str] = [name for name in _kv_types(sizes) if on_one_device or name != "q4_0"]
    limits = [request.max_tokens or sizes.default_tokens]
    while request.max_tokens is None and on_one_device and limits[-1] // 2 >= SMALLEST_LIMIT:
        limits.append(limits[-1] // 2)
    lanes = 1 if sizes.decoder or n_gpu else max(1, min(request.threads, MOST_LANES))
    for kv_type, limit, (micro_batch, batch) in product(
        kv_types if request.kv_type is None else [request.kv_type], limits, _batches(sizes)
    ):
        # Room for kept prompts is reserved: it is not known yet whether all texts of a batch begin with one.
        n_sequences = n_sequences_of(sizes.vocab_size)
        if sizes.last_rows:
            cells = max(limit, batch + KEPT_TOKENS)
        else:
            cells = one_pass_tokens(max(limit, micro_batch), n_sequences)
        yield Settings(
            n_gpu_layers=n_gpu,
            kv_type=kv_type,
            max_tokens=limit,
            cells=cells,
            batch_tokens=batch,
            micro_batch=micro_batch if sizes.last_rows else cells,
            n_sequences=n_sequences,
            repack=repack,
            lanes=lanes,
        )


def _batches(sizes: ModelSizes) -> tuple[tuple[int, int], ...]:
    return _BATCHES if sizes.last_rows else _ONE_PASS_BATCHES


def _repacks(sizes: ModelSizes, request: PlanRequest) -> bool:
    return any(name in request.repacked for layer in sizes.layers for name in layer)


def _with_parts(sizes: ModelSizes, request: PlanRequest, candidate: Plan) -> Plan:
    parts = parts_of(sizes, candidate.settings, repacked=request.repacked, gpu_context_bytes=request.gpu_context_bytes)
    return replace(candidate, parts=parts)


def _excess(counted: Plan, request: PlanRequest) -> int:
    """Return the bytes over the budgets."""
    over = 0 if request.vram is None else max(0, counted.vram_bytes - request.vram)
    return over if request.ram is None else over + max(0, counted.required_ram_bytes - request.ram)


def _with_costs(sizes: ModelSizes, request: PlanRequest, counted: Plan) -> Plan:
    settings, costs = counted.settings, []
    if KV_COSTS[settings.kv_type]:
        costs.append(KV_COSTS[settings.kv_type])
    best_batch = _batches(sizes)[0][0]
    full = best_batch if sizes.last_rows else max(settings.max_tokens, best_batch)
    if settings.micro_batch < full:
        costs.append(f"{settings.micro_batch} tokens at once instead of {full}: some speed")
    limit = request.max_tokens or sizes.default_tokens
    if settings.max_tokens < limit:
        costs.append(f"texts over {settings.max_tokens:,} tokens are cut; {limit:,} would be usual")
    left = counted.n_layers - settings.n_gpu_layers
    if settings.n_gpu_layers and left:
        costs.append(f"{left} of {counted.n_layers} layers run on the CPU: much slower than all on the GPU")
    if not counted.fits_ram and not left:
        costs.append("rows of the token embedding are read from the disk")
    elif not counted.fits_ram:
        costs.append("the weights do not stay in memory and are read from the disk again and again: very slow")
    return replace(counted, costs=tuple(costs))


def _nothing_fits(closest: Plan, request: PlanRequest) -> str:
    settings, vram, ram = closest.settings, request.vram, request.ram
    tokens = f"a token limit of {settings.max_tokens:,}"
    layers = f"{settings.n_gpu_layers} of {closest.n_layers} layers on the GPU"
    if vram is not None and closest.vram_bytes > vram:
        return (
            f"Nothing fits in {in_gigabytes(vram)} of GPU memory: {layers} and {tokens} need "
            f"{in_gigabytes(closest.vram_bytes)}, "
            "the driver's share included. Give more, set a smaller token limit, or run on the CPU."
        )
    needed = f"{layers} and {tokens} need" if settings.n_gpu_layers else f"{tokens} needs"
    return (
        f"Nothing fits in {in_gigabytes(ram or 0)} of the host's memory: {needed} "
        f"{in_gigabytes(closest.required_ram_bytes)}. Give more, set a smaller token limit, or take a smaller file of "
        "the model."
    )
