"""The command line with stdin, stdout or stderr closed, as services and windowed programs start it."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.skipif(os.name != "posix", reason="closes descriptors in a POSIX shell")


def shell(command: str, folder: Path, data: str = "é 한 😉\n") -> subprocess.CompletedProcess:
    """Run a shell command in a folder; $Q is the command qgguf."""
    environment = os.environ | {
        "PYTHONPATH": str(REPOSITORY), "QGGUF_DEVICE": "cpu", "HF_HUB_CACHE": str(folder / "cache"),
        "HF_HUB_OFFLINE": "1",
    }  # fmt: skip
    line = command.replace("$Q", f"{sys.executable} -m qgguf")
    return subprocess.run(
        ["bash", "-c", line], cwd=folder, env=environment, input=data, capture_output=True, text=True, timeout=120
    )


@pytest.fixture
def model(minilm_q8: Path, tmp_path: Path) -> str:
    (tmp_path / "m.gguf").symlink_to(minilm_q8)
    return "m.gguf"


CLOSED = ["<&-", "2>&-", "<&- 2>&-", ">&-", "<&- >&- 2>&-"]


@pytest.mark.parametrize("closed", CLOSED)
def test_embed_writes_its_file_without_the_streams(closed: str, model: str, tmp_path: Path):
    """The file holds the vectors and nothing else, the exit code is 0, nothing is printed."""
    ran = shell(f"$Q embed 'é 한 😉' b -m {model} -o out.npy -vv {closed}", tmp_path)
    assert ran.returncode == 0
    assert "Traceback" not in ran.stderr and "bug" not in ran.stderr
    assert np.load(tmp_path / "out.npy").shape == (2, 384)


@pytest.mark.parametrize("closed", ["<&-", "2>&-", "<&- 2>&-"])
@pytest.mark.parametrize(
    "command",
    ["embed 'é 한 😉' -m m.gguf -f csv", "similarity a 한 -m m.gguf", "inspect m.gguf", "plan m.gguf", "list", "--help",
     "--version", "embed --help"],
)  # fmt: skip
def test_results_on_stdout_need_no_other_stream(command: str, closed: str, model: str, tmp_path: Path):
    """What stdout gets is what it gets with all streams open."""
    ran = shell(f"$Q {command} {closed}", tmp_path)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout == shell(f"$Q {command}", tmp_path).stdout != ""


@pytest.mark.parametrize(
    "command", ["embed 'é 한 😉' -m m.gguf", "similarity a 한 -m m.gguf", "inspect m.gguf", "plan m.gguf", "--help"]
)
def test_a_result_that_has_no_place_is_an_error(command: str, model: str, tmp_path: Path):
    """One line on stderr, and exit code 1; with stderr closed too, the exit code alone."""
    ran = shell(f"$Q {command} >&-", tmp_path)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.startswith("Error: stdout is closed") and ran.stderr.count("\n") == 1
    ran = shell(f"$Q {command} >&- 2>&-", tmp_path)
    assert (ran.returncode, ran.stderr) == (1, "")


def test_texts_from_a_closed_stdin_are_asked_for(model: str, tmp_path: Path):
    """No texts at all is wrong usage, also where stdin is named."""
    ran = shell(f"$Q embed -m {model} <&-", tmp_path)
    assert ran.returncode == 2 and "No texts" in ran.stderr
    ran = shell(f"$Q embed - -m {model} <&-", tmp_path)
    assert ran.returncode == 2 and "stdin is closed" in ran.stderr
    ran = shell(f"$Q embed -m {model} -f csv 2>&-", tmp_path)
    assert ran.returncode == 0 and ran.stdout.count("\n") == 1


def test_convert_needs_no_streams(tmp_path: Path):
    """The file is complete and the exit code 0."""
    from tests.support.bert_checkpoints import make_bert_checkpoint

    make_bert_checkpoint(tmp_path / "checkpoint")
    for number, closed in enumerate(CLOSED):
        ran = shell(f"$Q convert checkpoint --quant Q8_0 -o {number}.gguf {closed}", tmp_path)
        assert ran.returncode == 0, ran.stderr
    files = {(tmp_path / f"{number}.gguf").read_bytes() for number in range(len(CLOSED))}
    assert len(files) == 1


def test_outputs_of_the_shell(model: str, tmp_path: Path):
    """Appended to a file, piped, given to another command, and through a link: all get the same line."""
    plain = shell(f"$Q embed hi -m {model} -f csv", tmp_path).stdout
    (tmp_path / "log").write_text("line 1\n")
    shell(f"$Q embed hi -m {model} -f csv -o /dev/stdout >> log", tmp_path)
    assert (tmp_path / "log").read_text() == "line 1\n" + plain
    assert shell(f"$Q embed hi -m {model} -f csv -o /dev/stdout | cat", tmp_path).stdout == plain
    shell(
        f"$Q embed hi -m {model} -f csv -o >(cat > given; touch done); while ! [ -e done ]; do sleep 0.05; done",
        tmp_path,
    )
    assert (tmp_path / "given").read_text() == plain
    (tmp_path / "link").symlink_to("/dev/stdout")
    assert shell(f"$Q embed hi -m {model} -f csv -o link > taken; cat taken", tmp_path).stdout == plain


def test_convert_to_stdout_is_the_file_alone(tmp_path: Path):
    """The line about the file goes to stderr."""
    from tests.support.bert_checkpoints import make_bert_checkpoint

    make_bert_checkpoint(tmp_path / "checkpoint")
    shell("$Q convert checkpoint --quant Q8_0 -o plain.gguf", tmp_path)
    for command in ("> taken.gguf", "| cat > taken.gguf"):
        ran = shell(f"$Q convert checkpoint --quant Q8_0 -o /dev/stdout {command}", tmp_path)
        assert ran.returncode == 0 and ran.stderr.startswith("Wrote /dev/stdout")
        assert (tmp_path / "taken.gguf").read_bytes() == (tmp_path / "plain.gguf").read_bytes()


def test_a_program_without_stderr_may_ask_for_a_progress_bar(minilm_q8: Path, tmp_path: Path):
    """A windowed program has None as sys.stderr and sys.stdout."""
    program = (
        "import sys; sys.stderr = sys.stdout = None\n"
        "import qgguf; from pathlib import Path\n"
        f"with qgguf.Embedder({str(minilm_q8)!r}, max_tokens=32) as model:\n"
        "    shape = model.encode(['é 한 😉' * 100, 'b'], show_progress_bar=True).shape\n"
        "Path('shape').write_text(str(shape))\n"
    )
    (tmp_path / "windowed.py").write_text(program)
    ran = shell(f"{sys.executable} windowed.py", tmp_path)
    assert ran.returncode == 0 and (tmp_path / "shape").read_text() == "(2, 384)"
