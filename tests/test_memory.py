"""The memory planner: its rules, and its figures against those that llama.cpp reports."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qgguf.errors import BudgetError, ModelFileError, OptionError
from qgguf.gguf_format.reader import read_header
from qgguf.memory.planner import ModelSizes, Plan, PlanRequest, larger_plan, parts_of, plan, smaller_plan
from qgguf.model.from_gguf import sizes_of, spec_of
from qgguf.units import in_gigabytes, parse_bytes
from scripts.check_memory import TOLERANCE, check_model
from tests.support.empty_model import SHAPES, make_empty_model
from tests.support.gguf_bytes import gguf, save

MIB = 1 << 20
GPU_BUDGET = 3_000_000_000


def sizes_of_shape(folder: Path, shape: str, quant: str = "Q4_K_M", **changes: int) -> ModelSizes:
    path = make_empty_model(folder / f"{shape}-{quant}.gguf", shape, quant, **changes)
    header = read_header(path)
    return sizes_of(header, spec_of(header, path))


@pytest.fixture(scope="module")
def sizes_4b(tmp_path_factory: pytest.TempPathFactory) -> ModelSizes:
    """Qwen3-Embedding-4B in Q4_K_M, from its tensor table alone."""
    return sizes_of_shape(tmp_path_factory.mktemp("4b"), "4b")


def by_name(best: Plan) -> dict[str, int]:
    return {part.name: part.size_bytes for part in best.parts}


def is_within(best: Plan, vram: int | None, ram: int | None) -> bool:
    return (vram is None or best.vram_bytes <= vram) and (ram is None or best.required_ram_bytes <= ram)


# Against llama.cpp


def test_planned_bytes_are_those_llama_cpp_reports(tmp_path: Path):
    """Weights, repacked copy, KV cache of each type, compute buffer, outputs: a decoder and an encoder, within 5 %."""
    decoder = make_empty_model(
        tmp_path / "decoder.gguf", "0.6b", layers=3, vocab_size=4000, hidden_size=512, num_attention_heads=8
    )
    encoder = make_empty_model(tmp_path / "encoder.gguf", "minilm", "Q8_0", layers=2, vocab_size=2000)
    rows = [*check_model(decoder, "decoder"), *check_model(encoder, "encoder", many=False)]
    assert {row.part for row in rows} == {"repacked", "weights", "KV cache", "compute buffer", "outputs"}
    assert [row for row in rows if row.deviation > TOLERANCE] == []


@pytest.mark.slow
@pytest.mark.parametrize("quant", ["Q4_K_M", "Q8_0"])
@pytest.mark.parametrize("shape", SHAPES)
def test_planned_bytes_of_the_real_shapes(shape: str, quant: str, tmp_path: Path):
    """The same for each published shape, at many settings."""
    path = make_empty_model(tmp_path / "model.gguf", shape, quant)
    assert [row for row in check_model(path, shape) if row.deviation > TOLERANCE] == []


DIMS, FFN, VOCAB, N_LAYERS = 256, 768, 600, 2
DECODER = {
    "attn_norm": (DIMS,), "attn_q": (DIMS, DIMS), "attn_k": (DIMS, DIMS), "attn_v": (DIMS, DIMS),
    "attn_output": (DIMS, DIMS), "ffn_norm": (DIMS,), "ffn_gate": (FFN, DIMS), "ffn_up": (FFN, DIMS),
    "ffn_down": (DIMS, FFN),
}  # fmt: skip
GEMMA = DECODER | {"attn_q_norm": (64,), "attn_k_norm": (64,), "post_attention_norm": (DIMS,), "post_ffw_norm": (DIMS,)}
NOMIC = {"attn_qkv": (3 * DIMS, DIMS), "attn_output": (DIMS, DIMS), "attn_output_norm": (DIMS,),
         "attn_output_norm.bias": (DIMS,), "layer_output_norm": (DIMS,), "layer_output_norm.bias": (DIMS,),
         "ffn_up": (FFN, DIMS), "ffn_gate": (FFN, DIMS), "ffn_down": (DIMS, FFN)}  # fmt: skip
MODERN = {"attn_norm": (DIMS,), "attn_qkv": (3 * DIMS, DIMS), "attn_output": (DIMS, DIMS), "ffn_norm": (DIMS,),
          "ffn_up": (2 * FFN, DIMS), "ffn_down": (DIMS, FFN)}  # fmt: skip
NORM = {"output_norm.weight": (DIMS,)}
EMBEDDING_NORM = {"token_embd_norm.weight": (DIMS,)}
BERT_INPUT = EMBEDDING_NORM | {"token_embd_norm.bias": (DIMS,), "token_types.weight": (2, DIMS)}


@pytest.mark.parametrize(
    ("architecture", "causal", "sliding_window", "layer", "others"),
    [
        ("llama", True, 0, DECODER, NORM),
        ("gemma-embedding", False, 128, GEMMA, NORM),
        ("nomic-bert", False, 0, NOMIC, BERT_INPUT),
        ("modern-bert", False, 128, MODERN, NORM | EMBEDDING_NORM),
    ],
)
def test_estimated_compute_buffer_is_enough(
    tmp_path: Path, architecture: str, causal: bool, sliding_window: int, layer: dict, others: dict
):
    """For four graphs that are not modelled: at least what llama.cpp reports, and at most a third more."""
    shapes = {"token_embd.weight": (VOCAB, DIMS)} | others
    for number in range(N_LAYERS):
        for name, shape in layer.items():
            shapes[f"blk.{number}.{name}" + ("" if name.endswith("bias") else ".weight")] = shape
    sizes = {
        "block_count": N_LAYERS, "context_length": 8192, "embedding_length": DIMS, "feed_forward_length": FFN,
        "attention.head_count": 4, "attention.causal": causal, "attention.sliding_window": sliding_window,
        "attention.layer_norm_epsilon": 1e-6, "attention.layer_norm_rms_epsilon": 1e-6, "rope.dimension_count": 64,
        "rope.freq_base": 10_000.0, "pooling_type": 3 if causal else 1,
    }  # fmt: skip
    is_bert = architecture == "nomic-bert"
    metadata = {"general.architecture": architecture, "general.name": architecture} | {
        f"{architecture}.{key}": value for key, value in sizes.items()
    } | {
        "tokenizer.ggml.model": "bert" if is_bert else "gpt2",
        "tokenizer.ggml.pre": "jina-v2-en" if is_bert else "qwen2",
        "tokenizer.ggml.tokens": [f"token{number}" for number in range(VOCAB)],
        "tokenizer.ggml.merges": ["to ken"],
        "tokenizer.ggml.eos_token_id": VOCAB - 1,
        "tokenizer.ggml.token_type_count": 2,
    }  # fmt: skip
    tensors = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    path = save(tmp_path / "model.gguf", gguf(metadata, tensors))
    rows = [row for row in check_model(path, architecture, many=False) if row.part == "compute buffer"]
    assert rows and all(row.reported <= row.planned <= 1.33 * row.reported for row in rows), rows


# Plans of published shapes


def test_4b_fits_3_gb(sizes_4b: ModelSizes):
    """All 36 layers at 4096 tokens or more, with 200 MiB for the driver."""
    best = plan(sizes_4b, PlanRequest(vram=GPU_BUDGET))
    assert (best.n_gpu_layers, best.n_layers) == (36, 36)
    assert best.settings.max_tokens >= 4096 and best.vram_bytes <= GPU_BUDGET
    # The output matrix is the token embedding, which stays on the host.
    assert {part.memory for part in best.parts if part.name == "token embedding"} == {"CPU"}
    assert by_name(best)["driver"] == 209_715_200 and "output matrix (tied)" not in by_name(best)


def test_4b_at_4096_tokens_fits_3_gb(sizes_4b: ModelSizes):
    """A KV cache in 8 bits is enough."""
    best = plan(sizes_4b, PlanRequest(vram=GPU_BUDGET, max_tokens=4096))
    assert best.n_gpu_layers == 36 and best.settings.kv_type == "q8_0" and best.settings.max_tokens == 4096
    assert by_name(best)["layers (GPU)"] / MIB == pytest.approx(2071.62, abs=0.01)
    assert by_name(best)["KV cache (GPU)"] == 36 * 2 * 1024 * 4352 * 34 // 32


def test_4b_at_32768_tokens_partly_fits_3_gb(sizes_4b: ModelSizes):
    """More than half of the layers, the KV cache in 8 bits, or in 4 bits on request; the costs name it."""
    best = plan(sizes_4b, PlanRequest(vram=GPU_BUDGET, max_tokens=32768))
    assert 19 <= best.n_gpu_layers <= 21 and best.settings.kv_type == "q8_0"
    in_four = plan(sizes_4b, PlanRequest(vram=GPU_BUDGET, max_tokens=32768, kv_type="q4_0"))
    assert 25 <= in_four.n_gpu_layers <= 28 and in_four.settings.kv_type == "q4_0"
    assert best.settings.cells == 32768 and best.settings.micro_batch <= 512 and best.vram_bytes <= GPU_BUDGET
    assert any("layers run on the CPU" in cost for cost in best.costs)
    larger = larger_plan(sizes_4b, PlanRequest(max_tokens=32768), best)
    assert larger is not None and larger.n_gpu_layers == 36 and larger.vram_bytes > GPU_BUDGET


def test_encoder_needs_no_kv_cache(tmp_path: Path):
    """Texts are computed in one piece, and there is one KV type."""
    sizes = sizes_of_shape(tmp_path, "bge-large", "F16")
    best = plan(sizes, PlanRequest(vram=2_000_000_000))
    assert best.n_gpu_layers == 24 and best.settings.max_tokens == 512
    assert best.settings.micro_batch == best.settings.cells == 512
    assert not [part for part in best.parts if part.name.startswith("KV")]
    with pytest.raises(OptionError, match="can have f16"):
        plan(sizes, PlanRequest(kv_type="q8_0"))


@pytest.mark.parametrize(("n_gpu_layers", "mebibytes"), [(6, (3.7559, 17.2534)), (2, (5.7529, 5.3760))])
def test_encoder_without_flash_attention_on_cuda(n_gpu_layers: int, mebibytes: tuple[float, float], minilm_f16: Path):
    """MiniLM's heads of 32 numbers: the compute buffers that llama.cpp 0.3.36 reported on an H200, host's and GPU's."""
    header = read_header(minilm_f16)
    sizes = sizes_of(header, spec_of(header, minilm_f16))
    budgets = [2_000_000_000] if n_gpu_layers == sizes.n_layers else range(200_000_000, 400_000_000, 50_000)
    vram = next(budget for budget in budgets if _layers_in(sizes, budget) >= n_gpu_layers)
    parts = {part.name: part.size_bytes / (1 << 20) for part in plan(sizes, PlanRequest(vram, max_tokens=256)).parts}
    planned = parts["compute buffer (CPU)"], parts["compute buffer (GPU)"]
    assert planned == pytest.approx(mebibytes, abs=0.01)


def _layers_in(sizes: ModelSizes, vram: int) -> int:
    try:
        return plan(sizes, PlanRequest(vram, max_tokens=256)).n_gpu_layers
    except BudgetError:
        return 0


def test_weights_are_counted_once_without_a_gpu(sizes_4b: ModelSizes):
    """Each byte of the weights is in the host's memory once: in pages of the file, or in the CPU's own layout."""
    weights = sum(sum(layer.values()) for layer in sizes_4b.layers) + sizes_4b.input_bytes + sizes_4b.output_norm_bytes
    for ram, repack in ((None, True), (1_500_000_000, False)):
        best = plan(sizes_4b, PlanRequest(ram=ram))
        names = ("token embedding", "layers (CPU)", "layers repacked (CPU)", "output norm")
        assert sum(by_name(best).get(name, 0) for name in names) == weights
        assert best.settings.repack is repack is best.fits_ram
        assert ("layers repacked (CPU)" in by_name(best)) is repack
        assert best.vram_bytes == 0


def test_concessions_are_made_in_order(sizes_4b: ModelSizes):
    """As the budget shrinks: KV cache in 8 bits, micro-batch, token limit, KV cache in 4 bits, layers."""
    seen = []
    for vram in range(4_500_000_000, 1_500_000_000, -10_000_000):
        chosen = plan(sizes_4b, PlanRequest(vram=vram)).settings
        seen.append((chosen.n_gpu_layers, chosen.max_tokens, chosen.micro_batch, chosen.kv_type))
    firsts = [item for item, before in zip(seen, [None, *seen], strict=False) if item != before]
    whole = [item[1:] for item in firsts if item[0] == 36]
    assert whole[:4] == [(8192, 512, "f16"), (8192, 512, "q8_0"), (8192, 256, "q8_0"), (8192, 128, "q8_0")]
    in_eight = [limit for limit, _, kv_type in whole if kv_type != "q4_0"]
    assert in_eight == sorted(in_eight, reverse=True) and in_eight[-1] == 2048
    assert [kv_type for _, _, kv_type in whole[len(in_eight) :]] == ["q4_0"] * (len(whole) - len(in_eight)) != []
    # No text is cut for one layer more.
    assert {item[1] for item in firsts if item[0] < 36} == {8192}


def test_smallest_settings_leave_memory_for_weights(sizes_4b: ModelSizes):
    """Where the weights do not stay in memory: all concessions at once, but no KV cache in 4 bits for that alone."""
    best = plan(sizes_4b, PlanRequest(ram=1_500_000_000))
    assert not best.fits_ram
    assert (best.settings.kv_type, best.settings.micro_batch, best.settings.max_tokens) == ("q8_0", 128, 2048)


def test_compute_buffer_of_other_graphs_has_a_margin(sizes_4b: ModelSizes):
    """15 % more than the modelled graph needs, on both devices, and nothing else changes; the plan reports it."""
    request = PlanRequest(vram=GPU_BUDGET, max_tokens=32768)
    exact = plan(sizes_4b, request)
    assert exact.exact_compute_buffer and 0 < exact.n_gpu_layers < 36
    unknown = replace(sizes_4b, exact_compute_buffer=False)
    expected, with_margin = by_name(exact), by_name(replace(exact, parts=parts_of(unknown, exact.settings)))
    for name in ("compute buffer (CPU)", "compute buffer (GPU)"):
        assert with_margin.pop(name) / expected.pop(name) == pytest.approx(1.15, abs=1e-6)
    assert with_margin == expected
    assert not plan(unknown, request).exact_compute_buffer


# For any model and any budget

powers = st.sampled_from([1, 2, 4, 8])
types = st.sampled_from(["Q4_K", "Q6_K", "Q8_0", "F16", "other"])


@st.composite
def models(draw: st.DrawFn) -> ModelSizes:
    n_layers = draw(st.integers(1, 40))
    kv_heads, causal = draw(powers), draw(st.booleans())
    layer = st.dictionaries(types, st.integers(1, 200_000_000), min_size=1)
    return ModelSizes(
        n_layers=n_layers,
        dims=draw(st.sampled_from([384, 1024, 2560, 4096])),
        n_heads=kv_heads * draw(powers),
        n_kv_heads=kv_heads,
        head_dim=draw(st.sampled_from([32, 48, 64, 128])),
        ffn=draw(st.integers(1, 20_000)),
        vocab_size=draw(st.integers(100, 200_000)),
        context_length=65536,
        default_tokens=draw(st.sampled_from([256, 512, 8192])),
        decoder=causal,
        last_rows=causal and draw(st.booleans()),
        exact_compute_buffer=draw(st.booleans()),
        means=draw(st.booleans()),
        gated=draw(st.booleans()),
        layers=tuple([draw(layer)] * n_layers),
        input_bytes=draw(st.integers(1, 10**9)),
        input_type=draw(types),
        output_bytes=draw(st.sampled_from([0, 10**8])),
        output_norm_bytes=10_000,
    )


budgets = st.integers(10**6, 2 * 10**10)


def plan_or_none(sizes: ModelSizes, **request: int | None) -> Plan | None:
    try:
        return plan(sizes, PlanRequest(**request))  # type: ignore[arg-type]
    except BudgetError:
        return None


@settings(max_examples=40)
@given(models(), st.none() | budgets, st.none() | budgets)
def test_plan_holds_its_budgets(sizes: ModelSizes, vram: int | None, ram: int | None):
    """Within both budgets, or an error; settings that llama.cpp accepts; unique names of parts."""
    best = plan_or_none(sizes, vram=vram, ram=ram)
    if best is None:
        return
    chosen = best.settings
    assert is_within(best, vram, ram)
    assert (best.n_gpu_layers > 0) == (vram is not None) and best.n_gpu_layers <= sizes.n_layers
    assert chosen.max_tokens <= chosen.cells and chosen.micro_batch <= chosen.cells
    # More sequences than outputs would abort the process.
    assert sizes.last_rows or (chosen.n_sequences <= chosen.cells == chosen.micro_batch)
    assert len(by_name(best)) == len(best.parts) and min(part.size_bytes for part in best.parts) > 0
    assert parts_of(sizes, chosen) == best.parts


@settings(max_examples=40)
@given(models(), budgets, budgets)
def test_larger_budget_never_offloads_less(sizes: ModelSizes, one: int, other: int):
    """More GPU memory never means fewer layers on the GPU; what fits a budget fits a larger one."""
    less, more = plan_or_none(sizes, vram=min(one, other)), plan_or_none(sizes, vram=max(one, other))
    assert less is None or (more is not None and more.n_gpu_layers >= less.n_gpu_layers)


@settings(max_examples=40)
@given(models(), st.integers(4, 65536), st.integers(4, 65536), st.sampled_from([0, 1, 1000]))
def test_longer_texts_never_need_less(sizes: ModelSizes, one: int, other: int, n_gpu: int):
    """With all other settings equal, longer texts need at least as much memory, to within a megabyte.

    llama.cpp reuses parts of a compute buffer in another way once the cells exceed the micro-batch.
    """
    chosen = plan(sizes, PlanRequest(max_tokens=256)).settings
    chosen = replace(chosen, n_gpu_layers=min(n_gpu, sizes.n_layers))

    def needed(tokens: int) -> tuple[int, int]:
        batch = max(tokens, 512)
        micro_batch = 512 if sizes.last_rows else batch
        given = replace(chosen, max_tokens=tokens, cells=batch, micro_batch=micro_batch)
        parts = parts_of(sizes, given)
        return tuple(sum(part.size_bytes for part in parts if part.memory == memory) for memory in ("GPU", "CPU"))

    less, more = needed(min(one, other)), needed(max(one, other))
    assert sum(less) <= sum(more) + (1 << 20)


@settings(max_examples=30)
@given(models(), budgets)
def test_larger_and_smaller_plans_differ_from_the_plan(sizes: ModelSizes, vram: int):
    """The smaller plan needs less; the larger one needs more than the budget, or there is none."""
    best = plan_or_none(sizes, vram=vram)
    if best is None:
        return
    smaller, larger = smaller_plan(sizes, PlanRequest(), best), larger_plan(sizes, PlanRequest(), best)
    assert smaller is None or smaller.vram_bytes < best.vram_bytes
    assert larger is None or (larger.vram_bytes > vram and larger.n_gpu_layers == sizes.n_layers)
    if best.n_gpu_layers < sizes.n_layers:
        assert larger is not None


# Errors


def test_error_names_budget_and_need(sizes_4b: ModelSizes):
    """The least that is needed, and what was given."""
    with pytest.raises(BudgetError, match=r"Nothing fits in 200MB of GPU memory: 1 of 36 layers .* need 3\d\dMB"):
        plan(sizes_4b, PlanRequest(vram=200_000_000))
    with pytest.raises(BudgetError, match=r"Nothing fits in 100MB of the host's memory: .* needs \d\d\dMB"):
        plan(sizes_4b, PlanRequest(ram=100_000_000))
    with pytest.raises(BudgetError, match="host's memory"):
        plan(sizes_4b, PlanRequest(vram=GPU_BUDGET, ram=100_000_000))


@pytest.mark.parametrize("limit", [3, 0, 40961])
def test_token_limit_outside_the_model_is_refused(sizes_4b: ModelSizes, limit: int):
    """The error names the model's limit."""
    with pytest.raises(OptionError, match="40,960"):
        plan(sizes_4b, PlanRequest(max_tokens=limit))


def test_layers_without_weights_are_refused(tmp_path: Path):
    """The header counts more layers than it has tensors for."""
    path = make_empty_model(tmp_path / "model.gguf", "minilm", layers=2, vocab_size=100)
    header = read_header(path)
    spec = replace(spec_of(header, path), n_layers=3)
    with pytest.raises(ModelFileError, match="1 of 3 layers"):
        sizes_of(header, spec)


# Sizes as people write them


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("3GB", 3_000_000_000),
        ("3gb", 3_000_000_000),
        (" 3 GB ", 3_000_000_000),
        ("3GiB", 3 << 30),
        ("3000MB", 3_000_000_000),
        ("2.5GiB", 5 << 29),
        ("3e9", 3_000_000_000),
        ("3000000000", 3_000_000_000),
        ("1500000kB", 1_500_000_000),
        ("1TB", 10**12),
        ("512MiB", 512 << 20),
    ],
)
def test_sizes_are_parsed(text: str, size: int):
    """Units of 1000 and of 1024, a decimal point, an exponent, any case."""
    assert parse_bytes(text) == size


@pytest.mark.parametrize(
    "text", ["3 gigs", "3G", "GB", "", "-3GB", "3GBB", "three GB", "3,5GB", "٣GB", "nan", "inf", "3GB😉"]
)
def test_invalid_size_is_refused(text: str):
    """The error shows how to write one."""
    with pytest.raises(OptionError, match="Write 3GB"):
        parse_bytes(text)


@pytest.mark.parametrize("text", ["3", "0GB", "999kB"])
def test_size_without_unit_is_refused(text: str):
    """Three bytes cannot be meant."""
    with pytest.raises(OptionError, match="less than a megabyte"):
        parse_bytes(text)


@given(st.integers(10**6, 10**13))
def test_printed_size_can_be_used_as_budget(size: int):
    """What `in_gigabytes` prints, `parse_bytes` reads as at least as many bytes."""
    assert size <= parse_bytes(in_gigabytes(size)) <= size * 1.01 + 10**6
