"""The documentation's pages: their blocks, what a block shows, and a session that runs a page from top to bottom.

    ```console    lines that start with "$ " are commands for bash, "> " goes on with one; what follows is their output
    ```python     a program; where a ```text block follows, that is what it prints
    ```pycon      the same as at Python's prompt

All commands of a page share one shell, all its programs one interpreter: what one block defines, the next may use.
Shown output is compared line by line: "..." within a line stands for any text, a line of "..." for any lines, and a
number with a decimal point may differ by 2 in its last digit, so that no page depends on the processor.

Run as a program (`python -m tests.support.pages`), it reads steps as JSON from stdin and writes what each printed.
"""

import doctest
import json
import os
import re
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent.parent
PAGES = sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md"), REPOSITORY / "models" / "README.md"])
_FENCE = re.compile(r"^```(?P<kind>[^\n]*)\n(?P<body>.*?)^```$", re.M | re.S)
_NUMBER = re.compile(r"(?<![\w.])-?\d+\.\d+(?!\.?\d)")


@dataclass(frozen=True)
class Block:
    """One fenced block of a page; `line` is the first line of its body."""

    line: int
    kind: str
    body: str


@dataclass(frozen=True)
class Step:
    """One thing to run: kind "shell", "python" or "prompt" (one statement), its code and the output that is shown."""

    line: int
    kind: str
    code: str
    shown: str


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page."""
    text = page.read_text("utf-8")
    return [
        Block(text.count("\n", 0, match.start("body")) + 1, match["kind"], match["body"])
        for match in _FENCE.finditer(text)
    ]


def steps(page: Path) -> list[Step]:
    """What a page lets its reader run, in order."""
    found: list[Step] = []
    before: Block | None = None
    for block in blocks(page):
        if block.kind == "console":
            found += _commands(block)
        elif block.kind == "python":
            found.append(Step(block.line, "python", block.body, ""))
        elif block.kind == "pycon":
            found += [
                Step(block.line + example.lineno, "prompt", example.source, example.want)
                for example in doctest.DocTestParser().get_examples(block.body)
            ]
        elif block.kind == "text" and before is not None and before.kind == "python":
            found[-1] = Step(found[-1].line, "python", found[-1].code, block.body)
        before = block
    return found


def _commands(block: Block) -> Iterator[Step]:
    command, shown, start = "", "", block.line
    for number, line in enumerate(block.body.splitlines(), block.line):
        if line.startswith("$ "):
            if command:
                yield Step(start, "shell", command, shown)
            command, shown, start = line[2:], "", number
        elif line.startswith("> ") and not shown:
            command += "\n" + line[2:]
        else:
            shown += line + "\n"
    yield Step(start, "shell", command, shown)


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return _FENCE.sub("", page.read_text("utf-8"))


# Comparing


def difference(printed: str, shown: str) -> str | None:
    """Return where the output printed is not the output shown; None where it is."""
    printed, shown = _stripped(printed), _stripped(shown)
    numbers = [match[0] for match in _NUMBER.finditer(shown)]
    match = re.fullmatch(_pattern(shown), printed)
    if match is None:
        return f"printed:\n{printed}\nshown:\n{shown}"
    for seen, expected in zip(match.groups(), numbers, strict=True):
        digits = len(expected.partition(".")[2])
        if abs(float(seen) - float(expected)) > 2.5 * 10**-digits:
            return f"{seen} is printed, {expected} is shown"
    return None


def _stripped(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip("\n").splitlines())


def _pattern(shown: str) -> str:
    lines = []
    for line in shown.splitlines():
        if line.strip() == "...":
            lines.append(r"(?:[^\n]*\n)*?")
            continue
        pattern, end = "", 0
        for match in _NUMBER.finditer(line):
            pattern += re.escape(line[end : match.start()]) + r"(-?\d+\.\d+)"
            end = match.end()
        pattern += re.escape(line[end:])
        # Where a digit or a sign more makes a number wider, there is a space less before it.
        pattern = re.sub(r"(?:\\ ){2,}", r" +", pattern)
        lines.append(pattern.replace(r"\.\.\.", "[^\n]*?") + r"\n")
    # The last line has no end of its own.
    text = "".join(lines)
    if not text:
        return ""
    return text.removesuffix(r"\n") if text.endswith(r"\n") else text + r"[^\n]*"


# Running


def run(page_steps: list[Step], folder: Path, environment: dict[str, str]) -> list[tuple[str, int]]:
    """Run steps in a fresh shell and interpreter: what each printed, and its exit code."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.pages"],
        input=json.dumps([[step.kind, step.code] for step in page_steps]),
        cwd=folder,
        env=environment | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return [(printed, code) for printed, code in json.loads(done.stdout)]


class Shell:
    """One bash for all commands of a page."""

    _END = "end-of-command-6c1f"

    def __init__(self) -> None:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        self._bash = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            text=True,
            encoding="utf-8",
        )

    def run(self, command: str) -> tuple[str, int]:
        """What a command prints on stdout and stderr together, and its exit code."""
        assert self._bash.stdin and self._bash.stdout
        # Commands must not read the lines that are meant for bash.
        self._bash.stdin.write(f"{{ {command}\n}} </dev/null\nprintf '%s %d\\n' {self._END} $?\n")
        self._bash.stdin.flush()
        printed = ""
        for line in self._bash.stdout:
            before, end, code = line.partition(self._END)
            printed += before
            if end:
                return printed, int(code)
        return printed, self._bash.wait()

    def close(self) -> None:
        assert self._bash.stdin
        self._bash.stdin.close()
        self._bash.wait()


def _main() -> None:
    shell, names, results = Shell(), {"__name__": "__main__"}, []
    for kind, code in json.load(sys.stdin):
        if kind == "shell":
            results.append(shell.run(code))
            continue
        printed = StringIO()
        with redirect_stdout(printed):
            try:
                # Programs run where `python` would find qgguf: in the environment that the page has activated.
                assert shell.run('[ -n "$VIRTUAL_ENV" ]')[1] == 0, "the page has not activated .venv before this"
                exec(compile(code, "page", "single" if kind == "prompt" else "exec"), names)
                status = 0
            except Exception as error:
                status = 1
                print("Traceback (most recent call last):")
                print("".join(traceback.format_exception_only(error)), end="")
        results.append((printed.getvalue(), status))
    shell.close()
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    _main()
