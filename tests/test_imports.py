"""Fresh interpreters: what loading qgguf costs, and what it never loads."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
HEAVY = ["numpy", "llama_cpp", "gguf", "huggingface_hub", "tqdm", "psutil", "click"]


def python(*arguments: str, path: Path | None = None) -> str:
    """What a fresh interpreter prints; `path` comes first among its modules."""
    folders = [str(folder) for folder in (path, REPOSITORY) if folder]
    done = subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(folders)},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_loads_nothing_heavy():
    """`import qgguf` loads neither llama_cpp nor numpy, nor anything from outside the standard library."""
    program = f"import sys, json, qgguf; print(json.dumps([name for name in {HEAVY} if name in sys.modules]))"
    assert json.loads(python("-c", program)) == []


def test_help_loads_nothing_heavy():
    """`qgguf --help` loads click, and none of the others."""
    program = (
        "import sys, atexit, json\n"
        f"atexit.register(lambda: print('loaded:', [name for name in {HEAVY} if name in sys.modules]))\n"
        "sys.argv = ['qgguf', '--help']\n"
        "from qgguf.__main__ import main; main()\n"
    )
    assert "loaded: ['click']" in python("-c", program)


def test_torch_is_never_loaded(tmp_path: Path, minilm_checkpoint: Path):
    """A conversion and a full encode load neither torch nor its packages, though an empty one of each is importable."""
    company = ["torch", "transformers", "sentence_transformers", "safetensors"]
    for name in company:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("__version__ = '99'\n")
    program = (
        "import sys; from pathlib import Path; from qgguf import Embedder, convert_checkpoint\n"
        f"path = convert_checkpoint({str(minilm_checkpoint)!r}, Path({str(tmp_path / 'm.gguf')!r}), quant='Q8_0')\n"
        "with Embedder(path) as model:\n"
        "    print(model.encode(['é', '한', '😉'], show_progress_bar=True).shape)\n"
        "import qgguf.hub, qgguf.cli\n"
        f"print([name for name in {company} if name in sys.modules])\n"
    )
    assert python("-c", program, path=tmp_path) == "(3, 384)\n[]\n"


def test_public_names():
    """Each name of `__all__` can be imported, and there is no other."""
    import qgguf

    assert sorted(qgguf.__all__) == sorted(dir(qgguf))
    assert set(qgguf.errors.__all__) == {name for name in dir(qgguf.errors) if name.endswith("Error")}
    for name in qgguf.__all__:
        assert getattr(qgguf, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Embeder'"):
        _ = qgguf.Embeder
