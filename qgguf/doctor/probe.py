"""Checks that run in a separate process, because a broken build of llama.cpp ends the process that loads it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

from qgguf.errors import QgError

# The child imports the same modules as this process, wherever it is started.
_PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from qgguf.doctor.probe import main; main(*json.loads(sys.argv[2]))"
)

TIMEOUT_SECONDS = 300
"""Long enough to read a model of several GB twice from a slow disk."""

TEXTS = ("é", "한국어 문장 하나", "😉", "how tall is Everest?", "Everest is 8,849 m high. " * 12)

# Exit codes of Windows, and the signals that they correspond to.
_WINDOWS_CODES = {0xC000001D: "SIGILL", 0xC0000005: "SIGSEGV"}


def run_probe(task: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Run a task in a separate process and return its result.

    task       "binding" or "embed"
    arguments  those of the task's function
    returns    the function's result, or {"error": one line, "cause": the exception below it, "signal": the name of the
               signal that ended the process, such as "SIGILL"}, the last two only where there is one
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
            timeout=TIMEOUT_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"no result within {TIMEOUT_SECONDS} s"}
    except OSError as error:
        return {"error": f"{sys.executable} does not start ({error})"}
    try:
        result = json.loads(done.stdout.splitlines()[-1])
        if isinstance(result, dict):
            return result
    except (ValueError, IndexError):
        pass
    ended_by = _signal_of(done.returncode)
    if ended_by:
        return {"error": f"the process was ended by {ended_by}", "signal": ended_by}
    last_line = (done.stderr.strip().splitlines() or ["it printed no error"])[-1]
    return {"error": f"the process ended with exit code {done.returncode}: {last_line}"}


def main(task: str, arguments: Mapping[str, Any]) -> None:
    """Run a task in the child process and write its result to stdout as one line of JSON."""
    try:
        result = _TASKS[task](**arguments)
    except QgError as error:
        result = {"error": str(error)}
        if error.__cause__ is not None:
            result["cause"] = f"{type(error.__cause__).__name__}: {error.__cause__}"
    except BaseException as error:  # a broken package can raise anything, SystemExit too
        result = {"error": f"{type(error).__name__}: {error}"}
    sys.stdout.write("\n" + json.dumps(result) + "\n")


def _binding(device: str) -> dict[str, Any]:
    """Report the binding's version, backends and devices, and the device that a model would get."""
    from dataclasses import asdict

    from qgguf.native import binding, devices

    llama = binding.llama()
    all_devices, backends = devices.list_devices(), devices.list_backends()
    report = {
        "version": binding.version(),
        "llama_cpp": binding.llama_cpp_version(),
        "system_info": llama.llama_print_system_info().decode(),
        "backends": backends,
        "devices": [asdict(one) for one in all_devices],
        "device": "",
        "reason": "",
    }
    try:
        chosen, reason = devices.choose_device(device, all_devices, backends)
    except QgError as error:
        return report | {"reason": str(error)}
    return report | {"device": chosen.name, "reason": reason}


def _embed(path: str, device: str, threads: int | None, vram: int | None, ram: int | None) -> dict[str, Any]:
    """Embed a few texts as usual and by the plain strategy on the CPU, and report each text's cosine between the two.

    The comparison is with the CPU for a GPU, too: the plain strategy on the same device could be wrong in the same way.
    """
    from time import perf_counter

    from qgguf.embedder import Embedder

    # Valid settings are passed as arguments; invalid ones were already reported.
    for name in ("QGGUF_DEVICE", "QGGUF_THREADS", "QGGUF_VRAM", "QGGUF_RAM"):
        os.environ.pop(name, None)
    started = perf_counter()
    with Embedder(path, device=device, threads=threads, vram=vram, ram=ram) as model:
        vectors, strategy, device, dims = model.encode(TEXTS), model.strategy.value, model.device, model.dims
    seconds = perf_counter() - started
    with Embedder(path, device="cpu", threads=threads, ram=ram, strategy="plain") as model:
        cosines = [
            float(model.similarity(one, two)[0, 0]) for one, two in zip(vectors, model.encode(TEXTS), strict=True)
        ]
    return {"strategy": strategy, "device": device, "dims": dims, "cosines": cosines, "seconds": seconds}


_TASKS: dict[str, Callable[..., dict[str, Any]]] = {"binding": _binding, "embed": _embed}


def _signal_of(code: int) -> str:
    if code < 0:
        try:
            return signal.Signals(-code).name
        except ValueError:
            return f"signal {-code}"
    return _WINDOWS_CODES.get(code, "")
