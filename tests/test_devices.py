"""Devices, the choice among them, and models loaded on one."""

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
from tests.support.comparing import cosines
from tests.support.processes import run_code

HOST = Device("CPU", "a processor", "cpu", "CPU", 8_000_000_000, 8_000_000_000)
TEXTS = ["é", "한국어", "😉", "word " * 300]


def has_gpu() -> bool:
    return any(device.is_gpu for device in list_devices())


needs_gpu = pytest.mark.skipif(not has_gpu(), reason="this llama-cpp-python finds no GPU")
needs_none = pytest.mark.skipif(has_gpu(), reason="there is a GPU")


# List of devices


def test_cpu_is_a_device_with_the_memory_of_the_machine():
    """Its total is that of /proc/meminfo, its backend is CPU."""
    (cpu,) = (device for device in list_devices() if device.kind == "cpu")
    assert cpu.backend == "CPU" and cpu.name == "CPU" and cpu.description
    assert 0 < cpu.free_bytes <= cpu.total_bytes
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        kilobytes = int(meminfo.read_text().split("MemTotal:")[1].split()[0])
        assert cpu.total_bytes == pytest.approx(kilobytes * 1024, rel=0.001)


def test_gpu_is_listed_where_llama_cpp_offloads():
    """llama.cpp's own function agrees; a build with RPC returns true without any GPU."""
    if "RPC" not in list_backends():
        assert has_gpu() == binding.llama().llama_supports_gpu_offload()
    assert "CPU" in list_backends()


@pytest.mark.skipif(os.name == "nt", reason="libraries have other names there")
@needs_none
def test_backend_that_finds_no_driver_is_named(tmp_path: Path):
    """It does not register itself; the message advises to check the driver, not to compile the build that is here."""
    package = Path(binding.llama().__file__).parent / "lib"
    for library in package.iterdir():
        (tmp_path / library.name).symlink_to(library)
    (tmp_path / f"libggml-vulkan{'.dylib' if sys.platform == 'darwin' else '.so'}").touch()
    program = (
        "from qgguf.native.devices import list_backends, list_devices, choose_device\n"
        "from qgguf.errors import DeviceError\n"
        "try: choose_device('gpu', list_devices(), list_backends())\n"
        "except DeviceError as error: print(list_backends(), error)\n"
    )
    done = run_code(program, home=tmp_path, LLAMA_CPP_LIB_PATH=str(tmp_path))
    assert "['CPU', 'Vulkan']" in done.stdout and "has Vulkan, which finds no GPU here. Check the driver" in done.stdout


def test_device_that_is_gone_is_refused():
    """A card can vanish between the plan and the load; the message names the card."""
    with pytest.raises(DeviceError, match=r"CUDA7 \(RTX 9, CUDA, 3.0 of 4.0 GB free\) is gone"):
        handle_of(Device("CUDA7", "RTX 9", "gpu", "CUDA", 3_000_000_000, 4_000_000_000))


# Choice of a device

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
def test_device_asked_for_is_chosen_or_refused(asked: str, others: list[Device], index: int):
    """ "auto" is never refused, and takes a GPU exactly where there is one."""
    listed = [*others[:index], HOST, *others[index:]]
    backends = ["CPU", *(device.backend for device in others)]
    fit = [device for device in others if device.is_gpu and (asked != "cuda" or device.backend == "CUDA")]
    try:
        chosen, reason = choose_device(asked, listed, backends)
    except DeviceError:
        assert asked in ("gpu", "cuda") and not fit
        return
    assert reason and chosen in listed
    if asked == "cpu" or not fit:
        assert asked in ("cpu", "auto") and chosen == HOST
        return
    assert chosen in fit
    own_memory = [device for device in fit if device.kind == "gpu"]
    assert chosen.free_bytes == max(device.free_bytes for device in own_memory or fit)


def test_refusal_names_the_command():
    """Without a build for the GPU it is the command that compiles one, for the system's shell; with one, the driver."""
    with pytest.raises(DeviceError) as refused:
        choose_device("cuda", [HOST], ["CPU"], "linux")
    assert 'CMAKE_ARGS="-DGGML_CUDA=on" pip install' in str(refused.value)
    assert f"llama-cpp-python=={BINDING_VERSION}" in str(refused.value) and "without CUDA" in str(refused.value)
    with pytest.raises(DeviceError, match=r'\$env:CMAKE_ARGS = "-DGGML_CUDA=on"; pip install'):
        choose_device("gpu", [HOST], ["CPU"], "win32")
    with pytest.raises(DeviceError, match="-DGGML_METAL=on"):
        choose_device("gpu", [HOST], ["CPU", "BLAS"], "darwin")
    with pytest.raises(DeviceError, match=r"has CUDA, which finds no GPU here\. Check the driver"):
        choose_device("gpu", [HOST], ["CUDA", "CPU"], "linux")
    arc = Device("Vulkan0", "Arc", "gpu", "Vulkan", 1, 2)
    with pytest.raises(DeviceError, match="device=gpu would use Vulkan0"):
        choose_device("cuda", [arc, HOST], ["Vulkan", "CPU"], "linux")
    with pytest.raises(OptionError, match="Use auto, cpu, gpu or cuda"):
        choose_device("tpu", [HOST], ["CPU"])
    with pytest.raises(DeviceError, match="no CPU backend"):
        choose_device("auto", [], [])


# A model on a device


def test_one_log_line_names_the_device_and_the_reason(minilm_q8: Path, caplog: pytest.LogCaptureFixture):
    """The line has the device, its memory and the reason."""
    caplog.set_level(logging.INFO, "qgguf")
    NativeModel(minilm_q8, read_spec(minilm_q8), "auto").close()
    (line,) = (record.message for record in caplog.records if record.message.startswith("Running on"))
    chosen, reason = choose_device("auto", list_devices(), list_backends())
    assert chosen.name in line and reason in line and "GB free" in line


@needs_none
@pytest.mark.parametrize("asked", ["gpu", "cuda"])
def test_missing_gpu_is_refused(asked: str, minilm_q8: Path):
    """There is no silent fallback to the CPU; the message has the command."""
    with pytest.raises(DeviceError, match="-DGGML_"):
        Embedder(minilm_q8, device=asked)


@pytest.mark.parametrize(
    ("options", "message"),
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
def test_wrong_loading_options_are_refused(options: dict[str, object], message: str, minilm_q8: Path):
    """Values of a wrong type or out of range are refused before llama.cpp gets them."""
    with pytest.raises(OptionError, match=message):
        NativeModel(minilm_q8, read_spec(minilm_q8), **options)


@needs_none
def test_layers_for_a_missing_gpu_are_refused(minilm_q8: Path):
    """Where the GPU vanished after the plan, "auto" does not run a plan for it on the CPU."""
    with pytest.raises(DeviceError, match="gpu_layers=3, but there is no GPU"):
        NativeModel(minilm_q8, read_spec(minilm_q8), "auto", gpu_layers=3)


def weights_of(path: Path, caplog: pytest.LogCaptureFixture, **options: bool) -> dict[str, float]:
    """Return the size in MiB of each buffer that llama.cpp reports at load, by name."""
    caplog.clear()
    NativeModel(path, read_spec(path), "cpu", **options).close()
    lines = [record.message for record in caplog.records if "model buffer size" in record.message]
    return {line.split()[1]: float(line.split("=")[1].split()[0]) for line in lines}


def test_mmap_and_repacking_are_as_llama_cpp_reports(qwen3_q4: Path, caplog: pytest.LogCaptureFixture):
    """Its log lists mapped pages, plain memory, and the repacked copy where it makes one."""
    caplog.set_level(logging.DEBUG, "qgguf.llama")
    mapped = weights_of(qwen3_q4, caplog, repack=False)
    read = weights_of(qwen3_q4, caplog, repack=False, mmap=False)
    assert set(mapped) == {"CPU_Mapped"} and set(read) == {"CPU"}
    if "AVX2" in binding.llama().llama_print_system_info().decode():
        assert "CPU_REPACK" in weights_of(qwen3_q4, caplog)


def test_loading_options_do_not_change_vectors(small_qwen3: Path):
    """Repacking, mmap and the number of layers on a GPU leave vectors as they are."""
    from qgguf.native.context import NativeContext
    from qgguf.native.strategy import Strategy

    ids = [np.arange(5, 5 + n, dtype=np.int32) for n in (3, 40)]
    vectors = []
    for options in ({}, {"repack": False}, {"mmap": False}, {"gpu_layers": 0}):
        model = NativeModel(small_qwen3, read_spec(small_qwen3), "auto", **options)
        context = NativeContext(model, cells=512, threads=1, pooling=Pooling.LAST, strategy=Strategy.PLAIN)
        vectors.append(context.vectors(ids))
        context.close()
        model.close()
    for other in vectors[1:]:
        assert cosines(other, vectors[0]).min() >= 0.9995


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux' process limits")
def test_lack_of_memory_is_reported_as_such(qwen3_f16: Path, tmp_path: Path):
    """A load that fails for lack of memory raises DeviceMemoryError; here a process limit causes it."""
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
    assert "has too little free memory for" in done.stdout and "failed to allocate CPU buffer" in done.stdout


@needs_gpu
def test_layers_and_head_are_loaded_where_requested(small_qwen3: Path, caplog: pytest.LogCaptureFixture):
    """In llama.cpp's log the vocabulary projection stays on the host, and fewer layers take less of the GPU."""
    caplog.set_level(logging.DEBUG, "qgguf.llama")
    spec = read_spec(small_qwen3)

    def on_gpu(**options: object) -> float:
        caplog.clear()
        model = NativeModel(small_qwen3, spec, "gpu", **options)
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
    """In F16 their vectors have cosine 0.999 or more."""
    for path in (small_qwen3, minilm_f16):
        with Embedder(path, device="gpu") as gpu, Embedder(path, device="cpu") as cpu:
            assert (gpu.device, cpu.device) == ("gpu", "cpu")
            assert np.diag(cpu.similarity(gpu.encode(TEXTS), cpu.encode(TEXTS))).min() >= 0.999


def test_build_for_another_processor_is_refused(tmp_path: Path):
    """On a processor without AVX2, by a made-up cpuinfo, this build raises an error instead of SIGILL."""
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


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="the system does not list loaded libraries")
def test_each_library_of_llama_cpp_is_loaded_once(tmp_path: Path):
    """A second copy would have a second registry of devices, and would initialise the GPU again."""
    program = (
        "import pathlib\n"
        "from qgguf.native import binding, devices\n"
        "devices.list_devices(), binding.ggml(), binding.ggml_cpu(), binding.ggml_devices()\n"
        "files = {line.split()[-1] for line in open('/proc/self/maps') if '/llama_cpp/' in line}\n"
        "print(*sorted(pathlib.Path(file).name.partition('.')[0] for file in files))\n"
    )
    loaded = run_code(program, home=tmp_path).stdout.split()
    assert {"libllama", "libggml", "libggml-base"} <= set(loaded) and len(loaded) == len(set(loaded))
