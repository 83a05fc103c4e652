"""Models at the end of a process, in forked processes, and in pickles; each test runs a fresh interpreter."""

import os
import sys
from pathlib import Path

import pytest

from tests.support.processes import run_code

# Threads that compute for ever, with long texts: a native call is under way nearly always.
_WORK = """
import asyncio, sys, threading, time
from qgguf import Embedder
models = [Embedder(path, threads=2) for path in sys.argv[1:]]
texts = ["word é 한 😉 " * 40 + str(number) for number in range(40)]
def forever(work):
    def run():
        while True:
            work()
    threading.Thread(target=run, daemon=True).start()
"""
_ENDS = {
    "two models, two threads each": """
[forever(lambda model=model: model.encode(texts)) for model in models for _ in range(2)]
time.sleep(0.7)
""",
    "an error ends it": "forever(lambda: models[0].encode(texts)); time.sleep(0.5); raise SystemExit(7)",
    "a model is opened": "forever(lambda: Embedder(sys.argv[1], threads=2).encode('x')); time.sleep(0.4)",
    "long texts are tokenised": "forever(lambda: models[1].count_tokens(['é 한 😉 ' * 40_000])); time.sleep(0.4)",
    "an awaited call": """
async def main():
    asyncio.ensure_future(models[0].aencode(texts))
    await asyncio.sleep(0.3)
    raise SystemExit(7)
asyncio.run(main())
""",
    "an awaited call in a loop of a daemon thread": """
loop = asyncio.new_event_loop()
threading.Thread(target=loop.run_forever, daemon=True).start()
asyncio.run_coroutine_threadsafe(models[1].aencode(texts), loop)
time.sleep(0.4)
""",
}


@pytest.mark.parametrize("name", list(_ENDS))
def test_exit_is_quiet(name: str, minilm_q8: Path, qwen3_f16: Path, tmp_path: Path):
    """The exit code stays, and nothing is printed, while threads compute, open, tokenise or await."""
    done = run_code(_WORK + _ENDS[name], str(minilm_q8), str(qwen3_f16), home=tmp_path)
    assert (done.returncode, done.stderr) == (7 if "SystemExit(7)" in _ENDS[name] else 0, "")


def test_thread_works_after_the_main_thread_has_ended(minilm_q8: Path, tmp_path: Path):
    """It opens a model, and embeds more texts than one window holds."""
    code = """
import sys, threading
from qgguf import Embedder
from qgguf.inference import inputs

inputs.WINDOW_TEXTS = 5
def work():
    threading.main_thread().join()
    with Embedder(sys.argv[1]) as model:
        print(model.encode([f"é 한 😉 {number}" for number in range(12)]).shape)
threading.Thread(target=work).start()
"""
    done = run_code(code, str(minilm_q8), home=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "(12, 384)\n", "")


def test_main_thread_is_refused_after_the_end(minilm_q8: Path, tmp_path: Path):
    """A function that runs at exit after the models are freed gets an error, and does not wait for ever."""
    code = f"""
import atexit
@atexit.register
def last():
    try:
        models[0].encode("é")
    except Exception as error:
        print(type(error).__name__, error)
    models[0].close()
{_WORK}
forever(lambda: models[0].encode(texts))
time.sleep(0.3)
"""
    done = run_code(code, str(minilm_q8), home=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "NativeError The program is ending, and its models are closed.\n"


forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
_FORK = """
import multiprocessing, os, sys, threading, warnings
import numpy as np
from qgguf import Embedder
from qgguf.errors import ForkError, QgError
warnings.simplefilter("ignore", DeprecationWarning)  # of Python 3.12 for a fork with threads
model = Embedder(sys.argv[1], threads=2)
texts = ["a é", "b 한", "c 😉"]
expected = model.encode(texts)

def exit_code(child):
    process = os.fork()
    if not process:
        try:
            child()
        except BaseException as error:
            print(type(error).__name__, error, file=sys.stderr)
            os._exit(1)
        os._exit(5)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])

def refused(use):
    try:
        use()
    except ForkError as error:
        assert "Open it in the child" in str(error)
        return True
    return False
"""
_FORKS = {
    "each use is refused": """
import asyncio
asyncio.run(model.aencode(texts))
def child():
    uses = (lambda: model.encode("x"), lambda: model.embed([]), lambda: model.count_tokens("x"),
            lambda: model.token_ids("x"), lambda: asyncio.run(model.aencode("x")))
    assert all(map(refused, uses)), [refused(use) for use in uses]
    model.close()
""",
    "a child opens its own": """
def child():
    with Embedder(sys.argv[1], threads=2) as own:
        assert np.array_equal(own.encode(texts), expected)
        threads = [threading.Thread(target=own.encode, args=(texts * 20,)) for _ in range(3)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
""",
    "a child of a child": """
def child():
    own = Embedder(sys.argv[1], threads=2)
    own.encode(texts)
    def grandchild():
        assert refused(lambda: own.encode("x")) and refused(lambda: model.encode("x"))
        assert np.array_equal(Embedder(sys.argv[1], threads=2).encode(texts), expected)
    assert exit_code(grandchild) == 5
""",
    "the parent computes while it forks": """
busy = True
def work():
    while busy:
        model.encode(["word " * 50 + str(number) for number in range(50)])
threads = [threading.Thread(target=work) for _ in range(3)]
[thread.start() for thread in threads]
def child():
    assert refused(lambda: model.encode("x"))
    assert np.array_equal(Embedder(sys.argv[1], threads=2).encode(texts), expected)
assert [exit_code(child) for _ in range(4)] == [5] * 4
busy = False
[thread.join() for thread in threads]
""",
    "a pool": """
def use(number):
    return refused(lambda: model.encode("x"))
def child():
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(use, range(3)) == [True] * 3
""",
}


@forks
@pytest.mark.parametrize("name", list(_FORKS))
@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_forked_process(kind: str, name: str, minilm_q8: Path, qwen3_f16: Path, tmp_path: Path):
    """A child gets an error at once or opens its own model, and the parent goes on, whatever it did before."""
    code = f"{_FORK}{_FORKS[name]}\nassert exit_code(child) == 5\nassert np.array_equal(model.encode(texts), expected)"
    path = minilm_q8 if kind == "encoder" else qwen3_f16
    done = run_code(code, str(path), home=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


@forks
def test_child_that_ends_leaves_the_parent_unharmed(minilm_q8: Path, tmp_path: Path):
    """A child that exits as any program frees nothing of its parent."""
    code = f"{_FORK}\nassert exit_code(lambda: sys.exit(3)) == 1\n" + (
        "if not (process := os.fork()):\n    sys.exit(3)\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 3\n"
        "assert np.array_equal(model.encode(texts), expected)"
    )
    done = run_code(code, str(minilm_q8), home=tmp_path)
    assert done.returncode == 0, done.stderr


_PICKLE = """
import copy, logging, multiprocessing, os, pickle, sys, threading
import numpy as np
from qgguf import Embedder
logging.disable()
os.chdir(os.path.dirname(sys.argv[1]))
model = Embedder(os.path.basename(sys.argv[1]), threads=2, truncate_dim=64, prompts={"é": "한: "})
os.chdir("/")
texts = ["a é", "b 한", "c 😉"]
expected = model.encode(texts, prompt_name="é")
data = pickle.dumps(model)
"""


def test_pickled_model_reopens(minilm_q8: Path, tmp_path: Path):
    """It is a path and arguments; the first use opens the model once, in any number of threads."""
    code = f"""{_PICKLE}
assert len(data) < 1000
again = pickle.loads(pickle.dumps(pickle.loads(data)))
assert "_engine" not in vars(again)
found = []
threads = [threading.Thread(target=lambda: found.append(again.encode(texts, prompt_name="é"))) for _ in range(6)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert len(found) == 6 and all(np.array_equal(vectors, expected) for vectors in found)
assert again.stats().calls == 0 and not hasattr(again, "nothing") and again.dims == 64
pickle.loads(data).close()
"""
    done = run_code(code, str(minilm_q8), home=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_copy_is_refused(minilm_q8: Path, tmp_path: Path):
    """The message says how to share or to open a model."""
    code = f"""{_PICKLE}
for copied in (copy.copy, copy.deepcopy, lambda one: copy.deepcopy([one])):
    try:
        copied(model)
        raise SystemExit("copied")
    except TypeError as error:
        assert "Share it" in str(error) and "Embedder(" in str(error)
"""
    done = run_code(code, str(minilm_q8), home=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("method", ["spawn", pytest.param("fork", marks=forks)])
def test_model_is_an_argument_of_a_process(method: str, minilm_q8: Path, tmp_path: Path):
    """A worker process opens the model that it is given."""
    program = tmp_path / "program.py"
    program.write_text(
        f"""
import warnings
warnings.simplefilter("ignore", DeprecationWarning)
{_PICKLE}
def work(arguments):
    model, texts = arguments
    return model.encode(texts, prompt_name="é")
if __name__ == "__main__":
    with multiprocessing.get_context("{method}").Pool(2) as pool:
        assert all(np.array_equal(vectors, expected) for vectors in pool.map(work, [(model, texts)] * 3))
""",
        encoding="utf-8",
    )
    code = f"import runpy, sys; sys.argv[0] = {str(program)!r}; runpy.run_path(sys.argv[0], run_name='__main__')"
    if method == "spawn":
        code = f"import subprocess, sys; sys.exit(subprocess.call([sys.executable, {str(program)!r}, *sys.argv[1:]]))"
    done = run_code(code, str(minilm_q8), home=tmp_path)
    assert done.returncode == 0, done.stderr
    assert sys.platform == "win32" or "Traceback" not in done.stderr
