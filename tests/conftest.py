"""Fixtures: the real MiniLM checkpoint, small Qwen3 checkpoints, and the GGUF files made of them, each made once."""

import hashlib
import os
import shutil
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from qgguf.gguf_format.reader import read_header
from tests.support.checkpoints import make_qwen3_checkpoint
from tests.support.minilm import fetch

# llama.cpp's threads wait for each other in a busy loop, which on a machine with other work costs several times the
# time of the whole suite. Read by OpenMP when the binding is loaded, here and in the processes that tests start.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Started in the background by a shell, the suite and the programs that it starts would be deaf to the Ctrl-C it sends.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

REPOSITORY = Path(__file__).resolve().parent.parent
# A busy machine is slow, not wrong: no example is failed for its time, nor is the first one for the tables of letters
# that a fresh clone makes.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

CACHE = REPOSITORY / ".cache"
CHECKPOINTS_SOURCE = REPOSITORY / "tests" / "support" / "checkpoints.py"
CONVERTER = [
    *sorted((REPOSITORY / "qgguf" / "convert").rglob("*.py")),
    REPOSITORY / "qgguf" / "tokenization" / "kept_parts.py",
    REPOSITORY / "qgguf" / "native" / "quantize.py",
]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests marked slow too")
    parser.addoption("--gpu", action="store_true", help="tests/test_gpu.py fails where llama.cpp finds no GPU")
    parser.addoption("--fast", action="store_true", help="run only files that need no model, hub or other process")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With --fast, leave out the package's doctests and the test files that need more than pure modules."""
    if not config.getoption("--fast") or collection_path.suffix != ".py":
        return None
    from tests.test_floors import is_fast

    return None if collection_path.parent == REPOSITORY / "tests" and is_fast(collection_path) else True


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--slow"):
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="slow: run with --slow"))


def digest(*paths: Path) -> str:
    """Names the content of source files, so that what was made by other source is not used again."""
    hashed = hashlib.sha256()
    for path in paths:
        hashed.update(path.read_bytes())
    return hashed.hexdigest()[:12]


def made_once(name: str, make: Callable[[Path], object]) -> Path:
    """The file or folder `.cache/tests/<name>`, made where it is not there; older makes of that name are deleted.

    name  ends in "-<digest>" or "-<digest>.gguf": what is before the digest is one thing, made by changing source
    """
    home = CACHE / "tests"
    target = home / name
    if not target.exists():
        home.mkdir(parents=True, exist_ok=True)
        for old in home.glob(name.rpartition("-")[0] + "-*"):
            shutil.rmtree(old) if old.is_dir() else old.unlink()
        with tempfile.TemporaryDirectory(dir=home, prefix="making.") as work:
            make(Path(work) / name)
            # Two runs of the suite may make it at once; the first one's is kept.
            if not target.exists():
                os.replace(Path(work) / name, target)
    return target


def converted(checkpoint: Path, quant: str) -> Path:
    """The checkpoint's GGUF file of that type, made by our converter once per source of it."""
    from qgguf import convert_checkpoint

    name = f"{checkpoint.name}.{quant}-{digest(*CONVERTER)}.gguf"
    return made_once(name, lambda out: convert_checkpoint(checkpoint, out, quant=quant))


@pytest.fixture(scope="session")
def minilm_checkpoint() -> Path:
    """The real all-MiniLM-L6-v2 checkpoint folder."""
    return fetch(CACHE)


@pytest.fixture(scope="session")
def minilm_f16(minilm_checkpoint: Path) -> Path:
    return converted(minilm_checkpoint, "F16")


@pytest.fixture(scope="session")
def minilm_q8(minilm_checkpoint: Path) -> Path:
    return converted(minilm_checkpoint, "Q8_0")


@pytest.fixture(scope="session")
def minilm_q4(minilm_checkpoint: Path) -> Path:
    return converted(minilm_checkpoint, "Q4_K_M")


@pytest.fixture(scope="session")
def qwen3_checkpoint() -> Path:
    """A small Qwen3 checkpoint with the real tokenizer (151669 tokens): that of the golden vectors."""
    return made_once(f"qwen3-golden-{digest(CHECKPOINTS_SOURCE)}", make_qwen3_checkpoint)


@pytest.fixture(scope="session")
def qwen3_f16(qwen3_checkpoint: Path) -> Path:
    return converted(qwen3_checkpoint, "F16")


@pytest.fixture(scope="session")
def qwen3_q4(qwen3_checkpoint: Path) -> Path:
    return converted(qwen3_checkpoint, "Q4_K_M")


@pytest.fixture(scope="session")
def small_qwen3_checkpoint() -> Path:
    """The same in 2 MB: 2074 tokens. For tests that need any Qwen3 model, quickly."""
    name = f"qwen3-embedding-small-{digest(CHECKPOINTS_SOURCE)}"
    return made_once(name, lambda folder: make_qwen3_checkpoint(folder, small_vocab=True))


@pytest.fixture(scope="session")
def small_qwen3(small_qwen3_checkpoint: Path) -> Path:
    """small_qwen3_checkpoint as an F16 GGUF."""
    return converted(small_qwen3_checkpoint, "F16")


@pytest.fixture(scope="session")
def other_qwen3() -> Path:
    """Other weights with the same tokenizer as small_qwen3: equal ids, other vectors."""
    name = f"qwen3-embedding-other-{digest(CHECKPOINTS_SOURCE)}"
    checkpoint = made_once(name, lambda folder: make_qwen3_checkpoint(folder, small_vocab=True, seed=1))
    return converted(checkpoint, "F16")


@pytest.fixture(scope="session")
def poisoned_qwen3(small_qwen3: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """small_qwen3 with one sick token: the vector of a text with a BEL character (U+0007) in it is NaN."""
    header = read_header(small_qwen3)
    embedding = next(tensor for tensor in header.tensors if tensor.name == "token_embd.weight")
    n_columns = embedding.shape[0]
    token = list(header.metadata["tokenizer.ggml.tokens"]).index("\u0107")  # how byte-level BPE writes byte 7
    data = bytearray(small_qwen3.read_bytes())
    start = header.data_offset + embedding.offset + token * n_columns * 2
    data[start : start + n_columns * 2] = b"\x00\x7e" * n_columns
    path = tmp_path_factory.mktemp("poisoned") / small_qwen3.name
    path.write_bytes(data)
    return path
