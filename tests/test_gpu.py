"""Models on a GPU: vectors, caches, budgets, and the plan against what llama.cpp reports.

Skipped where llama.cpp finds no GPU. scripts/gpu_software runs them on Mesa's software device with `--gpu`, which makes
them fail instead. What Mesa and llama.cpp cannot do there is in docs/install.md.
"""

import json
import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qgguf import Embedder
from qgguf.errors import BudgetError, DeviceError
from qgguf.gguf_format.reader import read_header
from qgguf.memory.planner import PlanRequest, plan
from qgguf.model.from_gguf import sizes_of, spec_of
from qgguf.native.devices import Device, choose_device, list_backends, list_devices
from qgguf.units import in_gigabytes, parse_bytes
from tests.support.comparing import cosines
from tests.support.processes import qgguf, run_code
from tests.support.texts import GOLDEN, QUERIES

# Few texts: a software device computes MiniLM at a few tokens per second.
NAMES = ["english", "korean", "hebrew", "thai", "python", "emoji", "combining", "empty"]
INDICES = [list(GOLDEN).index(name) for name in NAMES]
DOCUMENTS, QUESTIONS = [GOLDEN[name] for name in NAMES], list(QUERIES.values())
SHORT = ["é", "한국어 텍스트", "😉", "a shared beginning of é 1", "a shared beginning of é 2"]
TEXTS = [*SHORT, "word 한 " * 90]  # in small_qwen3, the last has more tokens than a micro-batch
GOLDEN_FOLDER = Path(__file__).parent / "golden"
# Kernels of GPUs multiply in half precision, which the CPU does not.
LEAST_ON_GPU, LEAST_ON_CPU = 0.9995, 0.9999
MIB = 1 << 20


@pytest.fixture(scope="module", autouse=True)
def gpu(pytestconfig: pytest.Config) -> Device:
    """The GPU that device="gpu" stands for."""
    if not any(device.is_gpu for device in list_devices()):
        missing = pytest.fail if pytestconfig.getoption("--gpu") else pytest.skip
        missing("llama.cpp finds no GPU here; scripts/gpu_software tests on a software device")
    return choose_device("gpu", list_devices(), list_backends())[0]


def budget(path: Path, n_layers: int, **request: Any) -> int:
    """Return the smallest `vram` with which the planner puts so many layers on the GPU."""
    header = read_header(path)
    sizes = sizes_of(header, spec_of(header, path))
    low, high = 0, 1 << 40
    while high - low > 1:
        middle = (low + high) // 2
        try:
            enough = plan(sizes, PlanRequest(vram=middle, **request)).n_gpu_layers >= n_layers
        except BudgetError:
            enough = False
        low, high = (low, middle) if enough else (middle, high)
    return high


@pytest.fixture(params=["minilm", "qwen3"])
def model(request: pytest.FixtureRequest) -> tuple[str, Path]:
    """An encoder and a decoder in F16: those of the golden vectors."""
    return request.param, request.getfixturevalue(f"{request.param}_f16")


# Vectors


@pytest.mark.parametrize("on_gpu", ["all", "some", "none"])
def test_vectors_equal_the_references(on_gpu: str, model: tuple[str, Path]):
    """With all, some or no layers on the GPU, each text's vector is the one that sentence-transformers gives."""
    name, path = model
    options: dict[str, Any] = {"device": "cpu" if on_gpu == "none" else "gpu"}
    if on_gpu == "some":
        options |= {"vram": budget(path, 2, kv_type="f16", max_tokens=256), "kv_type": "f16", "max_tokens": 256}
    least = LEAST_ON_CPU if on_gpu == "none" else LEAST_ON_GPU
    with np.load(GOLDEN_FOLDER / f"{name}.npz") as golden, Embedder(path, **options) as embedder:
        n_layers = {"all": embedder.spec.n_layers, "some": 2, "none": 0}[on_gpu]
        assert (embedder.plan.n_gpu_layers, embedder.device) == (n_layers, "gpu" if n_layers else "cpu")
        documents = embedder.encode_document(DOCUMENTS)
        worst = min(zip(cosines(documents, golden["documents"][INDICES]), NAMES, strict=True))
        assert worst[0] >= least, worst
        # The second call takes the prompt from the KV cache.
        for _ in range(2):
            assert cosines(embedder.encode_query(QUESTIONS), golden["queries"]).min() >= least


@pytest.mark.parametrize("strategy", ["last_rows", "two_calls", "plain"])
def test_each_strategy_gives_the_cpus_vectors(strategy: str, small_qwen3: Path):
    """Long texts, texts that share a beginning and single texts, in a batch and alone."""
    with Embedder(small_qwen3, device="cpu") as cpu:
        expected = cpu.encode(TEXTS)
    with Embedder(small_qwen3, device="gpu", strategy=strategy, max_tokens=2048) as embedder:
        assert cosines(embedder.encode(TEXTS), expected).min() >= LEAST_ON_GPU
        assert (
            cosines(np.stack([embedder.encode(text) for text in SHORT]), expected[: len(SHORT)]).min() >= LEAST_ON_GPU
        )


@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_pooling_and_attention_are_the_cpus(pooling: str, attention: str, small_qwen3: Path):
    """A decoder whose rows llama.cpp pools, and one that sees the whole text."""
    options: dict[str, Any] = {"pooling": pooling, "attention": attention, "max_tokens": 512}
    with Embedder(small_qwen3, device="cpu", **options) as cpu, Embedder(small_qwen3, device="gpu", **options) as gpu:
        assert cosines(gpu.encode(SHORT), cpu.encode(SHORT)).min() >= LEAST_ON_GPU


@pytest.mark.parametrize(("kv_type", "least"), [("q8_0", 0.997), ("q4_0", 0.94)])
def test_quantised_cache_costs_what_the_plan_states(kv_type: str, least: float, small_qwen3: Path):
    """The vectors with a cache in 8 or 4 bits on the GPU, against those of 16 bits on the CPU."""
    with Embedder(small_qwen3, device="cpu", kv_type="f16") as cpu:
        expected = cpu.encode(TEXTS)
    with Embedder(small_qwen3, device="gpu", kv_type=kv_type) as embedder:
        assert embedder.plan.settings.kv_type == kv_type
        assert any(str(least) in cost for cost in embedder.plan.costs)
        assert cosines(embedder.encode(TEXTS), expected).min() >= least


@pytest.mark.parametrize("file", ["minilm_q8", "minilm_q4", "qwen3_q4"])
def test_quantised_weights_give_the_cpus_vectors(file: str, request: pytest.FixtureRequest):
    """In Q8_0 and Q4_K_M, up to the rounding of other kernels."""
    path = request.getfixturevalue(file)
    with Embedder(path, device="cpu") as cpu, Embedder(path, device="gpu") as embedder:
        assert cosines(embedder.encode(SHORT), cpu.encode(SHORT)).min() >= 0.99
        # On a GPU a few rows are rounded by other kernels than many; that is no reason for a slower strategy.
        assert embedder._engine.strategy == cpu._engine.strategy


# Budgets


def test_too_small_budget_is_refused_with_both_numbers(model: tuple[str, Path], gpu: Device):
    """The message has the device, what it may use and what is needed."""
    path = model[1]
    needed = budget(path, 1)
    for vram in (needed // 2, needed - 1):
        with pytest.raises(BudgetError) as refused:
            Embedder(path, device="gpu", vram=vram)
        assert gpu.name in str(refused.value) and " layers on the GPU" in str(refused.value)
        given, wanted = (parse_bytes(word) for word in re.findall(r"[\d.]+[MG]B(?= of GPU|,)", str(refused.value))[-2:])
        assert given == pytest.approx(vram, rel=0.01) and wanted == pytest.approx(needed, rel=0.01)
    with Embedder(path, device="gpu", vram=needed) as embedder:
        assert embedder.plan.n_gpu_layers and embedder.plan.vram_bytes <= needed


def test_auto_goes_to_the_cpu_with_a_warning(small_qwen3: Path, gpu: Device, caplog: pytest.LogCaptureFixture):
    """Where the budget is too small for device="auto", the log states both numbers, and the CPU computes."""
    with Embedder(small_qwen3, device="auto", vram="50MB") as embedder:
        assert (embedder.device, embedder.plan.n_gpu_layers) == ("cpu", 0)
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert (
        len(warnings) == 1 and warnings[0].startswith(f"Not on {gpu.name}") and "in 50MB of GPU memory" in warnings[0]
    )


def test_budget_over_the_free_memory_warns(small_qwen3: Path, gpu: Device, caplog: pytest.LogCaptureFixture):
    """No plan uses more than other programs leave."""
    if not gpu.total_bytes:
        pytest.skip("the device does not report its memory")
    with Embedder(small_qwen3, device="gpu", vram=2 * gpu.total_bytes):
        pass
    assert f"vram is {in_gigabytes(2 * gpu.total_bytes)}, but other programs leave" in caplog.text


# The plan


def reported(log: str, what: str, device: str) -> float:
    """Return the MiB of a buffer on a device, of the last model that llama.cpp logged."""
    sizes = re.findall(rf"^\S+:\s+{device}\s+{what} buffer size = *([\d.]+) MiB", log, re.MULTILINE)
    return float(sizes[-1]) if sizes else 0.0


@pytest.mark.parametrize(
    ("file", "pooling", "on_gpu", "kv_type"),
    [
        ("minilm_f16", "mean", "all", "f16"),
        ("minilm_f16", "mean", "some", "f16"),
        ("qwen3_f16", "last", "all", "f16"),
        ("qwen3_f16", "last", "all", "q8_0"),
        ("qwen3_f16", "last", "all", "q4_0"),
        ("qwen3_f16", "last", "some", "f16"),
        ("qwen3_f16", "last", "some", "q8_0"),
        ("small_qwen3", "mean", "all", "f16"),
    ],
)
def test_plan_is_what_llama_cpp_reports(
    file: str, pooling: str, on_gpu: str, kv_type: str, gpu: Device, request: pytest.FixtureRequest,
    caplog: pytest.LogCaptureFixture,
):  # fmt: skip
    """Weights, KV cache and compute buffer on the GPU are as planned, within 5 % or 0.6 MiB; together never more."""
    path = request.getfixturevalue(file)
    options: dict[str, Any] = {"kv_type": kv_type, "max_tokens": 256}
    if on_gpu == "some":
        options["vram"] = budget(path, 2, **options)
    caplog.set_level(logging.DEBUG, "qgguf.llama")
    with Embedder(path, device="gpu", pooling=pooling, **options) as embedder:
        assert embedder.plan.n_gpu_layers == (2 if on_gpu == "some" else embedder.spec.n_layers)
        parts = {part.name: part.size_bytes / MIB for part in embedder.plan.parts if part.memory == "GPU"}
    log = "\n".join(record.getMessage() for record in caplog.records if record.name == "qgguf.llama")
    weights = sum(parts.get(name, 0) for name in ("layers (GPU)", "output norm", "output matrix (tied)"))
    for what, planned in (
        ("model", weights),
        ("KV", parts.get("KV cache (GPU)", 0)),
        ("compute", parts["compute buffer (GPU)"]),
    ):
        actual = reported(log, what, gpu.name)
        if what == "compute" and file == "minilm_f16" and gpu.backend != "CUDA":
            # Its heads of 32 have no flash attention with CUDA, for which the plan is.
            assert actual <= planned, parts
            continue
        assert actual == pytest.approx(planned, rel=0.05, abs=0.6), (what, parts)
    total = sum(reported(log, what, gpu.name) for what in ("model", "KV", "compute"))
    assert 0 < total <= sum(parts.values()) - parts["driver"]


# A program


def test_command_uses_the_gpu(small_qwen3: Path, gpu: Device, tmp_path: Path):
    """`qgguf embed --device gpu` gives the library's vectors; another backend than the device's is refused by name."""
    arguments = ["embed", "-m", str(small_qwen3), "-f", "jsonl", "한국어 é 😉"]
    done = qgguf(*arguments, "--device", "gpu", "-v", home=tmp_path)
    assert done.returncode == 0 and f"Running on {gpu.name}".encode() in done.stderr, done.stderr
    with Embedder(small_qwen3, device="cpu") as cpu:
        assert cosines(np.array(json.loads(done.stdout)["embedding"]), cpu.encode("한국어 é 😉")).min() >= LEAST_ON_GPU
    refused = qgguf(*arguments, "--device", "gpu", "--vram", "9MB", home=tmp_path)
    assert refused.returncode == 1 and len(refused.stderr.splitlines()) == 1
    assert b"Nothing fits in 9MB of GPU memory" in refused.stderr
    if gpu.backend != "CUDA":
        with pytest.raises(DeviceError, match=f"device=gpu would use {gpu.name}"):
            Embedder(small_qwen3, device="cuda")


@pytest.mark.parametrize(
    ("device", "limit", "code", "words"),
    [
        ("gpu", 8_000_000, 0, "A plan of 245MB failed; trying one of 239MB."),
        ("gpu", 2_000_000, 1, "Plans of 245MB and of 239MB both failed."),
        ("auto", 2_000_000, 0, "Plans of 245MB and of 239MB both failed."),
    ],
)
def test_failed_allocation_is_no_abort(
    device: str, limit: int, code: int, words: str, small_qwen3: Path, gpu: Device, tmp_path: Path
):
    """Where the device refuses a buffer, a smaller plan is tried, then the CPU with auto, else it is one error."""
    if gpu.backend != "Vulkan":
        pytest.skip("only Vulkan's allocations can be limited")
    arguments = ["embed", "-m", str(small_qwen3), "-f", "jsonl", "--device", device, "한국어 é 😉"]
    done = qgguf(*arguments, home=tmp_path, GGML_VK_FORCE_MAX_BUFFER_SIZE=str(limit))
    assert done.returncode == code and words in done.stderr.decode(), done.stderr
    if code == 0:
        with Embedder(small_qwen3, device="cpu") as cpu:
            expected = cpu.encode("한국어 é 😉")
        assert cosines(np.array(json.loads(done.stdout)["embedding"]), expected).min() >= 0.997


def test_driver_that_is_missing_is_named(small_qwen3: Path, gpu: Device, tmp_path: Path):
    """Without its driver, a build for Vulkan advises to check it, and auto uses the CPU."""
    if gpu.backend != "Vulkan":
        pytest.skip("the driver of another backend cannot be hidden")
    arguments = ["embed", "-m", str(small_qwen3), "é"]
    hidden = {"VK_DRIVER_FILES": str(tmp_path / "none.json")}
    refused = qgguf(*arguments, "--device", "gpu", home=tmp_path, **hidden)
    assert refused.returncode == 1 and b"has Vulkan, which finds no GPU here. Check the driver" in refused.stderr
    assert qgguf(*arguments, home=tmp_path, **hidden).returncode == 0


def test_doctor_tries_the_model_on_the_gpu(small_qwen3: Path, gpu: Device, tmp_path: Path):
    """Its report has the device, and a comparison with llama.cpp's own path on the CPU that finds nothing wrong."""
    done = qgguf("doctor", "--json", str(small_qwen3), home=tmp_path)
    assert gpu.name in done.stdout.decode() and done.returncode == 0, done.stdout.decode()


def test_program_that_ends_while_a_gpu_computes_is_quiet(small_qwen3: Path, tmp_path: Path):
    """Exit code 0 and nothing on stderr, with a daemon thread inside the device's queue."""
    done = run_code(
        "import sys, threading, time\nfrom qgguf import Embedder\n"
        f"model = Embedder({str(small_qwen3)!r}, device='gpu', max_tokens=2048)\nmodel.encode('é')\n"
        "threading.Thread(target=lambda: [model.encode('word 한 ' * 300) for _ in range(99)], daemon=True).start()\n"
        "time.sleep(1)\nprint('end')\n",
        home=tmp_path,
    )
    assert (done.returncode, done.stdout) == (0, "end\n") and "rror" not in done.stderr, done.stderr


def test_memory_of_closed_models_is_used_again(small_qwen3: Path):
    """Twenty models, opened and closed one after the other, compute as the first did."""
    vectors = []
    for _ in range(20):
        with Embedder(small_qwen3, device="gpu", max_tokens=512) as embedder:
            vectors.append(embedder.encode("é 한 😉"))
    assert cosines(vectors[1:], np.stack([vectors[0]] * 19)).min() >= 0.99999
