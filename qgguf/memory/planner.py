"""Estimates of a model's GPU and host memory, and the best settings that fit a budget. Pure.

Every figure follows llama.cpp's own arithmetic and is checked against what it reports when it loads on a CPU
(scripts/check_memory.py): weights, KV cache, scratch, output rows, the repacked copy. Not yet checked on a GPU: the
driver's share (GPU_CONTEXT_BYTES), the working copies of its kernels and the half-precision copies that CUDA's
attention makes of a quantised cache. The rest of a GPU's scratch was compared with what llama.cpp reserves on a second
device that is a CPU behind RPC: the same allocator, not the same kernels.

A worked example, two layers of 1 MB that see 2048 tokens (2304 KV cells with those kept for prompts):

>>> tiny = ModelSizes(
...     n_layers=2, dims=256, n_heads=4, n_kv_heads=2, head_dim=64, ffn=768, vocab_size=1000, context_length=4096,
...     default_tokens=2048, causal=True, last_rows=True, layers=({"Q8_0": 1_000_000}, {"Q8_0": 1_000_000}),
...     input_bytes=272_000, output_norm_bytes=1024)
>>> plan(tiny, PlanRequest(vram=240_000_000)).n_gpu_layers
2

Its cache holds a key and a value of 2 * 64 numbers of 2 bytes for each cell and layer: 2 * 2304 * 2 * 128 * 2 bytes.

>>> cache = next(part for part in plan(tiny, PlanRequest(vram=240_000_000)).parts if part.name == "KV cache (GPU)")
>>> cache.size_bytes, 2 * 2304 * 2 * 128 * 2
(2359296, 2359296)

The tied output matrix is looked up on the host and never multiplied with (see native/context.py), so no GPU holds it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from qgguf.errors import BudgetError, OptionError
from qgguf.memory.compute_buffer import Pass, scratch_bytes
from qgguf.option_values import LEAST_MAX_TOKENS
from qgguf.units import in_gigabytes

KV_TYPES: Mapping[str, float] = {"f16": 2.0, "q8_0": 34 / 32, "q4_0": 18 / 32}
"""KV cache type -> bytes of a number, the best first."""

KV_COSTS: Mapping[str, str] = {
    "f16": "",
    "q8_0": "the KV cache in 8 bits: vectors of cosine 0.997 or more to those of 16 bits",
    "q4_0": "the KV cache in 4 bits: vectors of cosine 0.94 to 0.98 to those of 16 bits",
}
"""What a KV type costs, measured on random weights of the 0.6B shape and of a smaller one (scripts/measure_kv.py), not
yet on real ones."""

REPACKED = frozenset(["Q4_0", "Q4_K", "IQ4_NL", "MXFP4"])
"""Types that llama.cpp keeps in a second layout on x86 with AVX2; on ARM also Q5_K, Q6_K and Q8_0."""

_REPACKED_ON_ARM = REPACKED | {"Q5_K", "Q6_K", "Q8_0"}

GPU_CONTEXT_BYTES = 200 << 20
"""What a driver takes for a process before its first tensor: an assumption for CUDA, not measured here."""

PROGRAM_BYTES = 120_000_000
"""Interpreter, numpy and llama.cpp."""

BYTES_PER_TOKEN_NAME = 400
"""llama.cpp's and our own tables of a vocabulary, for each of its tokens."""

DEFAULT_MAX_TOKENS = 8192
"""Where a checkpoint declares no limit of its own: the length its authors evaluate Qwen3-Embedding with."""

SMALLEST_LIMIT = 2048
"""The planner never lowers the token limit below this on its own: most passages are shorter."""

LOGIT_BYTES, MOST_SEQUENCES, LEAST_SEQUENCES = 40_000_000, 256, 64
"""llama.cpp keeps a row of logits for each sequence; this much for all of them, within these numbers of sequences."""

KEPT_PREFIXES, KEPT_TOKENS = 4, 256
"""Prompts that stay in the KV cache between calls, and their tokens in all."""

MOST_LANES = 8
"""Contexts that an encoder computes in side by side."""

# (micro-batch, tokens in a batch) for texts that may be split; (micro-batch, tokens in a batch) for those that are seen
# in one pass, which a longer text enlarges. The best first; figures: the log in scripts/bench_peers.py.
_BATCHES = ((512, 512), (256, 256), (128, 128))
_ONE_PASS_BATCHES = ((512, 256), (256, 256))
_CELL_PADDING = 256
_POOL_STEP = 2 << 20


@dataclass(frozen=True, slots=True)
class ModelSizes:
    """What a GGUF's header says of a model's bytes; `gguf_file.sizes_of` reads it.

    n_layers, dims, n_heads, n_kv_heads, head_dim, ffn, vocab_size, context_length
    default_tokens     longest text where the user names no limit
    causal             decoder with a KV cache; else an encoder
    last_rows          a text's vector is its last token's row, so that texts may be split and few rows leave the model
    means              pooled by the mean, where not last_rows
    gated              the feed-forward part has a gate
    layers             for each layer: type of its matrices -> bytes; norms and biases are under "other"
    input_bytes        token and position embeddings: looked up, always on the host
    input_type         type of the token embedding
    output_bytes       an output matrix of its own; 0 where it is tied
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
    causal: bool
    last_rows: bool
    layers: tuple[Mapping[str, int], ...]
    input_bytes: int
    output_norm_bytes: int
    means: bool = False
    gated: bool = True
    input_type: str = "Q6_K"
    output_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Part:
    """Some bytes and where they are.

    place   "gpu" or "ram"
    mapped  pages of the model's file: the system may drop them and read them again
    """

    name: str
    place: str
    size_bytes: int
    mapped: bool = False


@dataclass(frozen=True, slots=True)
class Settings:
    """How a model is run, as far as memory is concerned.

    n_gpu_layers  layers on the GPU, the last ones; not llama.cpp's number of that name, which counts the output too
    kv_type       a key of KV_TYPES
    max_tokens    longest text
    cells         tokens that there is room for at once, at least max_tokens
    batch_tokens  tokens in a batch of several texts
    micro_batch   tokens that llama.cpp sees at once
    n_sequences   texts in a batch, and the prompts that are kept
    repack        keep the CPU's faster layout of the weights
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
    """Settings that fit, and where each byte goes.

    settings      what to run with
    n_layers      layers of the model
    parts         bytes by name; names are unique
    costs         what the settings give up against the best ones, a sentence each
    fits_ram      False: the system must read some weights from the file again and again
    """

    settings: Settings
    n_layers: int
    parts: tuple[Part, ...]
    costs: tuple[str, ...] = ()
    fits_ram: bool = True

    @property
    def n_gpu_layers(self) -> int:
        return self.settings.n_gpu_layers

    @property
    def max_texts(self) -> int:
        return self.settings.n_sequences - KEPT_PREFIXES

    @property
    def use_mmap(self) -> bool:
        """Always true: the system can evict memory-mapped weights when other programs need the memory."""
        return True

    @property
    def vram_bytes(self) -> int:
        return sum(part.size_bytes for part in self.parts if part.place == "gpu")

    @property
    def ram_bytes(self) -> int:
        return sum(part.size_bytes for part in self.parts if part.place == "ram")

    @property
    def unmapped_ram_bytes(self) -> int:
        """What the host must hold whatever happens: ram_bytes without the file's pages."""
        return sum(part.size_bytes for part in self.parts if part.place == "ram" and not part.mapped)


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


# What is needed


def parts_of(
    sizes: ModelSizes,
    settings: Settings,
    *,
    repacked: frozenset[str] = REPACKED,
    gpu_context_bytes: int = GPU_CONTEXT_BYTES,
) -> tuple[Part, ...]:
    """Every part of memory that a model with these settings takes.

    repacked           types that this CPU keeps in a second layout
    gpu_context_bytes  the driver's share
    """
    n_gpu = settings.n_gpu_layers
    n_host = sizes.n_layers - n_gpu
    host_layers, gpu_layers = sizes.layers[:n_host], sizes.layers[n_host:]
    copied = repacked if settings.repack and not n_gpu else frozenset[str]()
    repacked_bytes = sum(size for layer in host_layers for name, size in layer.items() if name in copied)
    host_bytes = sum(sum(layer.values()) for layer in host_layers) - repacked_bytes
    # A tied matrix whose type is repacked gets a copy as the output matrix, though nobody multiplies with it.
    if sizes.causal and not sizes.output_bytes and sizes.input_type in copied:
        repacked_bytes += sizes.input_bytes
    kv_layer = kv_bytes(sizes, settings.kv_type, cells_of(sizes, settings), n_layers=1)
    host_scratch, gpu_scratch = _scratch(sizes, settings)
    rows = settings.n_sequences if sizes.last_rows else max(settings.cells, settings.n_sequences)
    head_on_gpu = _output_on_gpu(sizes, settings)
    parts = [
        Part("token embedding", "ram", sizes.input_bytes, mapped=True),
        Part("layers (CPU)", "ram", host_bytes, mapped=True),
        Part("layers repacked (CPU)", "ram", repacked_bytes),
        Part("output matrix", "gpu" if head_on_gpu else "ram", sizes.output_bytes, mapped=not head_on_gpu),
        Part("KV cache (CPU)", "ram", settings.lanes * n_host * kv_layer),
        Part("scratch (CPU)", "ram", settings.lanes * host_scratch),
        Part("outputs", "ram", settings.lanes * output_bytes(sizes, rows)),
        Part("program and vocabulary", "ram", PROGRAM_BYTES + BYTES_PER_TOKEN_NAME * sizes.vocab_size),
    ]
    if head_on_gpu and not sizes.output_bytes:
        parts.append(Part("output matrix (tied)", "gpu", sizes.input_bytes))
    if n_gpu:
        parts += [
            Part("layers (GPU)", "gpu", sum(sum(layer.values()) for layer in gpu_layers)),
            Part("output norm", "gpu", sizes.output_norm_bytes),
            Part("KV cache (GPU)", "gpu", settings.lanes * n_gpu * kv_layer),
            Part("scratch (GPU)", "gpu", settings.lanes * gpu_scratch),
            Part("kernels' working copies", "gpu", settings.lanes * _working_bytes(sizes, settings)),
            Part("driver", "gpu", gpu_context_bytes),
        ]
    else:
        parts.append(Part("output norm", "ram", sizes.output_norm_bytes, mapped=True))
    return tuple(part for part in parts if part.size_bytes)


def cells_of(sizes: ModelSizes, settings: Settings) -> int:
    """KV cells that llama.cpp makes: with those for kept prompts, in steps of 256; none for an encoder."""
    if not sizes.causal:
        return 0
    wanted = settings.cells + (KEPT_TOKENS if sizes.last_rows else 0)
    return -(-wanted // _CELL_PADDING) * _CELL_PADDING


def repacked_on(machine: str) -> frozenset[str]:
    """Types that llama.cpp keeps in a second layout on a processor; AVX2 is taken for granted on x86.

    machine  platform.machine()
    """
    return _REPACKED_ON_ARM if machine.lower() in ("arm64", "aarch64") else REPACKED


def worth_repacking(machine: str, flags: frozenset[str]) -> frozenset[str]:
    """Those of them that make the processor faster: no K-types where it has AVX-512's dot products of bytes.

    machine  platform.machine()
    flags    instruction sets in Linux's words; empty where they are not known

    llama.cpp multiplies K-types in tiles, but not those in the second layout. On 2 cores of an AMD EPYC, the 0.6B shape
    in Q4_K_M: documents 223 to 234 tok/s with it, 315 to 336 without; a query with 8 tokens of its own 61 and 70 ms.
    With llama.cpp compiled for AVX2 alone, on the same: documents 152 with it, 164 without; the query 87 and 138 ms. On
    ARM llama.cpp's own choice stands, unmeasured.
    """
    k_types = {"Q4_K", "Q5_K", "Q6_K"} if "avx512_vnni" in flags else set()
    return repacked_on(machine) - k_types


def kv_bytes(sizes: ModelSizes, kv_type: str, cells: int, n_layers: int) -> int:
    """Keys and values of so many cells."""
    return int(2 * sizes.n_kv_heads * sizes.head_dim * KV_TYPES[kv_type] * cells) * n_layers


def output_bytes(sizes: ModelSizes, rows: int) -> int:
    """The host's buffer for rows that leave the model: llama.cpp always adds logits, and vectors where it pools."""
    return 4 * rows * (sizes.vocab_size + (0 if sizes.last_rows else sizes.dims))


def n_sequences_of(vocab_size: int) -> int:
    """Texts in a batch, kept prompts included: 64 to 256, by the size of the logits that llama.cpp keeps for each.

    >>> n_sequences_of(151669), n_sequences_of(30522)
    (65, 256)
    """
    return min(max(LOGIT_BYTES // (4 * vocab_size), LEAST_SEQUENCES), MOST_SEQUENCES)


def _output_on_gpu(sizes: ModelSizes, settings: Settings) -> bool:
    """Only where every token goes through the vocabulary projection: a decoder that llama.cpp pools."""
    return bool(settings.n_gpu_layers) and sizes.causal and not sizes.last_rows


def _scratch(sizes: ModelSizes, settings: Settings) -> tuple[int, int]:
    """(host, GPU): the larger of a full micro-batch and of one token for each sequence; llama.cpp reserves both."""
    sequences, found = settings.n_sequences, [0, 0]
    for tokens in (settings.micro_batch, sequences):
        outputs = min(tokens, sequences) if sizes.last_rows else tokens
        tokens = -(-tokens // sequences) * sequences
        host, gpu = scratch_bytes(
            Pass(
                encoder=not sizes.causal,
                gated=sizes.gated,
                dims=sizes.dims,
                queries=sizes.n_heads * sizes.head_dim,
                keys=sizes.n_kv_heads * sizes.head_dim,
                ffn=sizes.ffn,
                vocab=sizes.vocab_size,
                tokens=tokens,
                outputs=outputs,
                cells=cells_of(sizes, settings),
                rotation=0 if settings.kv_type == "f16" else _rotation(sizes.head_dim),
                pooled=0 if sizes.last_rows else sequences,
                means=sizes.means,
                # Further layers change nothing, see scratch.py.
                host_layers=min(sizes.n_layers - settings.n_gpu_layers, 4),
                gpu_layers=min(settings.n_gpu_layers, 4),
                output_on_gpu=_output_on_gpu(sizes, settings),
                half_copies=True,
            )
        )
        found = [max(found[0], host), max(found[1], gpu)]
    return found[0], found[1]


def _rotation(head_dim: int) -> int:
    """Width of the matrix that llama.cpp turns keys with before it quantises them: the largest 64 * 2^n in head_dim."""
    width = 64
    while head_dim % (2 * width) == 0:
        width *= 2
    return width if head_dim % 64 == 0 else 0


def _working_bytes(sizes: ModelSizes, settings: Settings) -> int:
    """Quantised or halved inputs of the largest matrix product, which GPU kernels keep outside llama.cpp's plan."""
    widest = max(sizes.ffn, sizes.n_heads * sizes.head_dim)
    return -(-4 * settings.micro_batch * widest // _POOL_STEP) * _POOL_STEP


# What fits


def plan(sizes: ModelSizes, request: PlanRequest) -> Plan:
    """Return the best settings that hold the budgets.

    raises  BudgetError: nothing fits; OptionError: a token limit or KV type that the model does not have

    Given up in this order, each only where what stands before it does not suffice:
    1. the KV cache in 8 bits in place of 16: the largest thing that costs least.
    2. the micro-batch and batch, 512 to 128 tokens: some speed, no precision.
    3. the token limit, by halves to 2048, where the user named none and the whole model then fits: longer texts would
       be cut, and that is said. For one layer more it is not worth it.
    4. the KV cache in 4 bits, where the whole model then fits: every vector loses some.
    5. layers on the GPU, one by one: each of those left to the CPU costs a multiple of one on the GPU.
    6. on the host, the faster layout of the weights, so that their pages can be dropped: they are read from the disk
       again and again, by far the slowest.
    So a larger budget never puts fewer layers on the GPU.
    """
    limit = _limit(sizes, request.max_tokens)
    _check_kv_type(sizes, request.kv_type)
    vram, ram = request.vram, request.ram
    best: Plan | None = None
    counts = range(sizes.n_layers, 0, -1) if vram is not None else (0,)
    for fits_ram in (True, False) if ram is not None else (True,):
        for n_gpu in counts:
            choices = list(_preferences(sizes, request, n_gpu))
            if not fits_ram and n_gpu < sizes.n_layers:
                # Where pages of the weights come and go, whatever else is smaller leaves more room for them; but for it
                # alone no vector is to lose what 4 bits cost.
                choices.reverse()
                choices.sort(key=lambda settings: settings.kv_type == "q4_0")
            for settings in choices:
                settings = replace(settings, repack=fits_ram and settings.repack)
                found = replace(_planned(sizes, request, settings), fits_ram=fits_ram)
                best = found if best is None or _excess(found, vram, ram) < _excess(best, vram, ram) else best
                if _excess(found, vram, ram) == 0:
                    return replace(found, costs=_costs(sizes, found, limit))
    assert best is not None
    raise BudgetError(_nothing_fits(best, vram, ram))


def larger_plan(sizes: ModelSizes, request: PlanRequest, here: Plan) -> Plan | None:
    """Return the plan that the smallest larger budget allows; None where `here` is the best there is.

    If `here` uses no GPU, it is the next better CPU plan, otherwise the next better GPU plan. Where `here` leaves
    layers to the CPU, it is the cheapest plan with all layers on the GPU. The request's own budgets do not count.
    """
    limit = _limit(sizes, request.max_tokens)

    def choices(n_gpu: int) -> list[Plan]:
        return [_planned(sizes, request, settings) for settings in _preferences(sizes, request, n_gpu)]

    better = choices(here.n_gpu_layers or 0)
    if here.fits_ram or here.n_gpu_layers:
        chosen = replace(here.settings, repack=_repacks(sizes, request))
        better = better[: [choice.settings for choice in better].index(chosen)]
    if not better or 0 < here.n_gpu_layers < sizes.n_layers:
        better = [] if here.n_gpu_layers == sizes.n_layers else choices(sizes.n_layers)
    found = min(better, key=lambda choice: choice.vram_bytes or choice.ram_bytes, default=None)
    return found and replace(found, costs=_costs(sizes, found, limit))


def smaller_plan(sizes: ModelSizes, request: PlanRequest, here: Plan) -> Plan | None:
    """Return the best plan that needs less than `here` of the GPU's memory, or of the host's where it uses no GPU.

    None where there is none. The request's own budgets do not count.
    """
    on_gpu = here.n_gpu_layers > 0
    host_bytes = here.ram_bytes if here.fits_ram else here.unmapped_ram_bytes
    vram, ram = (here.vram_bytes - 1, None) if on_gpu else (None, host_bytes - 1)
    try:
        return plan(sizes, replace(request, vram=vram, ram=ram))
    except BudgetError:
        return None


def _planned(sizes: ModelSizes, request: PlanRequest, settings: Settings) -> Plan:
    parts = parts_of(sizes, settings, repacked=request.repacked, gpu_context_bytes=request.gpu_context_bytes)
    return Plan(settings, sizes.n_layers, parts)


def _limit(sizes: ModelSizes, max_tokens: int | None) -> int:
    if max_tokens is None:
        return sizes.default_tokens
    if not LEAST_MAX_TOKENS <= max_tokens <= sizes.context_length:
        raise OptionError(
            f"max_tokens={max_tokens:,}; this model takes {LEAST_MAX_TOKENS} to {sizes.context_length:,} tokens."
        )
    return max_tokens


def _check_kv_type(sizes: ModelSizes, kv_type: str | None) -> None:
    if kv_type is not None and kv_type not in _kv_types(sizes):
        raise OptionError(f"kv_type={kv_type!r}; this model can have {', '.join(_kv_types(sizes))}.")


def _kv_types(sizes: ModelSizes) -> tuple[str, ...]:
    # A block holds 32 numbers, and heads are cut off at block borders.
    return tuple(KV_TYPES) if sizes.causal and sizes.head_dim % 32 == 0 else ("f16",)


def _preferences(sizes: ModelSizes, request: PlanRequest, n_gpu: int) -> Iterator[Settings]:
    """Yield the settings with so many layers on the GPU, the best first."""
    repack = _repacks(sizes, request)
    whole = n_gpu in (0, sizes.n_layers)
    types = _kv_types(sizes)
    groups = [[name for name in types if name != "q4_0"], [name for name in types if name == "q4_0" and whole]]
    sequences = n_sequences_of(sizes.vocab_size)
    lanes = 1 if sizes.causal or n_gpu else max(1, min(request.threads, MOST_LANES))
    limits = [_limit(sizes, request.max_tokens)]
    while request.max_tokens is None and whole and limits[-1] // 2 >= SMALLEST_LIMIT:
        limits.append(limits[-1] // 2)
    for names in groups if request.kv_type is None else [[request.kv_type]]:
        for tokens in limits:
            for micro_batch, batch in _BATCHES if sizes.last_rows else _ONE_PASS_BATCHES:
                # Prompts that are kept count in a batch until it is known that all of its texts begin with one.
                cells = max(tokens, batch + KEPT_TOKENS if sizes.last_rows else micro_batch)
                for name in names:
                    yield Settings(
                        n_gpu,
                        name,
                        tokens,
                        cells,
                        batch,
                        micro_batch if sizes.last_rows else cells,
                        sequences,
                        repack=repack,
                        lanes=lanes,
                    )


def _repacks(sizes: ModelSizes, request: PlanRequest) -> bool:
    return any(name in request.repacked for layer in sizes.layers for name in layer)


def _excess(found: Plan, vram: int | None, ram: int | None) -> int:
    """Bytes over the budgets."""
    over = max(0, found.vram_bytes - vram) if vram is not None else 0
    if ram is not None:
        over += max(0, (found.ram_bytes if found.fits_ram else found.unmapped_ram_bytes) - ram)
    return over


def _costs(sizes: ModelSizes, found: Plan, limit: int) -> tuple[str, ...]:
    settings, said = found.settings, []
    if KV_COSTS[settings.kv_type]:
        said.append(KV_COSTS[settings.kv_type])
    uncut = PlanRequest(max_tokens=settings.max_tokens)
    full = next(_preferences(sizes, uncut, settings.n_gpu_layers)).micro_batch
    if settings.micro_batch < full:
        said.append(f"{settings.micro_batch} tokens at once in place of {full}: some speed")
    if settings.max_tokens < limit:
        said.append(f"texts over {settings.max_tokens:,} tokens are cut; {limit:,} would be usual")
    left = found.n_layers - settings.n_gpu_layers
    if settings.n_gpu_layers and left:
        said.append(f"{left} of {found.n_layers} layers run on the CPU: much slower than all on the GPU")
    if not found.fits_ram and not left:
        said.append("rows of the token embedding are read from the disk")
    elif not found.fits_ram:
        said.append("the weights do not stay in memory and are read from the disk again and again: very slow")
    return tuple(said)


def _nothing_fits(best: Plan, vram: int | None, ram: int | None) -> str:
    settings = best.settings
    least = f"{settings.n_gpu_layers} of {best.n_layers} layers at {settings.max_tokens:,} tokens"
    if vram is not None and best.vram_bytes > vram:
        return (
            f"Nothing fits in {in_gigabytes(vram)} of GPU memory: {least} needs {in_gigabytes(best.vram_bytes)}, the "
            "driver's share included. Give more, set a smaller token limit, or run on the CPU."
        )
    needed = in_gigabytes(best.ram_bytes if best.fits_ram else best.unmapped_ram_bytes)
    return (
        f"Nothing fits in {in_gigabytes(ram or 0)} of the host's memory: {least} on the GPU needs {needed}. "
        "Give more, set a smaller token limit, or take a smaller file of the model."
    )
