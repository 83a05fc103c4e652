"""Devices of the binding, the choice among them, and how a model is put on one."""

import logging
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qgguf import Embedder
from qgguf.errors import DeviceError, OptionError
from qgguf.model.from_gguf import read_spec
from qgguf.model.spec import Pooling
from qgguf.native import binding
from qgguf.native.builds import BINDING_VERSION
from qgguf.native.devices import Device, choose_device, handle_of, list_backends, list_devices
from qgguf.native.model import NativeModel
from qgguf.settings import DEVICES
from tests.support.processes import run_code

HOST = Device("CPU", "a processor", "cpu", "CPU", 8_000_000_000, 8_000_000_000)
TEXTS = ["é", "한국어", "😉", "word " * 300]


def has_gpu() -> bool:
    return any(device.is_gpu for device in list_devices())


needs_gpu = pytest.mark.skipif(not has_gpu(), reason="this llama-cpp-python finds no GPU")
needs_none = pytest.mark.skipif(has_gpu(), reason="there is a GPU")


# What there is


def test_the_cpu_is_a_device_with_the_machines_memory():
    """Its total is /proc/meminfo's, its backend is CPU."""
    (cpu,) = (device for device in list_devices() if device.kind == "cpu")
    assert cpu.backend == "CPU" and cpu.name == "CPU" and cpu.description
    assert 0 < cpu.free_bytes <= cpu.total_bytes
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        kilobytes = int(meminfo.read_text().split("MemTotal:")[1].split()[0])
        assert cpu.total_bytes == pytest.approx(kilobytes * 1024, rel=0.001)


def test_gpus_are_there_where_llama_cpp_offloads():
    """The second truth is llama.cpp's own answer; a build with RPC says yes without any GPU."""
    if "RPC" not in list_backends():
        assert has_gpu() == binding.llama().llama_supports_gpu_offload()
    assert "CPU" in list_backends()


def test_a_device_that_is_gone_is_told():
    """Between a plan and a load a card can vanish; the name in the message is the card's."""
    with pytest.raises(DeviceError, match=r"CUDA7 \(RTX 9, CUDA, 3.0 of 4.0 GB free\) is gone"):
        handle_of(Device("CUDA7", "RTX 9", "gpu", "CUDA", 3_000_000_000, 4_000_000_000))


# The choice

devices = st.builds(
    Device,
    name=st.sampled_from(["CUDA0", "CUDA1", "Vulkan0", "MTL0", "ROCm0"]),
    description=st.sampled_from(["é 한 😉", "RTX 3060"]),
    kind=st.sampled_from(["gpu", "igpu", "accel"]),
    backend=st.sampled_from(["CUDA", "Vulkan", "Metal", "ROCm"]),
    free_bytes=st.integers(0, 10**11),
    total_bytes=st.integers(0, 10**11),
)


@given(st.sampled_from(DEVICES), st.lists(devices, max_size=4), st.integers(0, 4))
def test_the_choice(asked: str, others: list[Device], place: int):
    """What is asked for is given or refused; auto is never refused, and takes a GPU exactly where there is one."""
    there = [*others[:place], HOST, *others[place:]]
    backends = ["CPU", *(device.backend for device in others)]
    fit = [device for device in others if device.is_gpu and (asked != "cuda" or device.backend == "CUDA")]
    try:
        chosen, reason = choose_device(asked, there, backends)
    except DeviceError:
        assert asked in ("gpu", "cuda") and not fit
        return
    assert reason and chosen in there
    if asked == "cpu" or not fit:
        assert asked in ("cpu", "auto") and chosen == HOST
        return
    assert chosen in fit
    own_memory = [device for device in fit if device.kind == "gpu"]
    assert chosen.free_bytes == max(device.free_bytes for device in own_memory or fit)


def test_a_refusal_names_the_command():
    """Without a build: the line that makes one, for the shell of the system. With one: the driver."""
    with pytest.raises(DeviceError) as refused:
        choose_device("cuda", [HOST], ["CPU"], "linux")
    assert 'CMAKE_ARGS="-DGGML_CUDA=on" pip install' in str(refused.value)
    assert f"llama-cpp-python=={BINDING_VERSION}" in str(refused.value) and "without CUDA" in str(refused.value)
    with pytest.raises(DeviceError, match=r'\$env:CMAKE_ARGS = "-DGGML_CUDA=on"; pip install'):
        choose_device("gpu", [HOST], ["CPU"], "win32")
    with pytest.raises(DeviceError, match="-DGGML_METAL=on"):
        choose_device("gpu", [HOST], ["CPU", "BLAS"], "darwin")
    with pytest.raises(DeviceError, match=r"has CUDA, which finds no GPU here\. Look at the driver"):
        choose_device("gpu", [HOST], ["CUDA", "CPU"], "linux")
    arc = Device("Vulkan0", "Arc", "gpu", "Vulkan", 1, 2)
    with pytest.raises(DeviceError, match="there is Vulkan0: device=gpu"):
        choose_device("cuda", [arc, HOST], ["Vulkan", "CPU"], "linux")
    with pytest.raises(OptionError, match="auto, cpu, gpu and cuda"):
        choose_device("tpu", [HOST], ["CPU"])
    with pytest.raises(DeviceError, match="no CPU backend"):
        choose_device("auto", [], [])


# A model on a device


def test_one_log_line_says_where_and_why(minilm_q8: Path, caplog: pytest.LogCaptureFixture):
    """Which device, its memory, the reason."""
    caplog.set_level(logging.INFO, "qgguf")
    NativeModel(minilm_q8, read_spec(minilm_q8), "auto").close()
    (line,) = (record.message for record in caplog.records if record.message.startswith("Running on"))
    chosen, reason = choose_device("auto", list_devices(), list_backends())
    assert chosen.name in line and reason in line and "GB free" in line


@needs_none
@pytest.mark.parametrize("asked", ["gpu", "cuda"])
def test_no_silent_fallback(asked: str, minilm_q8: Path):
    """Without a GPU it is refused, with the command."""
    with pytest.raises(DeviceError, match="-DGGML_"):
        Embedder(minilm_q8, device=asked)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"gpu_layers": 7}, "0 to 6"),
        ({"gpu_layers": -1}, "0 to 6"),
        ({"gpu_layers": 10**30}, "0 to 6"),
        ({"gpu_layers": True}, "0 to 6"),
        ({"gpu_layers": 2.0}, "0 to 6"),
        ({"gpu_layers": "all"}, "0 to 6"),
        ({"gpu_layers": 3, "device": "cpu"}, "contradict"),
        ({"gpu_layers": 0, "device": "gpu"}, "contradict"),
        ({"repack": "no"}, "repack='no'"),
        ({"mmap": 1}, "mmap=1"),
    ],
)
def test_wrong_loading_options_are_refused(options: dict[str, object], says: str, minilm_q8: Path):
    """A plan for another model, and slips of the pen, stop before llama.cpp sees them."""
    with pytest.raises(OptionError, match=says):
        NativeModel(minilm_q8, read_spec(minilm_q8), **options)


@needs_none
def test_layers_for_a_gpu_that_is_not_there_are_refused(minilm_q8: Path):
    """The GPU went between plan and load: auto does not turn a plan for it into a CPU run."""
    with pytest.raises(DeviceError, match="gpu_layers=3, but there is no GPU"):
        NativeModel(minilm_q8, read_spec(minilm_q8), "auto", gpu_layers=3)


def weights_of(path: Path, caplog: pytest.LogCaptureFixture, **options: bool) -> dict[str, float]:
    """Buffer name -> MiB, as llama.cpp reports them at load."""
    caplog.clear()
    NativeModel(path, read_spec(path), "cpu", **options).close()
    lines = [record.message for record in caplog.records if "model buffer size" in record.message]
    return {line.split()[1]: float(line.split("=")[1].split()[0]) for line in lines}


def test_mmap_and_repacking_are_what_llama_cpp_does(qwen3_q4: Path, caplog: pytest.LogCaptureFixture):
    """Its own report: mapped pages, plain memory, and the repacked copy where it makes one at all."""
    caplog.set_level(logging.DEBUG, "qgguf.llama")
    mapped = weights_of(qwen3_q4, caplog, repack=False)
    read = weights_of(qwen3_q4, caplog, repack=False, mmap=False)
    assert set(mapped) == {"CPU_Mapped"} and set(read) == {"CPU"}
    if "AVX2" in binding.llama().llama_print_system_info().decode():
        assert "CPU_REPACK" in weights_of(qwen3_q4, caplog)


def test_loading_options_change_no_vector(small_qwen3: Path):
    """Where weights lie is not what they are."""
    from qgguf.native.context import NativeContext
    from qgguf.native.strategy import Strategy

    ids = [np.arange(5, 5 + n, dtype=np.int32) for n in (3, 40)]
    found = []
    for options in ({}, {"repack": False}, {"mmap": False}, {"gpu_layers": 0}):
        model = NativeModel(small_qwen3, read_spec(small_qwen3), "auto", **options)
        context = NativeContext(model, cells=512, threads=1, pooling=Pooling.LAST, strategy=Strategy.PLAIN)
        found.append(context.vectors(ids))
        context.close()
        model.close()
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=1e-2, atol=1e-2)


@pytest.mark.skipif(sys.platform != "linux", reason="limits of a process as on Linux")
def test_no_room_is_told_as_such(qwen3_f16: Path, tmp_path: Path):
    """A load that fails for memory is a DeviceMemoryError, not a broken file; here the process may hold no more."""
    program = (
        "import resource, sys\n"
        "from qgguf.native import binding; binding.llama()\n"
        "from qgguf.model.from_gguf import read_spec; from qgguf.native.model import NativeModel\n"
        "from qgguf.errors import DeviceMemoryError\n"
        f"path = {str(qwen3_f16)!r}; spec = read_spec(path)\n"
        "held = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (held + 80_000_000,) * 2)\n"
        "try: NativeModel(path, spec, 'cpu', mmap=False, repack=False)\n"
        "except DeviceMemoryError as error: print(error)\n"
    )
    done = run_code(program, home=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "has no room for" in done.stdout and "failed to allocate CPU buffer" in done.stdout


@needs_gpu
def test_layers_and_head_are_where_they_are_asked_for(qwen3_f16: Path, caplog: pytest.LogCaptureFixture):
    """llama.cpp's report: the vocabulary projection stays on the host; fewer layers take less of the GPU."""
    caplog.set_level(logging.DEBUG, "qgguf.llama")
    spec = read_spec(qwen3_f16)

    def on_gpu(**options: object) -> float:
        caplog.clear()
        model = NativeModel(qwen3_f16, spec, "gpu", **options)
        assert model.device.is_gpu
        model.close()
        lines = [record.message for record in caplog.records if "model buffer size" in record.message]
        return sum(float(line.split("=")[1].split()[0]) for line in lines if model.device.name in line.split()[1])

    every, one, with_head = on_gpu(), on_gpu(gpu_layers=1), on_gpu(head=True)
    head = spec.vocab_size * spec.dims * 2 / 2**20
    assert with_head == pytest.approx(every + head, rel=0.02)
    assert one == pytest.approx(every / spec.n_layers, rel=0.1)


@needs_gpu
def test_gpu_and_cpu_agree(small_qwen3: Path, minilm_f16: Path):
    """F16 on both: cosine 0.999 or more."""
    for path in (small_qwen3, minilm_f16):
        with Embedder(path, device="gpu") as gpu, Embedder(path, device="cpu") as cpu:
            assert (gpu.device, cpu.device) == ("gpu", "cpu")
            assert np.diag(cpu.similarity(gpu.encode(TEXTS), cpu.encode(TEXTS))).min() >= 0.999


def test_a_build_for_another_processor_is_refused_before_it_computes(tmp_path: Path):
    """A processor without AVX2 under this build: one line instead of SIGILL. The file that says so is a fake one."""
    if "AVX2" not in binding.llama().llama_print_system_info().decode():
        pytest.skip("this build needs no AVX2")
    (tmp_path / "cpuinfo").write_text("flags\t\t: fpu sse2 avx\n")
    program = (
        "from pathlib import Path; import qgguf.native.binding as binding\n"
        "from qgguf.hardware.cpu import read_processor\n"
        f"binding.read_processor = lambda: read_processor(Path({str(tmp_path / 'cpuinfo')!r}))\n"
        "from qgguf.errors import NativeError\n"
        "try: binding.llama()\n"
        "except NativeError as error: print(error)\n"
    )
    done = run_code(program, home=tmp_path)
    assert done.returncode == 0 and os.name, done.stderr
    assert "AVX2" in done.stdout and "which this one lacks" in done.stdout and "--no-binary" in done.stdout
