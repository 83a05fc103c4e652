"""The same texts through qgguf and through other front ends, in turns on one machine.

    python scripts/bench_peers.py --model MODEL.gguf [--checkpoint FOLDER] [--minilm MODEL.gguf]
        [--minilm-checkpoint FOLDER] [--llama-server PATH] [--llama-bench PATH] [--peer-python PATH] [--work WORK ...]
        [--rounds N] [--tokens N] [--million [N]] [--million-model MODEL.gguf]

WORK, all but million by default:
    documents   texts of 10 to 150 tokens, one call
    queries     63 short questions with the model's query prompt, one call
    one_query   short questions with the prompt, each in a call of its own; the prompt was seen before
    sentences   documents in English through MiniLM, one call
    million     texts of 3 to 10 words through a tiny model (it is made where none is given), to 32 dims and bits:
                how much of the time is spent outside native calls, and whether memory stays flat

Peers: Llama.embed of llama-cpp-python, with the fastest settings we found (flash attention on), with n_ubatch 2048 and
nothing else, and with its defaults; llama-server (one request with all texts); sentence-transformers in float32 (where
--checkpoint says what the GGUF was made of); ONNX Runtime (MiniLM, exported once); and the kernels' own rate:
llama-bench pp512 with embeddings off, and the same pass in process. A peer that is not there is skipped and named.

Each side lives in a process of its own and works only while the others wait. Each round runs ours before and after each
peer, all with the same texts, other ones in each round. A ratio is the peer's seconds over the mean of our two, for a
machine's speed drifts: the median of the rounds, the least and the greatest. Vectors are compared: cosine, and how many
texts have their own vector of the other side as the nearest one.

A table for people, then one JSON line.

Tried so far, what lost too. 2 cores of an AMD EPYC with AVX-512, llama-cpp-python 0.3.36, 0.6B shape in Q4_K_M with
random weights and the real MiniLM; tokens per second unless it says otherwise.

2026-11-25  Batch and micro-batch of the last-rows way, two rounds: 2048/512: 262, 248; 512/512: 275, 245; 1024/1024:
            265, 235; 1024/256: 266, 230. No difference that can be told: 1024/512, so that who comes next waits less.
2026-11-25  KV cache in F32 in place of F16: 239, 223. Lost.
2026-11-25  Two calls with flash attention off: 164, 131; with a cache in F32: 127, 110. Lost, kept as the second way.
2026-11-25  Separate KV streams in place of one unified cache, 12 texts in a batch: 228, 224, 211 against 263, 232, 237,
            and llama.cpp refuses tokens that several texts share. Lost.
2026-11-25  MiniLM Q8_0, batch of 256, contexts x threads: 1x2 5203-5497; 2x1 5999-6317; 1x1 3235-3368; 2x2 6354-6527;
            one text 2.6, 4.2-4.9, 4.2-4.7, 2.3 ms. F16: 4083-4870, 5660-5742, 2850, 5526-5650. A batch of 1024 was
            slower everywhere.
2026-11-25  MiniLM, contexts that share the cores (all for one that is alone, a part each when several compute):
            6386-6534 and 1.84-1.98 ms against one context's 5224-5387 and 1.85-2.33 ms. Won.
2026-11-25  No second ("repacked") layout for K-types: documents 315-336 against 223-234 with it; one query by its own
            tokens (1, 4, 9, 16): 16, 49, 72, 81 ms against 12, 33, 66, 78 ms. llama.cpp has tiled kernels for K-types,
            and does not use them on repacked weights. Won for documents; the 4B takes 1.7 GB less. With and without
            mmap: no difference.
2026-11-25  The second layout with llama.cpp compiled for AVX2 alone, both in turns, 7 rounds, medians: documents 152
            with it, 164 without; one query by its own tokens (1, 4, 8, 16): 17, 41, 87, 123 ms against 20, 60, 138,
            129. It stays there: a query counts for more than 8 % of documents.
2026-11-25  One query by its own tokens, without the second layout, 9 rounds, medians of native calls: 1: 18 ms, 4: 50,
            7: 74, 8: 70, 9: 72, 16: 80, 32: 128, 64: 215. The tiled kernels unpack all weights once for up to 16
            tokens, 60 ms; below 8 tokens llama.cpp multiplies one by one, 8 ms each. A quarter of that is not to be had
            from outside: libgomp is 5 % of it, the callback's questions 3 %, attention 6 %; OMP_WAIT_POLICY=active and
            OMP_PROC_BIND change nothing. So 4 times Llama.embed (175-200 ms) is out of reach of these kernels here.
2026-11-25  The batches of a call cut to like sizes, so that no rest of a few tokens is left: 63 queries, 11 rounds,
            1.00 times as fast (0.85-1.16); 14 documents, 5 rounds, 1.02 (0.98-1.07); MiniLM, 14 and 100 documents, 15
            rounds, 0.99. Lost.
2026-11-25  The same without the second layout, 6 rounds in turns, some beside other work, medians (best): 512/512: 391
            (403); 256/256: 396 (399); 1024/512: 370 (378); 1024/256: 346 (384); 1024/1024: 353 (377); 2048/512: 373
            (380); 2048/128: 349 (358). Masked attention, 17 % of the time at 1024/512, sees fewer cells. 6 % to be had
            with batches of 512, taken.
2026-11-25  Types, passes of 512 tokens in turns, 9 rounds, medians, with the second layout and without: Q4_K_M 222,
            300; Q6_K 269, 268 (it has none on x86); Q8_0 187, 187. Without, one text of 128 tokens: Q4_K_M 339, Q6_K
            278, Q8_0 208; of 4 tokens: 49, 53, 45 ms. Q4_K_M is the fastest of them here; with it, Q6_K was.
2026-11-25  Llama.embed's batch, documents: 512: 188, 193; 1024: 177; 2048: 149, 159; its defaults (512, flash attention
            off) 157-167. llama-server's: 512: 169, 2048: 145. The fastest, 512, is what they are measured with.
2026-11-25  Batches padded to a multiple of 4 tokens, because the repacked kernels go by fours: 5 to 8 tokens 56 ms, 9
            to 12 tokens 73 ms; unpadded 9 took 67 ms. Lost.
2026-11-25  MiniLM F16, times as fast, 5 rounds: 1.07 Llama.embed, 3.22 its defaults, 1.15 llama-server, 1.13
            sentence-transformers, 0.99 ONNX Runtime. Q8_0, 5 rounds, some beside other work or across a stop of the
            machine: 1.27, 2.99, 1.11, 1.17, 1.17.
2026-11-25  MiniLM by type, documents, 7 rounds in turns, medians: BF16 7621, Q4_0 7300, Q6_K 6272, Q8_0 6031, Q4_K_M
            5922, F16 5338, F32 4898. BF16 against the peers, 5 rounds: 1.23 Llama.embed, 4.08 its defaults, 1.38
            llama-server, 1.42 sentence-transformers, 1.36 ONNX Runtime. F16: 1.20, 3.24, 1.17, 1.02, 0.95.
2026-11-25  0.6B by type, 7 rounds in turns, medians, documents and one query of 8 own tokens: Q4_K_M 399, 66 ms; Q5_K_M
            399, 66; IQ4_XS 388, 58; Q4_0 267, 45; Q8_0 203, 62.
2026-11-25  1,000,000 short texts in one call, tiny model: 754 s, 22,658 tokens/s, 4.3 % of it outside native calls,
            resident memory 430 MB at each tenth of the way. 100,000, batches of 1024: 71 s, 242 MB.
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
# qgguf is imported inside functions: the peers' Python need not have it.

WORKS = ("documents", "queries", "one_query", "sentences")
N_QUERIES = 63
N_SINGLE = 15
# work, peer -> the least ratio that we promise
WANTED = {
    ("documents", "Llama.embed"): 2.5,
    ("documents", "Llama.embed, n_ubatch 2048"): 2.5,
    ("documents", "llama-server"): 1.5,
    ("documents", "sentence-transformers"): 2.5,
    ("documents", "raw pass in process"): 1.0,
    ("documents", "llama-bench pp512"): 1.0,
    ("queries", "Llama.embed"): 7.0,
    ("one_query", "Llama.embed"): 4.0,
    ("sentences", "sentence-transformers"): 1.0,
    ("sentences", "Llama.embed"): 2.5,
}
# Sides whose "texts" are passes of 512 tokens, and whose answers are rates.
RAW = ("raw pass in process", "llama-bench pp512")
RAW_PASSES = 4
# Sides that run in --peer-python, and what it must have for them.
PEER_MODULES = {"sentence-transformers": "sentence_transformers", "ONNX Runtime": "onnxruntime"}
NATIVE_CALLS = ("llama_decode", "llama_encode", "llama_tokenize", "llama_process")


# The sides: each opens its model, then turns texts into vectors


def installed(*names: str) -> dict[str, str]:
    """Package -> version, of those that are there."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


class Qgguf:
    """Ours, as it is by default."""

    def __init__(self, model: str, threads: int) -> None:
        from qgguf import Embedder

        self.embedder = Embedder(model, device="cpu", threads=threads)
        self.about = {
            "strategy": self.embedder.strategy.value,
            "versions": installed("qgguf", "llama-cpp-python", "numpy"),
        }

    def vectors(self, texts: Sequence[str], prompt: str) -> np.ndarray:
        if prompt:
            return self.embedder.encode_query(texts)
        return self.embedder.encode(texts)


class LlamaEmbed:
    """llama-cpp-python's own. batch: tokens; None for all its settings as they come, texts cut at 512 tokens."""

    def __init__(self, model: str, threads: int, batch: int | None, flash_attn: bool = False) -> None:
        from llama_cpp import Llama

        settings = {"n_threads": threads, "n_threads_batch": threads}
        if batch is not None:
            settings |= {"n_ctx": 2048, "n_batch": batch, "n_ubatch": batch, "flash_attn": flash_attn}
        self.llama = Llama(model, embedding=True, verbose=False, **settings)
        self.about = {"settings": settings, "versions": installed("llama-cpp-python")}

    def vectors(self, texts: Sequence[str], prompt: str) -> np.ndarray:
        return np.array(self.llama.embed([prompt + text for text in texts], normalize=True), np.float32)


class LlamaServer:
    """llama.cpp's server, all texts in one request."""

    def __init__(self, model: str, threads: int, program: str, arguments: Sequence[str]) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [program, "-m", model, "--embeddings", "-t", str(threads), "-tb", str(threads), *arguments]
        self.process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self.url = f"http://127.0.0.1:{port}"
        # An http_proxy of the environment is not for this machine's own addresses.
        self.open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
        said = subprocess.run([program, "--version"], capture_output=True, text=True)
        words = (said.stdout + said.stderr).strip().splitlines()
        self.about = {"command": command, "versions": {"llama-server": words[0] if words else "?"}}
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
        asked = {"input": [prompt + text for text in texts], "model": "m", "encoding_format": "base64"}
        request = urllib.request.Request(
            self.url + "/v1/embeddings", json.dumps(asked).encode(), {"Content-Type": "application/json"}
        )
        with self.open(request) as answer:
            rows = sorted(json.load(answer)["data"], key=lambda row: row["index"])
        return np.array([np.frombuffer(base64.b64decode(row["embedding"]), "<f4") for row in rows])

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()


class SentenceTransformers:
    """The checkpoint itself in float32."""

    def __init__(self, checkpoint: str, threads: int) -> None:
        import torch
        from sentence_transformers import SentenceTransformer

        torch.set_num_threads(threads)
        self.model = SentenceTransformer(checkpoint, device="cpu", model_kwargs={"dtype": torch.float32})
        self.about = {"versions": installed("sentence-transformers", "transformers", "torch")}

    def vectors(self, texts: Sequence[str], prompt: str) -> np.ndarray:
        return self.model.encode(list(texts), prompt=prompt or None, normalize_embeddings=True)


class OnnxRuntime:
    """A BERT with mean pooling, exported by torch where the file is not there; 32 texts of like length at once."""

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
    """The kernels' own rate, in process. Its "texts" are passes; no vectors."""

    def __init__(self, model: str, threads: int) -> None:
        from qgguf.model.from_gguf import read_spec
        from qgguf.native.model import NativeModel
        from qgguf.native.prompt_speed import PromptProcessing

        self.passes = PromptProcessing(NativeModel(model, read_spec(Path(model)), "cpu"), threads=threads)
        self.about = {"n_tokens": self.passes.n_tokens, "versions": installed("llama-cpp-python")}

    def vectors(self, texts: Sequence[str], prompt: str) -> np.ndarray:
        return np.array([[self.passes.n_tokens / self.passes.seconds()] for _ in texts])


class LlamaBench:
    """llama-bench pp512, embeddings off; it opens the model, warms up, and measures each pass."""

    def __init__(self, model: str, threads: int, program: str) -> None:
        self.command = [program, "-m", model, "-p", "512", "-n", "0", "-t", str(threads), "-embd", "0", "-o", "json"]
        self.about = {"command": self.command, "n_tokens": 512, "versions": {}}

    def vectors(self, texts: Sequence[str], prompt: str) -> np.ndarray:
        done = subprocess.run([*self.command, "-r", str(len(texts))], capture_output=True, text=True, check=True)
        (found,) = json.loads(done.stdout)
        self.about["versions"] = {"llama-bench": f"{found.get('build_number')} {found.get('build_commit')}"}
        return np.array([[rate] for rate in found["samples_ts"]])


class Million:
    """Ours with its native calls timed; one "text" says how many texts to take. It answers in `about`."""

    def __init__(self, model: str, threads: int, call_texts: int) -> None:
        self.side = Qgguf(model, threads)
        self.call_texts = call_texts
        self.about = self.side.about

    def vectors(self, texts: Sequence[str], prompt: str) -> np.ndarray:
        from qgguf.evaluation import sample_texts

        n_texts = int(texts[0])
        million = list(itertools.islice(sample_texts.short_texts(), n_texts))
        encode = self.side.embedder.encode
        encode(million[:512], precision="ubinary", truncate_dim=32)
        inside = NativeTime()
        inside.watch()
        with MemoryMarks() as memory:
            started = time.perf_counter()
            for start in range(0, n_texts, self.call_texts):
                encode(million[start : start + self.call_texts], precision="ubinary", truncate_dim=32)
            seconds, native_seconds, native_calls = time.perf_counter() - started, inside.seconds, dict(inside.calls)
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
    """Wall time in which at least one thread is inside a native call."""

    def __init__(self) -> None:
        self.seconds, self.calls = 0.0, dict.fromkeys(NATIVE_CALLS, 0)
        self._n_inside, self._since, self._lock = 0, 0.0, threading.Lock()

    def watch(self) -> None:
        """Count from now on."""
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


class MemoryMarks:
    """Resident memory, looked at all along the work."""

    def __enter__(self) -> "MemoryMarks":
        from qgguf.hardware.process_memory import resident_bytes

        self._look, self._marks = resident_bytes, []
        self.before, self._started, self._ended = resident_bytes(), time.perf_counter(), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._ended.wait(0.05):
            self._marks.append((time.perf_counter() - self._started, self._look()))

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._marks.append((time.perf_counter() - self._started, self._look()))

    def tenths(self) -> list[int | None]:
        """At 10 %, 20 %, ... of the time."""
        ends = [self._marks[-1][0] * tenth / 10 for tenth in range(1, 11)]
        return [next(size for at, size in self._marks if at >= end) for end in ends]


SIDES = {
    "qgguf": Qgguf,
    "Llama.embed": LlamaEmbed,
    "Llama.embed, n_ubatch 2048": LlamaEmbed,
    "Llama.embed, defaults": LlamaEmbed,
    "llama-server": LlamaServer,
    "sentence-transformers": SentenceTransformers,
    "ONNX Runtime": OnnxRuntime,
    "raw pass in process": Raw,
    "llama-bench pp512": LlamaBench,
    "million": Million,
}


def serve(name: str, settings: dict[str, Any]) -> None:
    """Be one side: a line of JSON in is a job, a line out says how long it took; vectors go into a file."""
    # What libraries print must not get among the answers.
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
        if at_work.is_set():  # who asked is gone: nobody waits for the answer, and others need the cores
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
            found = side.vectors(group, job["prompt"])
            seconds.append(time.perf_counter() - started)
            vectors.append(found)
        np.save(job["out"], np.concatenate(vectors))
        at_work.clear()
        answer({"seconds": seconds, "about": side.about})
    close()


# The side that asks


class Side:
    """A side in its own process."""

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
            raise SystemExit(f"{self.name} ended with {self._process.wait()}; what it said is above.")
        said: dict[str, Any] = json.loads(line)
        self.about = said["about"]
        return said

    def run(self, texts: Sequence[str], prompt: str = "", apart: bool = False) -> tuple[list[float], np.ndarray]:
        """Seconds of each call, and the vectors."""
        assert self._process.stdin is not None
        job = {"texts": list(texts), "prompt": prompt, "apart": apart, "out": str(self._out)}
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        seconds = self._answer()["seconds"]
        return seconds, np.load(self._out)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


@dataclass
class Result:
    """A work against a peer.

    ours, theirs   seconds of each round; for one_query the median call of the round; for raw rates tokens in a second
    cosines        (mean, least) of our vectors to theirs; None for raw rates
    nearest        share of texts whose own vector is the nearest of the other side
    """

    work: str
    against: str
    wanted: float | None
    n_texts: int = 0
    n_tokens: list[int] = field(default_factory=list)
    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    cosines: tuple[float, float] | None = None
    nearest: float | None = None

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)

    def row(self) -> str:
        """A line of the table."""
        rate = [
            statistics.median(n / s for n, s in zip(self.n_tokens, taken, strict=True))
            for taken in (self.ours, self.theirs)
        ]
        if self.work == "one_query":
            speeds = "".join(f"{statistics.median(taken) * 1000:8.1f} ms" for taken in (self.ours, self.theirs))
        else:
            speeds = "".join(f"{one:11,.0f}" for one in rate)
        wanted = f"{self.wanted:6.1f}" if self.wanted is not None else " " * 6
        alike = "" if self.cosines is None else f"  {self.cosines[0]:.5f} {self.cosines[1]:.5f} {self.nearest:6.1%}"
        spread = f"({min(self.ratios):.2f}-{max(self.ratios):.2f})"
        return f"{self.work:10} {self.against:22}{speeds}{self.ratio:8.2f} {spread:14}{wanted}{alike}"


HEAD = (
    f"{'work':10} {'against':22}{'ours':>11}{'theirs':>11}{'ratio':>8} {'(spread)':14}{'wanted':>6}"
    "  cosine mean, least, nearest"
)


def alike(a: np.ndarray, b: np.ndarray) -> tuple[tuple[float, float], float]:
    """(mean, least) cosine of rows, and the share of rows of `a` whose own row of `b` is the nearest."""
    a, b = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (a.astype(np.float64), b.astype(np.float64)))
    cosines = a @ b.T
    own = np.diagonal(cosines)
    return (float(own.mean()), float(own.min())), float((cosines.argmax(axis=1) == np.arange(len(a))).mean())


def compare(
    work: str, ours: Side, peers: Sequence[Side], jobs: Sequence[tuple[list[str], int]], prompt: str, apart: bool
) -> Iterator[Result]:
    """Rounds of one work, ours before and after every peer. jobs: (texts, tokens) of each round."""
    results = {peer.name: Result(work, peer.name, WANTED.get((work, peer.name))) for peer in peers}
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
                rates = peer.run(["pass"] * RAW_PASSES)[1]
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
            results[peer.name].cosines, results[peer.name].nearest = alike(a, b)
        yield results[peer.name]


def of_tokens(
    texts: Iterator[str], count: Callable[[list[str]], Sequence[int]], n_tokens: int
) -> tuple[list[str], int]:
    """As many texts as have that many tokens together, and their tokens."""
    taken, total = [], 0
    while total < n_tokens:
        taken.append(next(texts))
        total += int(count(taken[-1:])[0])
    return taken, total


def tiny_model(folder: Path) -> Path:
    """Three layers of 256 dims under the real vocabulary, Q8_0."""
    from qgguf import convert_checkpoint
    from tests.support.checkpoints import make_qwen3_checkpoint

    return convert_checkpoint(make_qwen3_checkpoint(folder / "tiny"), folder / "tiny.Q8_0.gguf", quant="Q8_0")


class Bench:
    """One run of the script: its options, the sides it opened, what it found."""

    def __init__(self, options: argparse.Namespace, folder: Path, stack: ExitStack) -> None:
        self.options, self.folder, self.stack = options, folder, stack
        self.results: list[Result] = []
        self.skipped: list[str] = []
        self.sides: list[dict[str, Any]] = []

    def skip(self, what: str) -> None:
        self.skipped.append(what)
        print(f"skipped: {what}", flush=True)

    def open(self, name: str, **settings: Any) -> Side:
        """A side, closed at the end of the work."""
        python = self.options.peer_python if name in PEER_MODULES else sys.executable
        side = Side(name, python, self.folder, threads=self.options.threads, **settings)
        self.stack.callback(lambda: self.sides.append({"side": name, "open_seconds": side.open_seconds, **side.about}))
        self.stack.callback(side.close)
        return side

    def peers(self, model: Path, checkpoint: Path | None, encoder: bool, raw: bool) -> list[Side]:
        """Every peer that can run this model, of those asked for."""
        options = self.options
        batch = options.encoder_batch if encoder else options.batch
        exported = checkpoint and (options.onnx or checkpoint.with_name(checkpoint.name + ".onnx"))
        server = {
            "program": options.llama_server,
            "arguments": [*options.server_arguments.split(), "-b", str(batch), "-ub", str(batch)],
        }
        gguf, folder = {"model": str(model)}, {"checkpoint": str(checkpoint)}
        # name, whether it is of use here, what must be there first, settings
        able: list[tuple[str, bool, Any, dict[str, Any]]] = [
            ("Llama.embed", True, True, gguf | {"batch": batch, "flash_attn": True}),
            ("Llama.embed, n_ubatch 2048", True, True, gguf | {"batch": 2048}),
            ("Llama.embed, defaults", True, True, gguf | {"batch": None}),
            ("llama-server", True, options.llama_server, gguf | server),
            ("sentence-transformers", True, checkpoint, folder),
            ("ONNX Runtime", encoder, checkpoint, folder | {"exported": str(exported)}),
            ("raw pass in process", raw, True, gguf),
            ("llama-bench pp512", raw, options.llama_bench, gguf | {"program": options.llama_bench}),
        ]
        missing = {
            "llama-server": "say where it is, --llama-server PATH",
            "llama-bench pp512": "say where llama-bench is, --llama-bench PATH",
        }
        found = []
        for name, of_use, there, settings in able:
            if not of_use or (options.peers and name not in options.peers):
                continue
            if not there:
                self.skip(
                    f"{name}: {missing.get(name, 'say what the GGUF was made of, --checkpoint, --minilm-checkpoint')}"
                )
            elif name not in PEER_MODULES or self._has(PEER_MODULES[name]):
                found.append(self.open(name, **settings))
        return found

    def _has(self, module: str) -> bool:
        python = self.options.peer_python
        if subprocess.run([python, "-c", f"import {module}"], capture_output=True).returncode == 0:
            return True
        self.skip(f"{module}: {python} does not have it; say where: --peer-python PATH")
        return False

    def show(self, results: Iterator[Result]) -> None:
        for result in results:
            self.results.append(result)
            print(result.row(), flush=True)

    def causal(self) -> None:
        """documents, queries, one_query."""
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
                asked = [list(itertools.islice(questions, n)) for _ in rounds]
                works[work] = [(texts, int(model.count_tokens(texts, prompt=prompt).sum())) for texts in asked]
        ours = self.open("qgguf", model=str(options.model))
        peers = self.peers(options.model, options.checkpoint, encoder=False, raw="documents" in options.work)
        for work, jobs in works.items():
            if work in options.work:
                able = [peer for peer in peers if work == "documents" or peer.name not in RAW]
                self.show(compare(work, ours, able, jobs, "" if work == "documents" else prompt, work == "one_query"))

    def sentences(self) -> None:
        """MiniLM."""
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
        """The long run."""
        options = self.options
        model = options.million_model or tiny_model(self.folder)
        side = self.open("million", model=str(model), call_texts=options.call_texts or options.million)
        side.run([str(options.million)])
        about = side.about
        marks = " ".join("?" if size is None else f"{size / 1e6:.0f}" for size in about["resident_bytes_at_tenths"])
        print(
            f"{about['n_texts']:,} short texts, {about['n_tokens']:,} tokens, {model.name}, "
            f"{about['texts_in_a_call']:,} in a call: {about['seconds']:.1f} s, "
            f"{about['n_texts'] / about['seconds']:,.0f} texts/s, "
            f"{about['n_tokens'] / about['seconds']:,.0f} tokens/s; "
            f"outside native calls {about['outside_share']:.1%} of the time (wanted: under 10 %)\n"
            f"resident MB: {(about['resident_before_bytes'] or 0) / 1e6:.0f} before; "
            f"at 10 %, 20 %, ... of the time: {marks}",
            flush=True,
        )
        return about | {"model": model.name}


def read_options() -> argparse.Namespace:
    from qgguf.hardware.cores import usable_cores

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--work", nargs="+", choices=(*WORKS, "million"), help="default: all whose model is given")
    parser.add_argument("--peers", nargs="+", choices=list(SIDES)[1:-1], help="default: all that are there")
    parser.add_argument("--model", type=Path, help="a causal model: documents, queries, one_query")
    parser.add_argument("--checkpoint", type=Path, help="what --model was made of")
    parser.add_argument("--minilm", type=Path, help="MiniLM: sentences")
    parser.add_argument("--minilm-checkpoint", type=Path, help="what --minilm was made of")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=2000, help="tokens of documents in a round")
    parser.add_argument("--sentence-tokens", type=int, default=20_000, help="tokens of sentences in a round")
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--llama-server", default=shutil.which("llama-server"), help="default: as PATH has it")
    parser.add_argument("--server-arguments", default="-c 32768 -np 64 -fa on")
    parser.add_argument("--llama-bench", default=shutil.which("llama-bench"), help="default: as PATH has it")
    parser.add_argument("--batch", type=int, default=512, help="the peers' n_batch and n_ubatch, in tokens")
    parser.add_argument("--encoder-batch", type=int, default=512, help="the same for MiniLM")
    parser.add_argument("--peer-python", default=sys.executable, help="has sentence-transformers and onnxruntime")
    parser.add_argument("--onnx", type=Path, help="default: beside --minilm-checkpoint, exported where it is not there")
    parser.add_argument("--million", type=int, nargs="?", const=1_000_000, help="how many texts; default a million")
    parser.add_argument("--million-model", type=Path, help="default: a tiny one is made")
    parser.add_argument("--call-texts", type=int, help="texts in a call of the million; default: all")
    options = parser.parse_args()
    given = [*(WORKS[:3] if options.model else ()), *(WORKS[3:] if options.minilm else ())]
    options.work = options.work or [*given, *(["million"] if options.million else [])]
    if "million" in options.work:
        options.million = options.million or 1_000_000
    if not options.work:
        parser.error("nothing to do: give --model, --minilm or --million")
    if set(options.work) & set(WORKS[:3]) and not options.model:
        parser.error("documents, queries and one_query need --model")
    if "sentences" in options.work and not options.minilm:
        parser.error("sentences need --minilm")
    return options


def main() -> None:
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
        for wanted, run in ((WORKS[:3], Bench.causal), (WORKS[3:], Bench.sentences), (("million",), Bench.million)):
            if set(options.work) & set(wanted):
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
