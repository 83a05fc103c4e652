"""Compare the speed of qgguf with other programs, on the same texts and in turns on one machine.

    python scripts/bench_peers.py --model MODEL.gguf [--checkpoint FOLDER] [--minilm MODEL.gguf]
        [--minilm-checkpoint FOLDER] [--llama-server PATH] [--llama-bench PATH] [--peer-python PATH] [--work WORK ...]
        [--rounds N] [--tokens N] [--million [N]] [--million-model MODEL.gguf]

WORK, by default all but million:
    documents   texts of 10 to 150 tokens, in one call
    queries     63 short questions with the model's query prompt, in one call
    one_query   short questions with the prompt, in a call each, after the prompt was computed once
    sentences   English documents through MiniLM, in one call
    million     texts of 3 to 10 words through a tiny model (by default one made for it), to 32 dims and bits: the share
                of the time outside native calls, and the memory over time

The programs: Llama.embed of llama-cpp-python with the fastest settings known to us (flash attention), with n_ubatch
2048 only, and with its defaults; llama-server (one request with all texts); sentence-transformers in float32 (needs the
checkpoint); ONNX Runtime (MiniLM, exported once); and llama.cpp's own prompt processing, without embeddings:
llama-bench pp512, and the same in our process. Missing programs are skipped, with a line on each.

Each program runs in its own process and waits while another one works. Each round has new texts, and runs qgguf before
and after each other program. A ratio is the other program's seconds divided by the mean of our two, because the speed
of a machine drifts; the table has its median over the rounds, its minimum and its maximum. Vectors are compared by
cosine, and by the share of texts whose nearest vector of the other program is that of the same text.

Prints a table, then one line of JSON. Past experiments are in docs/laboratory-log.md.
"""

import argparse
import base64
import itertools
import json
import os
import queue
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))  # for use from a checkout
# qgguf is imported in functions, because --peer-python may not have it.

WORKS = ("documents", "queries", "one_query", "sentences")
N_QUERIES = 63
N_SINGLE = 15
# (workload, program) -> the ratio to reach
TARGETS = {
    ("documents", "Llama.embed"): 2.5,
    ("documents", "Llama.embed, n_ubatch 2048"): 2.5,
    ("documents", "llama-server"): 1.5,
    ("documents", "sentence-transformers"): 2.5,
    ("documents", "pp512 in process"): 1.0,
    ("documents", "llama-bench pp512"): 1.0,
    ("queries", "Llama.embed"): 7.0,
    ("one_query", "Llama.embed"): 4.0,
    ("sentences", "sentence-transformers"): 1.0,
    ("sentences", "Llama.embed"): 2.5,
}
# Sides that measure prompt processing of 512 tokens; their texts are ignored and their vectors are rates.
RAW = ("pp512 in process", "llama-bench pp512")
RAW_REPEATS = 4
# Sides that run in --peer-python, and the module that it needs for each.
PEER_MODULES = {"sentence-transformers": "sentence_transformers", "ONNX Runtime": "onnxruntime"}
NATIVE_CALLS = ("llama_decode", "llama_encode", "llama_tokenize", "llama_process")


# The sides: each opens its model and computes vectors of texts


def installed(*names: str) -> dict[str, str]:
    """Return the versions of the packages that are installed."""
    versions = {}
    for name in names:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


class Qgguf:
    """qgguf with its defaults."""

    def __init__(self, model: str, threads: int) -> None:
        from qgguf import Embedder

        self.embedder = Embedder(model, device="cpu", threads=threads)
        self.about = {
            "strategy": self.embedder.strategy.value,
            "versions": installed("qgguf", "llama-cpp-python", "numpy"),
        }

    def vectors(self, texts: Sequence[str], prompt: str) -> np.ndarray:
        """Return the vectors of the texts, a row each."""
        if prompt:
            return self.embedder.encode_query(texts)
        return self.embedder.encode(texts)


class LlamaEmbed:
    """Llama.embed of llama-cpp-python.

    batch  n_batch and n_ubatch in tokens; None for all of its defaults, which truncate texts at 512 tokens
    """

    def __init__(self, model: str, threads: int, batch: int | None, flash_attn: bool = False) -> None:
        from llama_cpp import Llama

        settings = {"n_threads": threads, "n_threads_batch": threads}
        if batch is not None:
            settings |= {"n_ctx": 2048, "n_batch": batch, "n_ubatch": batch, "flash_attn": flash_attn}
        self.llama = Llama(model, embedding=True, verbose=False, **settings)
        self.about = {"settings": settings, "versions": installed("llama-cpp-python")}

    def vectors(self, texts: Sequence[str], prompt: str) -> np.ndarray:
        """Return the vectors of the texts, a row each."""
        return np.array(self.llama.embed([prompt + text for text in texts], normalize=True), np.float32)


class LlamaServer:
    """llama.cpp's server, with all texts in one request."""

    def __init__(self, model: str, threads: int, program: str, arguments: Sequence[str]) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [program, "-m", model, "--embeddings", "-t", str(threads), "-tb", str(threads), *arguments]
        self.process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self.url = f"http://127.0.0.1:{port}"
        # Without the environment's http_proxy, which is not for local addresses.
        self.open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
        done = subprocess.run([program, "--version"], capture_output=True, text=True)
        lines = (done.stdout + done.stderr).strip().splitlines()
        self.about = {"command": command, "versions": {"llama-server": lines[0] if lines else "?"}}
        deadline = time.monotonic() + 120
        while True:
            try:
                self.open(self.url + "/health").close()
                return
            except (urllib.error.URLError, ConnectionError):
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"llama-server did not start: {' '.join(command)}") from None
                time.sleep(0.1)

    def vectors(self, texts: Sequence[str], prompt: str) -> np.ndarray:
        """Return the vectors of the texts, a row each."""
        body = {"input": [prompt + text for text in texts], "model": "m", "encoding_format": "base64"}
        request = urllib.request.Request(
            self.url + "/v1/embeddings", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with self.open(request) as response:
            rows = sorted(json.load(response)["data"], key=lambda row: row["index"])
        return np.array([np.frombuffer(base64.b64decode(row["embedding"]), "<f4") for row in rows])

    def close(self) -> None:
        """End the process."""
        self.process.terminate()
        self.process.wait()


class SentenceTransformers:
    """sentence-transformers with the checkpoint in float32."""

    def __init__(self, checkpoint: str, threads: int) -> None:
        import torch
        from sentence_transformers import SentenceTransformer

        torch.set_num_threads(threads)
        self.model = SentenceTransformer(checkpoint, device="cpu", model_kwargs={"dtype": torch.float32})
        self.about = {"versions": installed("sentence-transformers", "transformers", "torch")}

    def vectors(self, texts: Sequence[str], prompt: str) -> np.ndarray:
        """Return the vectors of the texts, a row each."""
        return self.model.encode(list(texts), prompt=prompt or None, normalize_embeddings=True)


class OnnxRuntime:
    """ONNX Runtime with a BERT and mean pooling, 32 texts of similar length at once; torch exports a missing file."""

    def __init__(self, checkpoint: str, threads: int, exported: str) -> None:
        import onnxruntime
        from tokenizers import Tokenizer

        if not Path(exported).exists():
            self._export(checkpoint, exported)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(exported, options, ["CPUExecutionProvider"])
        self.tokenizer = Tokenizer.from_file(str(Path(checkpoint) / "tokenizer.json"))
        self.tokenizer.enable_truncation(256)
        self.tokenizer.enable_padding()
        self.about = {"versions": installed("onnxruntime", "tokenizers", "onnx", "torch")}

    @staticmethod
    def _export(checkpoint: str, exported: str) -> None:
        import torch
        from transformers import AutoModel

        class Body(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.bert = AutoModel.from_pretrained(checkpoint, dtype=torch.float32, attn_implementation="eager")

            def forward(self, ids: Any, mask: Any, types: Any) -> Any:
                return self.bert(input_ids=ids, attention_mask=mask, token_type_ids=types).last_hidden_state

        names = ["input_ids", "attention_mask", "token_type_ids"]
        sizes = {0: torch.export.Dim("texts"), 1: torch.export.Dim("tokens", max=512)}
        example = tuple(torch.ones((3, 9), dtype=torch.long) for _ in names)
        torch.onnx.export(
            Body().eval(), example, exported, input_names=names, output_names=["last_hidden_state"],
            dynamic_shapes=(sizes, sizes, sizes), dynamo=True, external_data=False, verbose=False,
        )  # fmt: skip

    def vectors(self, texts: Sequence[str], prompt: str) -> np.ndarray:
        """Return the vectors of the texts, a row each."""
        out = [np.empty(0, np.float32)] * len(texts)
        order = sorted(range(len(texts)), key=lambda index: -len(texts[index]))
        for start in range(0, len(order), 32):
            chosen = order[start : start + 32]
            encoded = self.tokenizer.encode_batch([prompt + texts[index] for index in chosen])
            mask = np.array([one.attention_mask for one in encoded], np.int64)
            ids = np.array([one.ids for one in encoded], np.int64)
            given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
            rows = self.session.run(None, given)[0]
            means = (rows * mask[..., None]).sum(axis=1) / mask.sum(axis=1, keepdims=True)
            means /= np.linalg.norm(means, axis=1, keepdims=True)
            for index, row in zip(chosen, means, strict=True):
                out[index] = row
        return np.array(out, np.float32)


class Raw:
    """llama.cpp's prompt processing in our process; its vectors are rates."""

    def __init__(self, model: str, threads: int) -> None:
        from qgguf.model.from_gguf import read_spec
        from qgguf.native.model import NativeModel
        from qgguf.native.prompt_speed import PromptProcessing

        self.processing = PromptProcessing(NativeModel(model, read_spec(Path(model)), "cpu"), threads=threads)
        self.about = {"n_tokens": self.processing.n_tokens, "versions": installed("llama-cpp-python")}

    def vectors(self, texts: Sequence[str], prompt: str) -> np.ndarray:
        """Measure once per text; return tokens per second, a row each."""
        return np.array([[self.processing.n_tokens / self.processing.seconds()] for _ in texts])


class LlamaBench:
    """llama-bench pp512 without embeddings; it opens the model, warms up, and measures once per text."""

    def __init__(self, model: str, threads: int, program: str) -> None:
        self.command = [program, "-m", model, "-p", "512", "-n", "0", "-t", str(threads), "-embd", "0", "-o", "json"]
        self.about = {"command": self.command, "n_tokens": 512, "versions": {}}

    def vectors(self, texts: Sequence[str], prompt: str) -> np.ndarray:
        """Measure once per text; return tokens per second, a row each."""
        done = subprocess.run([*self.command, "-r", str(len(texts))], capture_output=True, text=True, check=True)
        (report,) = json.loads(done.stdout)
        self.about["versions"] = {"llama-bench": f"{report.get('build_number')} {report.get('build_commit')}"}
        return np.array([[rate] for rate in report["samples_ts"]])


class Million:
    """qgguf with timed native calls. Its only text is the number of texts to compute; the results are in `about`."""

    def __init__(self, model: str, threads: int, call_texts: int) -> None:
        self.side = Qgguf(model, threads)
        self.call_texts = call_texts
        self.about = self.side.about

    def vectors(self, texts: Sequence[str], prompt: str) -> np.ndarray:
        """Compute as many short texts as `texts[0]` asks for, and set `about`."""
        from qgguf.evaluation import sample_texts

        n_texts = int(texts[0])
        million = list(itertools.islice(sample_texts.short_texts(), n_texts))
        encode = self.side.embedder.encode
        encode(million[:512], precision="ubinary", truncate_dim=32)
        native = NativeTime()
        native.start()
        with MemorySamples() as memory:
            started = time.perf_counter()
            for start in range(0, n_texts, self.call_texts):
                encode(million[start : start + self.call_texts], precision="ubinary", truncate_dim=32)
            seconds, native_seconds, native_calls = time.perf_counter() - started, native.seconds, dict(native.calls)
        n_tokens = int(self.side.embedder.count_tokens(million[:10_000]).mean() * n_texts)
        self.about = self.about | {
            "n_texts": n_texts,
            "texts_in_a_call": min(self.call_texts, n_texts),
            "n_tokens": n_tokens,
            "seconds": seconds,
            "native_seconds": native_seconds,
            "native_calls": native_calls,
            "outside_share": 1 - native_seconds / seconds,
            "resident_before_bytes": memory.before,
            "resident_bytes_at_tenths": memory.tenths(),
        }
        return np.zeros((1, 1))


class NativeTime:
    """The wall time in which at least one thread is inside a native call."""

    def __init__(self) -> None:
        self.seconds, self.calls = 0.0, dict.fromkeys(NATIVE_CALLS, 0)
        self._n_inside, self._since, self._lock = 0, 0.0, threading.Lock()

    def start(self) -> None:
        """Time the native calls from now on."""
        from qgguf.native import binding

        module = binding.llama()
        for name in NATIVE_CALLS:
            setattr(module, name, self._timed(name, getattr(module, name)))

    def _timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any) -> Any:
            with self._lock:
                self.calls[name] += 1
                if self._n_inside == 0:
                    self._since = time.perf_counter()
                self._n_inside += 1
            try:
                return call(*arguments)
            finally:
                with self._lock:
                    self._n_inside -= 1
                    if self._n_inside == 0:
                        self.seconds += time.perf_counter() - self._since

        return timed


class MemorySamples:
    """Resident memory of the process, sampled during a block."""

    def __enter__(self) -> "MemorySamples":
        from qgguf.hardware.process_memory import resident_bytes

        self._resident_bytes, self._samples = resident_bytes, []
        self.before, self._started, self._ended = resident_bytes(), time.perf_counter(), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._ended.wait(0.05):
            self._samples.append((time.perf_counter() - self._started, self._resident_bytes()))

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._samples.append((time.perf_counter() - self._started, self._resident_bytes()))

    def tenths(self) -> list[int | None]:
        """Return the memory at 10 %, 20 %, ... of the time."""
        ends = [self._samples[-1][0] * tenth / 10 for tenth in range(1, 11)]
        return [next(size for at, size in self._samples if at >= end) for end in ends]


SIDES = {
    "qgguf": Qgguf,
    "Llama.embed": LlamaEmbed,
    "Llama.embed, n_ubatch 2048": LlamaEmbed,
    "Llama.embed, defaults": LlamaEmbed,
    "llama-server": LlamaServer,
    "sentence-transformers": SentenceTransformers,
    "ONNX Runtime": OnnxRuntime,
    "pp512 in process": Raw,
    "llama-bench pp512": LlamaBench,
    "million": Million,
}


def serve(name: str, settings: dict[str, Any]) -> None:
    """Run one side: read a job as a line of JSON, write its vectors to a file, and print a line with the seconds."""
    # Output of libraries goes to stderr, so that it does not mix with the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    started = time.perf_counter()
    side = SIDES[name](**settings)

    def answer(values: dict[str, Any]) -> None:
        answers.write(json.dumps(values) + "\n")
        answers.flush()

    answer({"open_seconds": time.perf_counter() - started, "about": side.about})
    close = getattr(side, "close", lambda: None)
    jobs: queue.SimpleQueue[str] = queue.SimpleQueue()
    at_work = threading.Event()

    def listen() -> None:
        for line in sys.stdin:
            at_work.set()
            jobs.put(line)
        if at_work.is_set():  # the comparison was interrupted: stop at once and free the cores
            close()
            os._exit(1)
        jobs.put("")

    threading.Thread(target=listen, daemon=True).start()
    while line := jobs.get():
        job = json.loads(line)
        groups = [[text] for text in job["texts"]] if job["apart"] else [job["texts"]]
        seconds, vectors = [], []
        for group in groups:
            started = time.perf_counter()
            rows = side.vectors(group, job["prompt"])
            seconds.append(time.perf_counter() - started)
            vectors.append(rows)
        np.save(job["out"], np.concatenate(vectors))
        at_work.clear()
        answer({"seconds": seconds, "about": side.about})
    close()


# The comparison


class Side:
    """The process of a side, and its input and output."""

    def __init__(self, name: str, python: str, folder: Path, **settings: Any) -> None:
        self.name, self._out = name, folder / f"{name}.npy"
        command = [python, __file__, "--serve", name, json.dumps(settings)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
        )
        self.about: dict[str, Any] = {}
        self.open_seconds = self._answer()["open_seconds"]

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended with code {self._process.wait()}; its output is above.")
        answer: dict[str, Any] = json.loads(line)
        self.about = answer["about"]
        return answer

    def run(self, texts: Sequence[str], prompt: str = "", apart: bool = False) -> tuple[list[float], np.ndarray]:
        """Return the seconds of each call, and the vectors; `apart` for a call per text."""
        assert self._process.stdin is not None
        job = {"texts": list(texts), "prompt": prompt, "apart": apart, "out": str(self._out)}
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        seconds = self._answer()["seconds"]
        return seconds, np.load(self._out)

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


@dataclass
class Result:
    """The comparison with one program for one workload.

    ours, theirs  seconds of each round; for one_query of the median call
    ratios        theirs divided by ours, of each round
    cosines       (mean, least) between our vectors and theirs; None for prompt processing
    nearest       share of texts whose nearest vector of the other program is that of the same text
    """

    work: str
    against: str
    target: float | None
    n_texts: int = 0
    n_tokens: list[int] = field(default_factory=list)
    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    cosines: tuple[float, float] | None = None
    nearest: float | None = None

    @property
    def ratio(self) -> float:
        """Median of the rounds."""
        return statistics.median(self.ratios)

    def row(self) -> str:
        """Return the line of the table."""
        rate = [
            statistics.median(n / s for n, s in zip(self.n_tokens, taken, strict=True))
            for taken in (self.ours, self.theirs)
        ]
        if self.work == "one_query":
            speeds = "".join(f"{statistics.median(taken) * 1000:8.1f} ms" for taken in (self.ours, self.theirs))
        else:
            speeds = "".join(f"{one:11,.0f}" for one in rate)
        target = f"{self.target:6.1f}" if self.target is not None else " " * 6
        similarity = (
            "" if self.cosines is None else f"  {self.cosines[0]:.5f} {self.cosines[1]:.5f} {self.nearest:6.1%}"
        )
        spread = f"({min(self.ratios):.2f}-{max(self.ratios):.2f})"
        return f"{self.work:10} {self.against:22}{speeds}{self.ratio:8.2f} {spread:14}{target}{similarity}"


HEAD = (
    f"{'work':10} {'against':22}{'ours':>11}{'theirs':>11}{'ratio':>8} {'(spread)':14}{'target':>6}"
    "  cosine mean, min, nearest"
)


def similarity(a: np.ndarray, b: np.ndarray) -> tuple[tuple[float, float], float]:
    """Return the (mean, least) cosine of equal rows, and the share of rows of `a` whose nearest of `b` is the same."""
    a, b = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (a.astype(np.float64), b.astype(np.float64)))
    cosines = a @ b.T
    own = np.diagonal(cosines)
    return (float(own.mean()), float(own.min())), float((cosines.argmax(axis=1) == np.arange(len(a))).mean())


def compare(
    work: str, ours: Side, peers: Sequence[Side], jobs: Sequence[tuple[list[str], int]], prompt: str, apart: bool
) -> Iterator[Result]:
    """Run the rounds of a workload, with ours before and after each peer; yields a result per peer.

    jobs  (texts, number of tokens) of each round
    """
    results = {peer.name: Result(work, peer.name, TARGETS.get((work, peer.name))) for peer in peers}
    compared: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {peer.name: [] for peer in peers}
    for side in [ours, *peers]:
        side.run(jobs[0][0][-3:], prompt)

    def one(side: Side, texts: list[str]) -> tuple[float, np.ndarray]:
        seconds, vectors = side.run(texts, prompt, apart)
        return (statistics.median(seconds) if apart else sum(seconds)), vectors

    for texts, n_tokens in jobs:
        before, vectors = one(ours, texts)
        for peer in peers:
            result = results[peer.name]
            result.n_texts = len(texts)
            result.n_tokens.append(n_tokens)
            if peer.name in RAW:
                rates = peer.run(["512 tokens"] * RAW_REPEATS)[1]
                theirs = n_tokens / float(np.median(rates))
            else:
                theirs, their_vectors = one(peer, texts)
                compared[peer.name].append((vectors, their_vectors))
            after = one(ours, texts)[0]
            result.ours.append((before + after) / 2)
            result.theirs.append(theirs)
            result.ratios.append(theirs / result.ours[-1])
            before = after
    for peer in peers:
        if compared[peer.name]:
            a, b = (np.concatenate(rows) for rows in zip(*compared[peer.name], strict=True))
            results[peer.name].cosines, results[peer.name].nearest = similarity(a, b)
        yield results[peer.name]


def of_tokens(
    texts: Iterator[str], count: Callable[[list[str]], Sequence[int]], n_tokens: int
) -> tuple[list[str], int]:
    """Take texts until they have `n_tokens` tokens together; return the texts and their number of tokens."""
    taken, total = [], 0
    while total < n_tokens:
        taken.append(next(texts))
        total += int(count(taken[-1:])[0])
    return taken, total


def tiny_model(folder: Path) -> Path:
    """Make a model with 3 layers of 256 dims and the real vocabulary, in Q8_0."""
    from qgguf import convert_checkpoint
    from tests.support.checkpoints import make_qwen3_checkpoint

    return convert_checkpoint(make_qwen3_checkpoint(folder / "tiny"), folder / "tiny.Q8_0.gguf", quant="Q8_0")


class Bench:
    """One run of the script: options, open sides, results."""

    def __init__(self, options: argparse.Namespace, folder: Path, stack: ExitStack) -> None:
        self.options, self.folder, self.stack = options, folder, stack
        self.results: list[Result] = []
        self.skipped: list[str] = []
        self.sides: list[dict[str, Any]] = []

    def skip(self, what: str) -> None:
        """Report that a program is skipped."""
        self.skipped.append(what)
        print(f"skipped: {what}", flush=True)

    def open(self, name: str, **settings: Any) -> Side:
        """Open a side, which is closed at the end of the workload."""
        python = self.options.peer_python if name in PEER_MODULES else sys.executable
        side = Side(name, python, self.folder, threads=self.options.threads, **settings)
        self.stack.callback(lambda: self.sides.append({"side": name, "open_seconds": side.open_seconds, **side.about}))
        self.stack.callback(side.close)
        return side

    def peers(self, model: Path, checkpoint: Path | None, encoder: bool, raw: bool) -> list[Side]:
        """Open every requested peer that can run this model."""
        options = self.options
        batch = options.encoder_batch if encoder else options.batch
        exported = checkpoint and (options.onnx or checkpoint.with_name(checkpoint.name + ".onnx"))
        server = {
            "program": options.llama_server,
            "arguments": [*options.server_arguments.split(), "-b", str(batch), "-ub", str(batch)],
        }
        gguf, folder = {"model": str(model)}, {"checkpoint": str(checkpoint)}
        # name, whether it applies to the workload, what it needs, settings
        candidates: list[tuple[str, bool, Any, dict[str, Any]]] = [
            ("Llama.embed", True, True, gguf | {"batch": batch, "flash_attn": True}),
            ("Llama.embed, n_ubatch 2048", True, True, gguf | {"batch": 2048}),
            ("Llama.embed, defaults", True, True, gguf | {"batch": None}),
            ("llama-server", True, options.llama_server, gguf | server),
            ("sentence-transformers", True, checkpoint, folder),
            ("ONNX Runtime", encoder, checkpoint, folder | {"exported": str(exported)}),
            ("pp512 in process", raw, True, gguf),
            ("llama-bench pp512", raw, options.llama_bench, gguf | {"program": options.llama_bench}),
        ]
        missing = {
            "llama-server": "give its path with --llama-server",
            "llama-bench pp512": "give its path with --llama-bench",
        }
        peers = []
        for name, applies, requirement, settings in candidates:
            if not applies or (options.peers and name not in options.peers):
                continue
            if not requirement:
                self.skip(
                    f"{name}: {missing.get(name, 'give its checkpoint with --checkpoint or --minilm-checkpoint')}"
                )
            elif name not in PEER_MODULES or self._has(PEER_MODULES[name]):
                peers.append(self.open(name, **settings))
        return peers

    def _has(self, module: str) -> bool:
        python = self.options.peer_python
        if subprocess.run([python, "-c", f"import {module}"], capture_output=True).returncode == 0:
            return True
        self.skip(f"{module}: {python} does not have it; give a Python that has it with --peer-python")
        return False

    def show(self, results: Iterator[Result]) -> None:
        """Print results as they come."""
        for result in results:
            self.results.append(result)
            print(result.row(), flush=True)

    def causal(self) -> None:
        """Run the workloads of a causal model: documents, queries, one_query."""
        from qgguf import Embedder
        from qgguf.evaluation import sample_texts

        options = self.options
        documents, questions = sample_texts.documents(), sample_texts.queries()
        rounds = range(options.rounds)
        with Embedder(options.model, threads=options.threads, strategy="plain") as model:
            prompt = model.prompts.get("query", "")
            works: dict[str, list[tuple[list[str], int]]] = {
                "documents": [of_tokens(documents, model.count_tokens, options.tokens) for _ in rounds]
            }
            for work, n in (("queries", N_QUERIES), ("one_query", N_SINGLE)):
                rounds_of_texts = [list(itertools.islice(questions, n)) for _ in rounds]
                works[work] = [
                    (texts, int(model.count_tokens(texts, prompt=prompt).sum())) for texts in rounds_of_texts
                ]
        ours = self.open("qgguf", model=str(options.model))
        peers = self.peers(options.model, options.checkpoint, encoder=False, raw="documents" in options.work)
        for work, jobs in works.items():
            if work in options.work:
                compared = [peer for peer in peers if work == "documents" or peer.name not in RAW]
                self.show(
                    compare(work, ours, compared, jobs, "" if work == "documents" else prompt, work == "one_query")
                )

    def sentences(self) -> None:
        """Run the workload of MiniLM: sentences."""
        from qgguf import Embedder
        from qgguf.evaluation import sample_texts

        options = self.options
        documents = sample_texts.documents(languages=("english",))
        with Embedder(options.minilm, threads=options.threads) as model:
            jobs = [of_tokens(documents, model.count_tokens, options.sentence_tokens) for _ in range(options.rounds)]
        ours = self.open("qgguf", model=str(options.minilm))
        peers = self.peers(options.minilm, options.minilm_checkpoint, encoder=True, raw=False)
        self.show(compare("sentences", ours, peers, jobs, "", False))

    def million(self) -> dict[str, Any]:
        """Run the workload million."""
        options = self.options
        model = options.million_model or tiny_model(self.folder)
        side = self.open("million", model=str(model), call_texts=options.call_texts or options.million)
        side.run([str(options.million)])
        about = side.about
        memory = " ".join("?" if size is None else f"{size / 1e6:.0f}" for size in about["resident_bytes_at_tenths"])
        print(
            f"{about['n_texts']:,} short texts, {about['n_tokens']:,} tokens, {model.name}, "
            f"{about['texts_in_a_call']:,} in a call: {about['seconds']:.1f} s, "
            f"{about['n_texts'] / about['seconds']:,.0f} texts/s, "
            f"{about['n_tokens'] / about['seconds']:,.0f} tokens/s; "
            f"outside native calls {about['outside_share']:.1%} of the time (target: under 10 %)\n"
            f"resident MB: {(about['resident_before_bytes'] or 0) / 1e6:.0f} before; "
            f"at 10 %, 20 %, ... of the time: {memory}",
            flush=True,
        )
        return about | {"model": model.name}


def read_options() -> argparse.Namespace:
    """Read the command line."""
    from qgguf.hardware.cores import usable_cores

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--work", nargs="+", choices=(*WORKS, "million"), help="default: all with a given model")
    parser.add_argument("--peers", nargs="+", choices=list(SIDES)[1:-1], help="default: all that are installed")
    parser.add_argument("--model", type=Path, help="a causal model, for documents, queries and one_query")
    parser.add_argument("--checkpoint", type=Path, help="the checkpoint of --model")
    parser.add_argument("--minilm", type=Path, help="MiniLM, for sentences")
    parser.add_argument("--minilm-checkpoint", type=Path, help="the checkpoint of --minilm")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=2000, help="tokens of documents per round")
    parser.add_argument("--sentence-tokens", type=int, default=20_000, help="tokens of sentences per round")
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--llama-server", default=shutil.which("llama-server"), help="default: the one on PATH")
    parser.add_argument("--server-arguments", default="-c 32768 -np 64 -fa on")
    parser.add_argument("--llama-bench", default=shutil.which("llama-bench"), help="default: the one on PATH")
    parser.add_argument("--batch", type=int, default=512, help="the peers' n_batch and n_ubatch, in tokens")
    parser.add_argument("--encoder-batch", type=int, default=512, help="the same for MiniLM")
    parser.add_argument(
        "--peer-python", default=sys.executable, help="a Python with sentence-transformers and onnxruntime"
    )
    parser.add_argument("--onnx", type=Path, help="default: beside --minilm-checkpoint; exported if missing")
    parser.add_argument("--million", type=int, nargs="?", const=1_000_000, help="number of texts; default: a million")
    parser.add_argument("--million-model", type=Path, help="default: a tiny model is made")
    parser.add_argument("--call-texts", type=int, help="texts per call of million; default: all")
    options = parser.parse_args()
    default_work = [*(WORKS[:3] if options.model else ()), *(WORKS[3:] if options.minilm else ())]
    options.work = options.work or [*default_work, *(["million"] if options.million else [])]
    if "million" in options.work:
        options.million = options.million or 1_000_000
    if not options.work:
        parser.error("no workload: give --model, --minilm or --million")
    if set(options.work) & set(WORKS[:3]) and not options.model:
        parser.error("documents, queries and one_query need --model")
    if "sentences" in options.work and not options.minilm:
        parser.error("sentences need --minilm")
    return options


def main() -> None:
    """Run the comparison, or one of its processes."""
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2], json.loads(sys.argv[3]))
        return
    from qgguf.evaluation.speed import versions
    from qgguf.file_hash import sha256_of
    from qgguf.hardware.machine import this_machine

    options = read_options()
    load = os.getloadavg() if hasattr(os, "getloadavg") else None
    machine = this_machine()
    models = [path for path in (options.model, options.minilm, options.million_model) if path]
    about = {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "machine": asdict(machine),
        "load_before": load,
        "threads": options.threads,
        "versions": versions(),
        "models": {path.name: {"size_bytes": path.stat().st_size, "sha256": sha256_of(path)} for path in models},
    }
    print(
        f"{machine.cpu}, {options.threads} of {machine.cores} cores, load before {load}; "
        f"ours and theirs in tokens per second\n{HEAD}"
    )
    million = None
    results: list[Result] = []
    skipped: list[str] = []
    sides: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        for names, run in ((WORKS[:3], Bench.causal), (WORKS[3:], Bench.sentences), (("million",), Bench.million)):
            if set(options.work) & set(names):
                with ExitStack() as stack:
                    bench = Bench(options, Path(temporary), stack)
                    million = run(bench) or million
                results += bench.results
                skipped += bench.skipped
                sides += bench.sides
    about |= {"results": [asdict(result) | {"ratio": result.ratio} for result in results], "million": million}
    print(json.dumps(about | {"sides": sides, "skipped": skipped}, ensure_ascii=False))


if __name__ == "__main__":
    main()
