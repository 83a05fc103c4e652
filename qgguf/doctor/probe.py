"""What is tried in a process of its own, because a broken build of llama.cpp ends the process that loads it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

from qgguf.errors import QgError

# The child sees the same modules as we do, wherever it is started.
_PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from qgguf.doctor.probe import answer; answer(*json.loads(sys.argv[2]))"
)

PATIENCE_SECONDS = 300
"""A model of several GB is read twice from a slow disk."""

TEXTS = ("é", "한국어 문장 하나", "😉", "how tall is Everest?", "Everest is 8,849 m high. " * 12)

# What Windows says where others send a signal.
_WINDOWS_CODES = {0xC000001D: "SIGILL", 0xC0000005: "SIGSEGV"}


def ask(task: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The answer of a task that runs in a process of its own.

    task       "binding" or "embed"
    arguments  of the function below that does it
    returns    what it returns, or {"error": one line, "cause": what was raised below it, "signal": "SIGILL" and the
               like where one ended it}
    """
    request = json.dumps([task, dict(arguments)])
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROGRAM, json.dumps(sys.path), request],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            timeout=PATIENCE_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"no answer in {PATIENCE_SECONDS} s"}
    except OSError as error:
        return {"error": f"{sys.executable} does not start ({error})"}
    try:
        found = json.loads(done.stdout.splitlines()[-1])
        if isinstance(found, dict):
            return found
    except (ValueError, IndexError):
        pass
    ended_by = _signal_of(done.returncode)
    if ended_by:
        return {"error": f"the process was ended by {ended_by}", "signal": ended_by}
    said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
    return {"error": f"the process ended with {done.returncode}: {said}"}


def answer(task: str, arguments: Mapping[str, Any]) -> None:
    """The child's side: do the task and say the result on stdout, one line of JSON."""
    try:
        found = _TASKS[task](**arguments)
    except QgError as error:
        found = {"error": str(error)}
        if error.__cause__ is not None:
            found["cause"] = f"{type(error.__cause__).__name__}: {error.__cause__}"
    except BaseException as error:  # a broken package can raise anything, SystemExit too
        found = {"error": f"{type(error).__name__}: {error}"}
    sys.stdout.write("\n" + json.dumps(found) + "\n")


def _binding(device: str) -> dict[str, Any]:
    """What the binding says of itself, and which device a model would get."""
    from dataclasses import asdict

    from qgguf.native import binding, devices

    llama = binding.llama()
    there, backends = devices.list_devices(), devices.list_backends()
    found = {
        "version": binding.version(),
        "llama_cpp": llama.llama_version().decode(),
        "system_info": llama.llama_print_system_info().decode(),
        "backends": backends,
        "devices": [asdict(one) for one in there],
        "device": "",
        "reason": "",
    }
    try:
        chosen, reason = devices.choose_device(device, there, backends)
    except QgError as error:
        return found | {"reason": str(error)}
    return found | {"device": chosen.name, "reason": reason}


def _embed(path: str, device: str, threads: int | None, vram: int | None, ram: int | None) -> dict[str, Any]:
    """Vectors of a few texts in the usual way and in llama.cpp's own, each text's cosine between the two.

    A GPU is compared with the CPU: the plain way on the same device could be wrong in the same way.
    """
    from time import perf_counter

    from qgguf.embedder import Embedder

    # Valid settings are passed as arguments; invalid ones were already reported.
    for name in ("QGGUF_DEVICE", "QGGUF_THREADS", "QGGUF_VRAM", "QGGUF_RAM"):
        os.environ.pop(name, None)
    started = perf_counter()
    with Embedder(path, device=device, threads=threads, vram=vram, ram=ram) as model:
        found, strategy, place, dims = model.encode(TEXTS), model.strategy.value, model.device, model.dims
    seconds = perf_counter() - started
    with Embedder(path, device="cpu", threads=threads, ram=ram, strategy="plain") as model:
        cosines = [float(model.similarity(one, two)[0, 0]) for one, two in zip(found, model.encode(TEXTS), strict=True)]
    return {"strategy": strategy, "device": place, "dims": dims, "cosines": cosines, "seconds": seconds}


_TASKS: dict[str, Callable[..., dict[str, Any]]] = {"binding": _binding, "embed": _embed}


def _signal_of(code: int) -> str:
    if code < 0:
        try:
            return signal.Signals(-code).name
        except ValueError:
            return f"signal {-code}"
    return _WINDOWS_CODES.get(code, "")
