"""`qgguf doctor`: its report on this machine, and on installations that are broken in every way we know."""

import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from qgguf.cli.doctor import page
from qgguf.doctor.checks import device_findings, examine, trial_findings
from qgguf.doctor.probe import TEXTS
from qgguf.hardware.cores import read_cores
from qgguf.hardware.gpu import Graphics
from qgguf.model.from_gguf import read_spec
from qgguf.native import binding
from qgguf.native.builds import BINDING_VERSION, TESTED_VERSIONS
from qgguf.native.devices import list_devices
from tests.support.hub_server import COMMIT
from tests.support.processes import qgguf

NEEDED = f"{', '.join(TESTED_VERSIONS[:-1])} or {TESTED_VERSIONS[-1]}"
NO_GPU: dict[str, Any] = {
    "backends": ["CPU"],
    "devices": [{"kind": "cpu"}],
    "device": "CPU",
    "reason": "built without a GPU backend",
}


def as_json(*arguments: str, home: Path, code: int = 0, **settings: str) -> dict[str, Any]:
    done = qgguf("doctor", "--json", *arguments, home=home, **settings)
    assert (done.returncode, done.stderr) == (code, b""), done.stderr.decode()
    report = json.loads(done.stdout, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert report["ok"] == (code == 0)
    return report


def wrong(report: dict[str, Any]) -> list[dict[str, Any]]:
    return [finding for finding in report["findings"] if finding["wrong"]]


# This machine


def test_report_agrees_with_the_library(small_qwen3: Path, tmp_path: Path):
    """Each part equals what the library reports in this process, and nothing is wrong."""
    report = as_json(str(small_qwen3), home=tmp_path)
    assert report["binding"]["version"] in TESTED_VERSIONS and "CPU" in report["binding"]["backends"]
    info = binding.llama().llama_print_system_info().decode()
    assert all(f"{word} = " in info for word in report["binding"]["compiled"])
    assert [device["name"] for device in report["devices"]] == [device.name for device in list_devices()]
    cores = read_cores()
    assert report["threads"]["usable"] == cores.usable and report["threads"]["reason"] == cores.reason
    (model,) = report["models"]
    spec = read_spec(small_qwen3)
    assert (model["end_token"], model["pooling"], model["wrong"]) == ("<|endoftext|>", "last", [])
    assert model["prompts"] == list(spec.prompts) and model["checksum"] == "not checked"
    assert report["trial"]["strategy"] == "last_rows" and len(report["trial"]["cosines"]) == len(TEXTS)
    assert min(report["trial"]["cosines"]) >= 0.999
    assert {"é", "😉"} < set(TEXTS) and any("한" in text for text in TEXTS)


def test_page_shows_every_part(small_qwen3: Path, minilm_q8: Path, tmp_path: Path):
    """Every part has its line, within 118 columns except for names and commands; both models are shown."""
    shutil.copyfile(minilm_q8, tmp_path / "한.gguf")
    done = qgguf("doctor", str(small_qwen3), home=tmp_path, QGGUF_THREADS="1")
    assert (done.returncode, done.stderr) == (0, b""), done.stdout.decode()
    lines = done.stdout.decode().splitlines()
    labels = [line.split()[0] for line in lines if re.match(r"[a-z]", line)]
    assert labels == ["qgguf", "binding", "devices", "runs", "graphics", "processor", "threads", "memory", "settings",
                      "models", "trial"]  # fmt: skip
    shown = "\n".join(lines)
    assert "threads     1, set by QGGUF_THREADS" in shown and "QGGUF_THREADS=1" in shown
    assert "한.gguf" in shown and "mean pooling, ends with [SEP], no prompts" in shown
    assert "last_rows against llama.cpp's own path" in " ".join(shown.split())
    assert lines[-1] == "Nothing is wrong."
    assert all(len(line) <= 118 or line.startswith("    ") or ".gguf" in line for line in lines)


def test_no_model_is_not_wrong(tmp_path: Path):
    """There is no trial, and the report has the command that fetches a model."""
    report = as_json(home=tmp_path)
    assert report["models"] == [] and "No model is here" in report["trial"]["skipped"]
    assert ["qgguf pull qwen3-embedding-0.6b"] in [finding["remedies"] for finding in report["findings"]]


# What can be wrong


@pytest.mark.parametrize(
    ("stub", "message"),
    [
        (None, "ModuleNotFoundError"),
        ("raise ImportError('libcudart.so.12: cannot open shared object file')", "libcudart.so.12"),
        ("raise SystemExit('é 한 😉')", "SystemExit: é 한 😉"),
        ("import", "SyntaxError"),
        ("print('noise'); 1 / 0", "division by zero"),
        ("import os; os.abort()", "SIGABRT"),
        ("import os; os._exit(0)", "it printed no error"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "SIGILL"),
        ("import sys; sys.modules['llama_cpp.llama_cpp'] = sys; __file__ = ''", "AttributeError"),
    ],
)
@pytest.mark.parametrize("form", ["--json", None])
def test_broken_binding_is_reported(
    stub: str | None, message: str, form: str | None, small_qwen3: Path, tmp_path: Path
):
    """Whatever the package does when it is loaded, there is a report with commands, exit code 1 and no traceback."""
    if os.name == "nt" and message.startswith("SIG"):
        pytest.skip("Windows has no such signals")
    (tmp_path / "llama_cpp").mkdir()
    (tmp_path / "llama_cpp" / "__init__.py").write_text(stub or "", "utf-8")
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parent.parent)])
    done = qgguf("doctor", *([form] if form else []), str(small_qwen3), home=tmp_path, PYTHONPATH=path)
    shown = done.stdout.decode()
    assert done.returncode == 1 and done.stderr == b"" and "Traceback" not in shown
    if form:
        report = json.loads(shown)
        (finding,) = wrong(report)
        assert finding["topic"] == "binding" and message in finding["message"]
        assert BINDING_VERSION in finding["remedies"][0] and "--no-binary" in finding["remedies"][0]
        assert report["models"] and report["trial"] == {"skipped": "llama-cpp-python must work first"}
        assert "error" in report["binding"]
    else:
        assert "Wrong: llama-cpp-python does not work" in shown and shown.endswith("\n\n1 thing is wrong.\n")


def test_another_release_is_wrong(small_qwen3: Path, tmp_path: Path):
    """Its structures may differ, so that it loads proves nothing. Here: the real release under another number."""
    real = Path(binding.llama().__file__).parent
    (tmp_path / "llama_cpp").mkdir()
    for name in ("llama_cpp.py", "_ctypes_extensions.py", "_ggml.py"):
        shutil.copyfile(real / name, tmp_path / "llama_cpp" / name)
    (tmp_path / "llama_cpp" / "__init__.py").write_text("__version__ = '0.3.37'\n")
    (tmp_path / "llama_cpp" / "lib").symlink_to(real / "lib", target_is_directory=True)
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parent.parent)])
    report = as_json(str(small_qwen3), home=tmp_path, code=1, PYTHONPATH=path)
    (finding,) = wrong(report)
    assert f"llama-cpp-python 0.3.37 is installed; this qgguf needs {NEEDED}" in finding["message"]
    assert "skipped" in report["trial"]
    # The library refuses it, too: with wrong structures it would silently read and write wrong memory.
    done = qgguf("embed", "é 한 😉", "-m", str(small_qwen3), home=tmp_path, PYTHONPATH=path)
    assert done.returncode == 1 and done.stdout == b"" and f"this qgguf needs {NEEDED}" in done.stderr.decode()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("QGGUF_DEVICE", "tpu", "QGGUF_DEVICE='tpu'"),
        ("QGGUF_THREADS", "many", "QGGUF_THREADS='many'"),
        ("QGGUF_VRAM", "3 gigs", "QGGUF_VRAM: '3 gigs' is not a number of bytes"),
        ("QGGUF_RAM", "2 gigs", "QGGUF_RAM: '2 gigs' is not a number of bytes"),
        ("QGGUF_MODEL", "nothing/here:Q4_0", "is not on this machine"),
        ("HF_ENDPOINT", "http://[", "HF_ENDPOINT"),
    ],
)
def test_wrong_variable_is_reported(name: str, value: str, message: str, tmp_path: Path):
    """The report names it, and has all other checks. Nothing is fetched."""
    report = as_json(home=tmp_path, code=1, **{name: value})
    assert any(message in finding["message"] for finding in wrong(report)), report["findings"]
    assert report["binding"]["version"] in TESTED_VERSIONS


def test_wrong_setting_is_reported_once(small_qwen3: Path, tmp_path: Path):
    """The trial runs without it."""
    report = as_json(
        str(small_qwen3),
        home=tmp_path,
        code=1,
        QGGUF_VRAM="3 gigs",
        QGGUF_RAM="한",
        QGGUF_THREADS="한",
        QGGUF_DEVICE="tpu",
    )
    assert [finding["topic"] for finding in wrong(report)] == ["settings"] * 4
    assert min(report["trial"]["cosines"]) >= 0.999


def test_trial_obeys_the_memory_variable(small_qwen3: Path, tmp_path: Path):
    """With too little RAM the trial fails like any other use of the model."""
    (finding,) = wrong(as_json(str(small_qwen3), home=tmp_path, code=1, QGGUF_RAM="2MB"))
    assert finding["topic"] == "trial" and "Nothing fits in 2MB of the host's memory" in finding["message"]


def test_too_many_threads_are_reported(tmp_path: Path):
    """More threads than cores is no fault, but the report advises against it."""
    report = as_json(home=tmp_path, QGGUF_THREADS="512")
    (finding,) = (finding for finding in report["findings"] if finding["topic"] == "threads")
    assert not finding["wrong"] and finding["remedies"] == ["unset QGGUF_THREADS"]
    assert finding["message"].startswith(f"QGGUF_THREADS=512 is more than the {read_cores().usable} that help here")


def test_secrets_are_not_shown(tmp_path: Path):
    """The report lists the variables that are set, without the hub's token."""
    report = as_json(home=tmp_path, HF_TOKEN="hf_secret", QGGUF_DEVICE="cpu")
    assert report["settings"]["QGGUF_DEVICE"] == "cpu" and "hf_secret" not in json.dumps(report)


@pytest.mark.skipif(any(device.is_gpu for device in list_devices()), reason="there is a GPU")
def test_required_gpu_that_is_absent_is_wrong(tmp_path: Path):
    """The lack of a GPU is wrong only where QGGUF_DEVICE requires one."""
    (finding,) = wrong(as_json(home=tmp_path, code=1, QGGUF_DEVICE="cuda"))
    assert finding["topic"] == "devices" and "-DGGML_CUDA=on" in finding["message"]


@pytest.mark.parametrize("harm", ["cut", "end token", "not a model"])
def test_wrong_model_is_reported(harm: str, small_qwen3: Path, tmp_path: Path):
    """The report names it and its fault, with exit code 1; a GGUF that is not for text is no fault."""
    data = small_qwen3.read_bytes()
    if harm == "cut":
        data = data[: len(data) // 2]
    if harm == "not a model":
        data = data.replace(b"general.architecture", b"general.Architecture", 1)
    if harm == "end token":
        data = data.replace(b"tokenizer.ggml.eos_token_id", b"tokenizer.ggml.Eos_token_id", 1)
        data = data.replace(b"<|endoftext|>", b"<|Endoftext|>")
    (tmp_path / "é.gguf").write_bytes(data)
    done = qgguf("doctor", "--json", home=tmp_path)
    report = json.loads(done.stdout)
    (model,) = report["models"]
    if harm == "not a model":
        assert model["wrong"] == [] and not model["embeds"]
        return
    assert model["name"] == "é.gguf" and len(model["wrong"]) >= 1 and done.returncode == 1, model
    assert any(finding["message"].startswith("é.gguf: ") for finding in wrong(report))


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
def test_checksum_finds_one_wrong_bit(small_qwen3: Path, tmp_path: Path):
    """The hub's cache names a file by its SHA-256; for other files none is known."""
    from hashlib import sha256

    data = small_qwen3.read_bytes()
    repo = tmp_path / "hub" / "models--me--M"
    blob = repo / "blobs" / sha256(data).hexdigest()
    shown = repo / "snapshots" / COMMIT / "m.gguf"
    for folder in (blob.parent, shown.parent):
        folder.mkdir(parents=True)
    blob.write_bytes(data)
    shown.symlink_to(os.path.relpath(blob, shown.parent))
    (tmp_path / "own.gguf").write_bytes(data)

    report = as_json("--checksums", home=tmp_path)
    states = {model["name"]: model["checksum"] for model in report["models"]}
    assert states == {"me/M/m.gguf": "right", "own.gguf": "unknown"}
    assert "several" not in report["trial"]["skipped"] and "2 models are here" in report["trial"]["skipped"]

    blob.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    (finding,) = wrong(as_json("--checksums", home=tmp_path, code=1))
    assert "SHA-256" in finding["message"] and finding["remedies"] == ["qgguf pull me/M/m.gguf"]
    assert as_json(home=tmp_path)["ok"]


def test_wrong_size_of_a_published_model_is_reported(small_qwen3: Path, tmp_path: Path):
    """Another file under an official name is detected without reading it whole."""
    from qgguf.hub.catalogue import CATALOGUE

    model = CATALOGUE["qwen3-embedding-0.6b"]
    folder = tmp_path / "hub" / f"models--{model.repo.replace('/', '--')}" / "snapshots" / model.revision
    folder.mkdir(parents=True)
    shutil.copyfile(small_qwen3, folder / model.files["Q8_0"].name)
    (finding,) = wrong(as_json(home=tmp_path, code=1))
    assert "the published file has 639,150,592" in finding["message"]
    assert finding["remedies"] == ["qgguf pull qwen3-embedding-0.6b"]


# GPUs that are not used, as data: this suite runs on machines without any


@pytest.mark.parametrize(
    ("loaded", "graphics", "environment", "is_wrong", "message", "remedy"),
    [
        (NO_GPU, Graphics(), {}, None, "", ""),
        (NO_GPU, Graphics(("NVIDIA",), nvidia_cards=("RTX 3060",), nvidia_driver="550", driver_cuda=(12, 4)), {}, False,
         "although there is RTX 3060", "/whl/cu124"),
        (NO_GPU, Graphics(vendors=("NVIDIA",)), {}, False, "without a working driver", "-DGGML_CUDA=on"),
        (NO_GPU, Graphics(vendors=("AMD",), rocm=True), {}, False, "a GPU by AMD", "/whl/rocm72"),
        (NO_GPU, Graphics(vendors=("Intel",)), {}, False, "a GPU by Intel", "/whl/vulkan"),
        (NO_GPU, Graphics(metal=True), {}, False, "this Mac's GPU", "-DGGML_METAL=on"),
        (NO_GPU | {"backends": ["CUDA", "CPU"]},
         Graphics(nvidia_cards=("RTX 3060",), nvidia_driver="470", driver_cuda=(11, 4)), {},
         True, "llama.cpp does not", "-DGGML_CUDA=on"),
        (NO_GPU | {"backends": ["CUDA", "CPU"]}, Graphics(nvidia_cards=("RTX 3060",), nvidia_driver="550"),
         {"CUDA_VISIBLE_DEVICES": ""}, False, "hides RTX 3060", "unset CUDA_VISIBLE_DEVICES"),
        (NO_GPU | {"devices": [{"kind": "gpu"}]}, Graphics(vendors=("NVIDIA",)), {}, None, "", ""),
        (NO_GPU | {"device": "", "reason": "is not available"}, Graphics(), {}, True, "is not available", ""),
    ],
)  # fmt: skip
def test_unused_gpu_is_reported(
    loaded: dict[str, Any],
    graphics: Graphics,
    environment: dict[str, str],
    is_wrong: bool | None,
    message: str,
    remedy: str,
):
    """No GPU is no finding, an unused GPU comes with the command for its driver, a broken GPU is wrong."""
    findings = device_findings(loaded, graphics, environment, "linux")
    if is_wrong is None:
        assert findings == []
        return
    (finding,) = findings
    assert finding.wrong == is_wrong and message in finding.message
    assert not remedy or any(remedy in line for line in finding.remedies), finding.remedies


@pytest.mark.parametrize(
    ("device", "cosines", "least"),
    [
        ("cpu", [1.0, 0.9991], None),
        ("cpu", [1.0, 0.9989], 0.999),
        ("gpu", [1.0, 0.9989], None),
        ("gpu", [0.98, 1.0], 0.99),
        ("cpu", [float("nan")], 0.999),
    ],
)
def test_vectors_that_differ_are_wrong(device: str, cosines: list[float], least: float | None):
    """The smallest cosine counts; a GPU may differ more; NaN is wrong."""
    findings = trial_findings({"device": device, "cosines": cosines}, Path("é.gguf"))
    if least is None:
        assert findings == []
        return
    (finding,) = findings
    assert finding.wrong and "é.gguf: vectors differ" in finding.message and f"at least {least} is" in finding.message
    assert finding.remedies == (("QGGUF_DEVICE=cpu qgguf doctor",) if device == "gpu" else ())


def test_examine_returns_the_report(small_qwen3: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A program gets the report as an object, and the page from it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    report = examine(str(small_qwen3))
    assert report.ok and page(report)[-1] == "Nothing is wrong."
    assert report.python == ".".join(map(str, sys.version_info[:3]))
