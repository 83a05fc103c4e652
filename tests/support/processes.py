"""Fresh interpreters for the tests; huggingface-hub reads the environment only once, and a command is a process."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent.parent

_ASK = """
import json, sys
from qgguf import hub
from qgguf.errors import QgError
try:
    answer = {"answer": {expression}}
except QgError as error:
    answer = {"error": type(error).__name__, "message": str(error)}
print(json.dumps(answer, default=str))
"""


def environment(home: Path, **settings: str) -> dict[str, str]:
    """Return this environment without the user's models, tokens and caches; `home` is the folder of the caches."""
    general = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "QGGUF_", "TQDM_"))}
    # The binding leaves /dev/null open when it is imported, of which Python would warn at its end.
    warnings = "error,ignore::ResourceWarning"
    ours = {"HF_HOME": str(home), "PYTHONPATH": str(REPOSITORY), "NO_PROXY": "127.0.0.1", "PYTHONWARNINGS": warnings}
    return general | ours | settings


def run_code(code: str, *arguments: str, home: Path, **settings: str) -> "subprocess.CompletedProcess[str]":
    """Run Python statements in a fresh interpreter."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=environment(home, **settings),
        cwd=home,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=60,
    )


def ask_hub(expression: str, home: Path, url: str, before: str = "", **settings: str) -> dict[str, Any]:
    """Evaluate an expression on `qgguf.hub` in a fresh interpreter.

    url      HF_ENDPOINT
    before   statements to run first
    returns  {"answer": value} or {"error": class, "message": text}, and "stderr"
    """
    home.mkdir(parents=True, exist_ok=True)
    done = run_code(before + _ASK.replace("{expression}", expression), home=home, HF_ENDPOINT=url, **settings)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer | {"stderr": done.stderr}


def qgguf(
    *arguments: str, home: Path, stdin: bytes | None = b"", cwd: Path | None = None, **settings: str
) -> "subprocess.CompletedProcess[bytes]":
    """Run a command of qgguf; its output is bytes."""
    return subprocess.run(
        [sys.executable, "-m", "qgguf", *arguments],
        env=environment(home, **settings),
        cwd=cwd or home,
        input=stdin,
        capture_output=True,
        timeout=60,
    )


def qgguf_in_terminal(
    *arguments: str, home: Path, until: bytes | None = None, keys: bytes = b"", **settings: str
) -> tuple[int, bytes]:
    """Run a command of qgguf on a terminal of 100 columns.

    until    output after which `keys` are typed
    returns  (exit code, output)
    """
    import fcntl
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "qgguf", *arguments],
        env=environment(home, TERM="xterm", **settings),
        cwd=home,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        # Ctrl-C becomes a signal only in a session with this terminal.
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(theirs)
    shown = b""
    # A program that never writes `until` must not block the suite.
    deadline = threading.Timer(60, process.kill)
    deadline.start()
    while True:
        try:
            chunk = os.read(ours, 1 << 16)
        except OSError:  # on Linux, when the last program on the terminal has ended
            break
        if not chunk:
            break
        shown += chunk
        if until is not None and until in shown:
            os.write(ours, keys)
            until = None
    os.close(ours)
    code = process.wait(60)
    deadline.cancel()
    return code, shown
