"""The choice of device and plan: budgets, memory in use, containers, GPUs that report wrong figures."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qgguf import Embedder
from qgguf.errors import BudgetError, DeviceError, DeviceMemoryError, OptionError
from qgguf.gguf_format.reader import read_header
from qgguf.hardware.ram import HostMemory
from qgguf.inference import engine
from qgguf.inference.placement import Resources, choose_placement, compare_memory, needed_bytes, next_smaller
from qgguf.memory.planner import DRIVER_PARTS, REPACKED, ModelSizes, PlanRequest, worth_repacking
from qgguf.model.from_gguf import sizes_of, spec_of
from qgguf.native.devices import Device
from tests.support.empty_model import make_empty_model
from tests.support.processes import qgguf

GB = 10**9
CPU = Device("CPU", "a processor", "cpu", "CPU", 0, 0)
CARD = Device("CUDA0", "RTX 3060 é", "gpu", "CUDA", 12 * GB, 12 * GB)
HOST = HostMemory(32 * GB, 30 * GB, False)


def machine(*gpus: Device, host: HostMemory | None = HOST) -> Resources:
    return Resources([*gpus, CPU], [*(gpu.backend for gpu in gpus), "CPU"], host, REPACKED)


@pytest.fixture(scope="module")
def sizes(tmp_path_factory: pytest.TempPathFactory) -> ModelSizes:
    """Qwen3-Embedding-4B in Q4_K_M."""
    path = make_empty_model(tmp_path_factory.mktemp("4b") / "4b.gguf", "4b", "Q4_K_M")
    header = read_header(path)
    return sizes_of(header, spec_of(header, path))


# The rules


def test_budget_is_held(sizes: ModelSizes, caplog: pytest.LogCaptureFixture):
    """3 GB of a card with 12 GB: all layers on it, and one log line with the device, the reason and the plan."""
    caplog.set_level(logging.INFO, "qgguf")
    placement = choose_placement(sizes, "auto", PlanRequest(vram=3 * GB), machine(CARD))
    assert placement.device == CARD and placement.plan.n_gpu_layers == 36 and placement.plan.vram_bytes <= 3 * GB
    (line,) = (record.message for record in caplog.records if record.levelno == logging.INFO)
    for word in ("RTX 3060 é", "36 of 36 layers", "tokens", "the GPU of this machine"):
        assert word in line


def test_default_budget_leaves_a_twentieth_free(sizes: ModelSizes):
    """Without a budget: the best settings where they fit, else within what is free, less 5 % of the card."""
    placement = choose_placement(sizes, "auto", PlanRequest(), machine(CARD))
    assert placement.plan.settings.kv_type == "f16" and placement.plan.costs == ()
    tight = replace(CARD, free_bytes=4 * GB)
    assert (
        choose_placement(sizes, "auto", PlanRequest(), machine(tight)).plan.vram_bytes <= 3_400_000_000
    )  # 4 GB - 5 % of 12 GB


def test_memory_in_use_is_respected(sizes: ModelSizes, caplog: pytest.LogCaptureFixture):
    """A budget of 3 GB where 2 GB are free: at most 2 GB, and a warning."""
    placement = choose_placement(sizes, "gpu", PlanRequest(vram=3 * GB), machine(replace(CARD, free_bytes=2 * GB)))
    assert placement.plan.vram_bytes <= 2 * GB and 0 < placement.plan.n_gpu_layers < 36
    assert "vram is 3GB, but other programs leave 2GB of 12GB." in caplog.text


def test_auto_falls_back_to_the_cpu_and_gpu_does_not(sizes: ModelSizes, caplog: pytest.LogCaptureFixture):
    """A budget too small for one layer: auto runs on the CPU and logs why, gpu raises with both numbers."""
    placement = choose_placement(sizes, "auto", PlanRequest(vram=200_000_000), machine(CARD))
    assert placement.device == CPU and placement.plan.n_gpu_layers == 0 == placement.plan.vram_bytes
    assert "Not on CUDA0" in caplog.text and "Nothing fits in 200MB" in caplog.text
    for asked in ("gpu", "cuda"):
        with pytest.raises(BudgetError, match=r"RTX 3060 é.*Nothing fits in 200MB of GPU memory: .* need \d+MB"):
            choose_placement(sizes, asked, PlanRequest(vram=200_000_000), machine(CARD))


def test_cpu_uses_no_gpu(sizes: ModelSizes):
    """Even if a GPU is free and has a budget."""
    placement = choose_placement(sizes, "cpu", PlanRequest(vram=3 * GB), machine(CARD))
    assert placement.device == CPU and placement.plan.vram_bytes == 0


def test_gpu_that_reports_no_memory(sizes: ModelSizes):
    """The budget holds; without one, everything is assumed to fit."""
    silent = Device("Vulkan0", "old driver", "gpu", "Vulkan", 0, 0)
    assert choose_placement(sizes, "auto", PlanRequest(vram=3 * GB), machine(silent)).plan.vram_bytes <= 3 * GB
    assert choose_placement(sizes, "auto", PlanRequest(), machine(silent)).plan.settings.kv_type == "f16"


@pytest.mark.parametrize("container", [True, False])
def test_host_memory_is_a_budget(sizes: ModelSizes, container: bool):
    """A container's limit, a small machine, and ram=: the weights are not repacked where the copy does not fit."""
    plenty = choose_placement(sizes, "auto", PlanRequest(), machine())
    assert plenty.plan.settings.repack and plenty.plan.fits_ram
    small = HostMemory(2 * GB, 2 * GB, container)
    for placement in (
        choose_placement(sizes, "auto", PlanRequest(), machine(host=small)),
        choose_placement(sizes, "auto", PlanRequest(ram=2 * GB), machine()),
    ):
        assert not placement.plan.settings.repack and placement.plan.unmapped_ram_bytes <= 2 * GB == max(
            2 * GB, needed_bytes(placement)
        )
        assert any("read from the disk" in cost for cost in placement.plan.costs)
    with pytest.raises(BudgetError, match=r"Nothing fits in 100MB of the host's memory: .* needs \d+MB"):
        choose_placement(sizes, "auto", PlanRequest(ram=100_000_000), machine())


def test_weights_are_repacked_only_where_it_helps(sizes: ModelSizes):
    """On AVX-512 K-types are faster without; the plan then has no copy, and is the same otherwise."""
    without = worth_repacking("x86_64", frozenset(["avx2", "avx512_vnni"]))
    assert without == REPACKED - {"Q4_K"}
    assert worth_repacking("x86_64", frozenset(["avx2"])) == REPACKED < worth_repacking("arm64", frozenset())
    plans = [
        choose_placement(sizes, "auto", PlanRequest(), replace(machine(), repacked=types)).plan
        for types in (REPACKED, without)
    ]
    assert [plan.settings.repack for plan in plans] == [True, False]
    assert plans[0].unmapped_ram_bytes - plans[1].unmapped_ram_bytes > GB and plans[1].fits_ram
    assert replace(plans[1].settings, repack=True) == plans[0].settings


@settings(max_examples=40)
@given(
    st.sampled_from(["auto", "gpu", "cpu"]),
    st.none() | st.integers(10**6, 2 * 10**10),
    st.integers(0, 12 * GB),
    st.none() | st.integers(10**6, 2 * 10**10),
    st.none() | st.sampled_from([256, 4096, 32768]),
)
def test_budgets_always_hold(
    sizes: ModelSizes, device: str, vram: int | None, free: int, ram: int | None, max_tokens: int | None
):
    """For any request and any free memory: within the budgets, or an error; auto fails only for the host's memory."""
    request = PlanRequest(vram, ram, max_tokens)
    try:
        placement = choose_placement(sizes, device, request, machine(replace(CARD, free_bytes=free)))
    except BudgetError:
        assert device == "gpu" or (ram or HOST.limit_bytes) < 3 * GB
        return
    assert placement.plan.vram_bytes <= min(vram or free, free)
    assert placement.plan.required_ram_bytes <= (ram or HOST.limit_bytes)
    assert max_tokens is None or placement.plan.settings.max_tokens == max_tokens
    smaller = next_smaller(sizes, request, machine(CARD), placement)
    assert smaller is None or needed_bytes(smaller) < needed_bytes(placement)


# Faults at loading. The GPU is simulated by its entry in the list of devices; everything else is real.


@pytest.fixture
def vanished_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that the planner sees and llama.cpp does not find when it loads."""
    monkeypatch.setattr(engine, "list_devices", lambda: [CARD, CPU])
    monkeypatch.setattr(engine, "list_backends", lambda: ["CUDA", "CPU"])


@pytest.mark.usefixtures("vanished_gpu")
def test_gpu_may_vanish_between_plan_and_load(small_qwen3: Path, caplog: pytest.LogCaptureFixture):
    """auto falls back to the CPU and logs it; gpu raises, in one line."""
    with Embedder(small_qwen3, device="auto") as model:
        assert model.device == "cpu" and model.plan.vram_bytes == 0 and np.isfinite(model.encode("é 한 😉")).all()
    assert "CUDA0 (RTX 3060 é, CUDA, 12.0 of 12.0 GB free) is gone" in caplog.text
    with pytest.raises(DeviceError, match="is gone") as refused:
        Embedder(small_qwen3, device="gpu")
    assert "\n" not in str(refused.value)


class FailingModel:
    """NativeModel on a card with less memory than it reports: the first loads fail as llama.cpp's do."""

    def __init__(self, n_failures: int) -> None:
        self.n_failures, self.layers = n_failures, list[int]()

    def __call__(self, path: Path, spec: object, device: Device, *, gpu_layers: int, **_: object) -> object:
        self.layers.append(gpu_layers)
        if len(self.layers) <= self.n_failures:
            raise DeviceMemoryError(f"{device} has no room for {gpu_layers} layers: cudaMalloc failed: out of memory.")
        from qgguf.native.model import NativeModel

        return NativeModel(path, spec, CPU, gpu_layers=0)  # type: ignore[arg-type]


@pytest.mark.usefixtures("vanished_gpu")
def test_load_out_of_memory_is_retried_once(
    small_qwen3: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """With the next smaller plan and a warning; if that fails too, the error has both numbers."""
    once = FailingModel(1)
    monkeypatch.setattr(engine, "NativeModel", once)
    with Embedder(small_qwen3, device="gpu") as model:
        assert np.isfinite(model.encode("é")).all()
        assert len(once.layers) == 2
        planned = model.plan
    (warning,) = (record.message for record in caplog.records if "trying one of" in record.message)
    assert "out of memory" in warning and warning.count("MB") == 2
    always = FailingModel(9)
    monkeypatch.setattr(engine, "NativeModel", always)
    with pytest.raises(DeviceMemoryError, match=r"Plans of \d+MB and of \d+MB both failed\.$"):
        Embedder(small_qwen3, device="gpu")
    assert len(always.layers) == 2 and planned.vram_bytes < choose_placement(
        sizes_of_file(small_qwen3), "auto", PlanRequest(), machine(CARD)
    ).plan.vram_bytes  # fmt: skip


@pytest.mark.usefixtures("vanished_gpu")
def test_auto_goes_to_the_cpu_when_loads_on_the_gpu_fail(
    small_qwen3: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """After the second plan for the card; the log has the reason with both numbers."""
    twice = FailingModel(2)
    monkeypatch.setattr(engine, "NativeModel", twice)
    with Embedder(small_qwen3, device="auto") as model:
        assert (model.device, model.plan.vram_bytes) == ("cpu", 0) and np.isfinite(model.encode("é")).all()
    assert len(twice.layers) == 3 and twice.layers[-1] == 0
    assert sum("both failed." in record.message for record in caplog.records) == 1


def sizes_of_file(path: Path) -> ModelSizes:
    header = read_header(path)
    return sizes_of(header, spec_of(header, path))


def test_layers_missing_on_the_gpu_are_logged(
    small_qwen3: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """A binding that accepts n_gpu_layers and ignores it: the card's free memory does not change."""
    figures = iter([12 * GB, 12 * GB - 1_000_000])
    monkeypatch.setattr(engine, "list_devices", lambda: [replace(CARD, free_bytes=next(figures)), CPU])
    monkeypatch.setattr(engine, "list_backends", lambda: ["CUDA", "CPU"])
    monkeypatch.setattr(engine, "NativeModel", FailingModel(0))
    with Embedder(small_qwen3, device="gpu"):
        pass
    assert "CUDA0 has 1MB less free than before" in caplog.text and "The layers may not be on it" in caplog.text


# Arguments, options and variables


@pytest.mark.parametrize(
    ("share_of_buffers", "level"),
    [(0.3, logging.WARNING), (0.7, logging.INFO), (1.0, logging.INFO), (9.0, logging.WARNING)],
)
def test_drivers_share_is_not_missed(
    share_of_buffers: float, level: int, small_qwen3: Path, caplog: pytest.LogCaptureFixture
):
    """With a small model, the driver's share is most of the plan; a driver that takes less of it is no fault."""
    caplog.set_level(logging.INFO, "qgguf")
    placement = choose_placement(sizes_of_file(small_qwen3), "gpu", PlanRequest(), machine(CARD))
    parts = {part.name: part.size_bytes for part in placement.plan.parts if part.memory == "GPU"}
    assert parts["driver"] > placement.plan.vram_bytes / 2
    buffers = sum(size for name, size in parts.items() if name not in DRIVER_PARTS)
    caplog.clear()
    compare_memory(placement, [replace(CARD, free_bytes=CARD.free_bytes - int(share_of_buffers * buffers)), CPU])
    (record,) = caplog.records
    assert record.levelno == level and "245MB were planned" in record.getMessage()


@pytest.mark.parametrize("name", ["vram", "ram"])
@pytest.mark.parametrize("written", ["3 gigs", "", "3", True, 2.5, -1, 0])
def test_invalid_budget_is_refused(small_qwen3: Path, name: str, written: object):
    """In one line, which names the argument and shows how to write it."""
    with pytest.raises(OptionError, match=f"^{name}.*3GB") as refused:
        Embedder(small_qwen3, **{name: written})  # type: ignore[arg-type]
    assert "\n" not in str(refused.value)


def test_budgets_from_options_and_environment(small_qwen3: Path, tmp_path: Path):
    """Exit code 2 for wrong usage, 1 for a budget too small, both in one line; $QGGUF_VRAM is the default."""
    run = ["embed", "-m", str(small_qwen3), "é"]
    wrong = qgguf(*run, "--vram", "3 gigs", home=tmp_path)
    assert wrong.returncode == 2 and b"'3 gigs' is not a number of bytes. Write 3GB" in wrong.stderr
    wrong = qgguf(*run, home=tmp_path, QGGUF_VRAM="3 gigs")
    assert wrong.returncode == 1 and wrong.stderr.startswith(b"Error: QGGUF_VRAM: '3 gigs' is not a number of bytes.")
    small = qgguf(*run, "--ram", "1MB", home=tmp_path)
    assert small.returncode == 1 and small.stderr.startswith(b"Error: Nothing fits in 1MB of the host's memory")
    assert len(wrong.stderr.splitlines()) == len(small.stderr.splitlines()) == 1
    fine = qgguf(*run, "--ram", "2GB", "--vram", "3GB", "--device", "cpu", home=tmp_path)
    assert (fine.returncode, fine.stderr) == (0, b"")


def test_plan_is_what_runs(small_qwen3: Path):
    """Token limit, KV type and batch of the plan are those of the context; the vectors are equal to within 0.99."""
    with Embedder(small_qwen3) as plain, Embedder(small_qwen3, kv_type="q8_0", max_tokens=64, ram="300MB") as small:
        assert small.max_tokens == 64 == small.plan.settings.max_tokens and small.plan.settings.kv_type == "q8_0"
        texts = ["é", "한국어 😉", "word " * 20]
        assert (plain.encode(texts) * small.encode(texts)).sum(axis=1).min() > 0.99
        assert 0 < small.plan.ram_bytes <= 300_000_000
    with pytest.raises(OptionError, match="kv_type='q5_0'; this model can have f16, q8_0, q4_0"):
        Embedder(small_qwen3, kv_type="q5_0")
