"""The sdist and the wheel: what is in them, and that the wheel works elsewhere."""

import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest
from packaging.requirements import Requirement

REPOSITORY = Path(__file__).resolve().parent.parent
ELSEWHERE = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(sdist, wheel), the wheel made from the sdist as an index's readers would make it."""
    folder = tmp_path_factory.mktemp("dist")
    # No isolation: its environment would be fetched from the network.
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(REPOSITORY)]
    done = subprocess.run(command, env=ELSEWHERE, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(folder.glob("*.tar.gz")), next(folder.glob("*.whl"))


def source_files(*folders: str) -> set[str]:
    """The repository's own files in these folders, without what runs leave behind."""
    left = ("__pycache__", ".pyc", ".hypothesis", ".mypy_cache", ".pytest_cache", ".ruff_cache")
    paths = (path for folder in folders for path in (REPOSITORY / folder).rglob("*") if path.is_file())
    names = (path.relative_to(REPOSITORY).as_posix() for path in paths)
    return {name for name in names if not any(part in name for part in left)}


def test_wheel_holds_the_library_alone(built: tuple[Path, Path]):
    """Every module and py.typed are in the wheel; tests, scripts and models are not."""
    with zipfile.ZipFile(built[1]) as wheel:
        names = wheel.namelist()
    library = {name for name in names if ".dist-info/" not in name}
    assert library == source_files("qgguf")
    assert "qgguf/py.typed" in library
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_wheel_declares_its_requirements(built: tuple[Path, Path]):
    """Python 3.10 or newer, Apache-2.0, no torch, and the same version as the library."""
    from qgguf import __version__

    with zipfile.ZipFile(built[1]) as wheel:
        name = next(name for name in wheel.namelist() if name.endswith("METADATA"))
        metadata = HeaderParser().parsestr(wheel.read(name).decode())
    assert (metadata["Version"], metadata["Requires-Python"], metadata["License-Expression"]) == (
        __version__,
        ">=3.10",
        "Apache-2.0",
    )
    requirements = [Requirement(text) for text in metadata.get_all("Requires-Dist")]
    needs = {need.name for need in requirements if need.marker is None}
    assert needs == {"llama-cpp-python", "numpy", "huggingface-hub", "click", "tqdm", "psutil", "tokenizers"}
    extras = {str(need.marker): need.name for need in requirements if need.marker is not None}
    assert extras == {'extra == "convert"': "gguf"}


def test_sdist_can_test_itself(built: tuple[Path, Path]):
    """The sdist holds the library, the tests with their data, and the scripts; no weights."""
    with tarfile.open(built[0]) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
        assert sum(member.size for member in sdist.getmembers()) < 10e6
    assert source_files("qgguf", "tests", "scripts") <= names
    assert {"pyproject.toml", "README.md", "LICENSE"} <= names
    assert not [name for name in names if name.endswith((".gguf", ".safetensors"))]


@pytest.fixture(scope="module")
def elsewhere(built: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of another environment, with the wheel in it and the dependencies of this one."""
    folder = tmp_path_factory.mktemp("elsewhere")
    venv.create(folder, with_pip=False)
    programs = folder / ("Scripts" if os.name == "nt" else "bin")
    python = programs / ("python.exe" if os.name == "nt" else "python")
    pip = [sys.executable, "-m", "pip", "--python", str(python)]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--no-index", str(built[1])], env=ELSEWHERE, check=True)
    ask = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    packages = Path(subprocess.run(ask, check=True, capture_output=True, text=True).stdout.strip())
    # A .pth adds the folder after the environment's own, so the wheel is found before an editable qgguf.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return programs


def test_wheel_runs_elsewhere(elsewhere: Path, minilm_q8: Path, tmp_path: Path):
    """In another environment and another folder, the installed command prints its version and embeds."""
    from qgguf import __version__

    def run(*command: str) -> str:
        done = subprocess.run(
            [elsewhere / command[0], *command[1:]],
            cwd=tmp_path,
            env=ELSEWHERE,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = run("python", "-c", "import qgguf; print(qgguf.__file__)").strip()
    assert Path(where).is_relative_to(elsewhere.parent)
    assert run("qgguf", "--version") == f"qgguf {__version__}\n"
    assert run("qgguf", "embed", "한 😉", "-m", str(minilm_q8), "-f", "csv").count(",") == 383
