"""README.md is run: each program and shell line that it shows, with the output that it shows.

    ```python     a program; where a ```text block follows, that is what it prints
    ```console    lines that start with "$ " are run by bash, what follows each is its output
    ```           neither: signatures, patterns
    <!-- not run: reason -->   before a block that no test can run

In shown output a line of "..." stands for any lines, and "..." within a line for any text.
"""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import qgguf
from qgguf.cli import cli

REPOSITORY = Path(__file__).resolve().parent.parent
README = REPOSITORY / "README.md"
FENCE = re.compile(
    r"(?:^<!-- not run: (?P<reason>[^\n]+) -->\n+)?^```(?P<kind>[^\n]*)\n(?P<body>.*?)^```$", re.M | re.S
)


@dataclass(frozen=True)
class Block:
    """One fenced block of the README."""

    line: int
    kind: str
    body: str
    reason: str | None
    shown: str | None


def blocks() -> list[Block]:
    """All fenced blocks, a ```text block being the output of the program before it."""
    text = README.read_text("utf-8")
    found: list[Block] = []
    for match in FENCE.finditer(text):
        kind, body, reason = match["kind"], match["body"], match["reason"]
        if kind == "text" and found and found[-1].kind == "python" and found[-1].shown is None:
            program = found.pop()
            found.append(Block(program.line, program.kind, program.body, program.reason, body))
        else:
            found.append(Block(text.count("\n", 0, match.start("body")), kind, body, reason, None))
    return found


def shell_lines(body: str) -> list[tuple[str, str]]:
    """(command, output shown) pairs of a console block; "> " goes on with a command."""
    pairs: list[tuple[str, str]] = []
    for line in body.splitlines():
        if line.startswith("$ "):
            pairs.append((line[2:], ""))
        elif line.startswith("> ") and not pairs[-1][1]:
            pairs[-1] = (pairs[-1][0] + "\n" + line[2:], "")
        else:
            pairs[-1] = (pairs[-1][0], pairs[-1][1] + line + "\n")
    return pairs


def assert_shows(printed: str, shown: str) -> None:
    """Fail where what was printed is not what the README shows."""
    pattern = "".join(
        r"(?:[^\n]*\n)*?" if line.strip() == "..." else re.escape(line.rstrip()).replace(r"\.\.\.", ".*?") + r"[ \t]*\n"
        for line in shown.splitlines()
    )
    if not re.fullmatch(pattern, printed.rstrip("\n") + "\n" if printed else ""):
        assert printed == shown


BLOCKS = blocks() if README.exists() else []


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, minilm_q4: Path, minilm_q8: Path) -> Path:
    """A folder as the repository is after scripts/demo: models/ with its two files, .venv/bin/qgguf, and the demo."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "models").mkdir()
    for quant, path in {"Q4_K_M": minilm_q4, "Q8_0": minilm_q8}.items():
        shutil.copyfile(path, folder / "models" / f"all-minilm-l6-v2-{quant}.gguf")
    (folder / ".venv" / "bin").mkdir(parents=True)
    (folder / "scripts").mkdir()
    # The demo without its installation: what that needs is here.
    demo = f'"{REPOSITORY / "scripts" / "demo.py"}"'
    for name, what in {".venv/bin/qgguf": "-m qgguf", ".venv/bin/python": "", "scripts/demo": demo}.items():
        script = folder / name
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" {what} "$@"\n')
        script.chmod(0o755)
    return folder


def run(home: Path, *command: str) -> str:
    """What a command prints in `home`, with no hub and the models that are there."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "QGGUF_"))}
    settings = {
        "PYTHONPATH": str(REPOSITORY),
        "PATH": f"{home / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "HF_HOME": str(home / "hf"),
        "HF_HUB_OFFLINE": "1",
        "PYTHONIOENCODING": "utf-8",
        "COLUMNS": "100",
    }
    done = subprocess.run(
        command, cwd=home, env=kept | settings, capture_output=True, text=True, encoding="utf-8", timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_readme_shows_programs():
    """The README opens with the two commands, a program of a few lines and a shell program of one."""
    opening = README.read_text("utf-8").partition("\n## ")[0]
    assert "$ scripts/demo\n" in opening and "`scripts/test`" in opening
    end = opening.count("\n")
    first = {block.kind: block for block in reversed(BLOCKS) if block.line < end}
    assert len(first["python"].body.strip().splitlines()) <= 5 and first["python"].shown
    shell = [block for block in BLOCKS if block.kind == "console" and block.line < end]
    assert [len(shell_lines(block.body)) for block in shell] == [1, 1]


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"line {block.line}")
def test_no_block_is_left_out(block: Block):
    """Every program and shell line is run, or is said not to be run and why."""
    assert block.kind in ("python", "console", "") or block.reason, f"```{block.kind} at line {block.line}"
    assert block.kind or "$ " not in block.body
    assert block.reason is None or len(block.reason) > 10


PROGRAMS = [block for block in BLOCKS if block.kind == "python" and not block.reason]
SHELL = [block for block in BLOCKS if block.kind == "console" and not block.reason]


@pytest.mark.parametrize("block", PROGRAMS, ids=lambda block: f"line {block.line}")
def test_programs(block: Block, home: Path):
    """Each program runs by itself and prints what is shown."""
    assert_shows(run(home, sys.executable, "-c", block.body), block.shown or "")


@pytest.mark.skipif(shutil.which("bash") is None, reason="the shell lines are for bash")
@pytest.mark.parametrize("block", SHELL, ids=lambda block: f"line {block.line}")
def test_shell_lines(block: Block, home: Path):
    """Each shell line runs and prints what is shown."""
    for command, shown in shell_lines(block.body):
        assert_shows(run(home, "bash", "-c", command), shown)


@pytest.mark.parametrize(
    ("printed", "shown", "alike"),
    [
        ("a\nb\n", "a\nb\n", True),
        ("a\nb\n", "a\n", False),
        ("a\nx\ny\nb\n", "a\n...\nb\n", True),
        ("0.4123\n", "0.41...\n", True),
        ("0.4223\n", "0.41...\n", False),
        ("", "", True),
        ("a\n", "", False),
    ],
)
def test_the_comparison_itself(printed: str, shown: str, alike: bool):
    """What is shown is compared as said above."""
    if alike:
        assert_shows(printed, shown)
    else:
        with pytest.raises(AssertionError):
            assert_shows(printed, shown)


def test_every_public_name_is_documented():
    """A name that can be imported and a command that can be called are in the README."""
    page = README.read_text("utf-8")
    assert [name for name in qgguf.__all__ if name != "__version__" and f"`{name}`" not in page] == []
    assert [name for name in cli.commands if f"`qgguf {name}" not in page] == []
