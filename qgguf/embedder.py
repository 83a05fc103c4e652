"""Embedder: texts in, vectors out. The main call, from prompt to unit length."""

import logging
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from tqdm import tqdm

from qgguf import prompts as prompt_texts
from qgguf import vectors as vector_math
from qgguf.batching import distinct_texts, order_texts, take_batch
from qgguf.cores import usable_cores
from qgguf.errors import ModelFileError, NativeError, OptionError, PromptError, QgError, TextError, TextTooLongError
from qgguf.gguf_file import read_header, spec_of
from qgguf.native.choice import choose_strategy
from qgguf.native.context import NativeContext, Strategy
from qgguf.native.model import NativeModel
from qgguf.spec import ModelSpec, Pooling
from qgguf.tokenizer import Ids, Tokenizer

log = logging.getLogger("qgguf")

DEFAULT_MAX_TOKENS = 8192
"""Where a checkpoint declares no limit of its own: the length its authors evaluate Qwen3-Embedding with."""

BATCH_TOKENS = {Strategy.LAST_ROWS: 2048, Strategy.TWO_CALLS: 2048, Strategy.PLAIN: 512}
"""Tokens computed together. In one pass of an encoder every token is compared with all of its batch: small is fast."""

LEAST_SHARED = 8
"""Tokens that texts must begin with alike to be put into one batch for it."""

MAX_INT = 2**31 - 1

TRUNCATIONS = ("end", "error")


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Vectors, and what became of each text.

    vectors    (n_texts, dims), float32 or what `precision` asked for
    n_tokens   (n_texts,) int64: tokens of each whole text, prompt and end token included, before any cut
    truncated  (n_texts,) bool: the text was cut to the token limit
    """

    vectors: NDArray[Any]
    n_tokens: NDArray[np.int64]
    truncated: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.vectors)


class Embedder:
    """A text-embedding model from a GGUF file.

    model                a path, a name ("qwen3-embedding-0.6b"), "owner/repo:Q4_K_M" or "owner/repo/file.gguf"
    max_tokens           longest text in tokens; default: what the checkpoint declares, else 8192 or its trained context
    truncate             "end" cuts longer texts and says so, "error" refuses them; the end token is kept
    truncate_dim         dims of the vectors where a call names none; default: all
    device               "auto", "cpu" or "cuda"
    threads              CPU threads; default: the cores this process may use
    pooling              "mean", "cls" or "last", where the file declares none or a wrong one
    prompts              name -> text; added to the model's own
    default_prompt_name  prompt of a plain `encode`; default: the model's own, mostly none
    strategy             "last_rows", "two_calls" or "plain": how llama.cpp is driven; default: tried out at opening
    raises               ModelNotFoundError, ModelFileError, OptionError, DeviceError, PromptError

    All methods may be called from any thread. Close it, or use it as a context manager, to free its memory.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        max_tokens: int | None = None,
        truncate: str = "end",
        truncate_dim: int | None = None,
        device: str = "auto",
        threads: int | None = None,
        pooling: str | None = None,
        prompts: Mapping[str, str] | None = None,
        default_prompt_name: str | None = None,
        strategy: str | None = None,
    ) -> None:
        self.path = _find(model)
        header = read_header(self.path)
        self.spec: ModelSpec = spec_of(header, self.path)
        for sentence in self.spec.mended:
            log.info("%s: %s", self.path.name, sentence)
        self._pooling = _pooling(self.spec, pooling, self.path)
        self._threads = usable_cores() if threads is None else _at_least(1, threads, "threads")
        self._truncate = _truncation(truncate)
        self._dims = self.spec.dims
        self._warned_of_dims = False
        if truncate_dim is not None:
            self._dims = self._checked_dims(truncate_dim)
        self._prompts = {**self.spec.prompts, **(prompts or {})}
        self._default_prompt_name = default_prompt_name or self.spec.default_prompt_name
        if self._default_prompt_name is not None and self._default_prompt_name not in self._prompts:
            raise PromptError(f"default_prompt_name={default_prompt_name!r}; there are {sorted(self._prompts)}.")
        self._max_tokens = _max_tokens(self.spec, max_tokens)
        self._life = _Life()
        self._computing = threading.Lock()
        self._context: NativeContext | None = None
        self._model = NativeModel(self.path, self.spec, device)
        self._tokenizer = Tokenizer(self._model, header, self.path)
        try:
            self.strategy = choose_strategy(self._model, threads=self._threads, pooling=self._pooling, asked=strategy)
        except QgError:
            self._model.close()
            raise
        self.device = self._model.device
        """ "cpu" or "cuda": where the model runs"""

    # What the model is

    @property
    def dims(self) -> int:
        """Length of the vectors that a call without `truncate_dim` gives."""
        return self._dims

    @property
    def max_tokens(self) -> int:
        """Longest text in tokens, prompt and end token included."""
        return self._max_tokens

    @property
    def prompts(self) -> dict[str, str]:
        """Prompt name -> the text put before a text."""
        return dict(self._prompts)

    def __repr__(self) -> str:
        spec = self.spec
        return f"Embedder({spec.name!r}, {spec.quantization}, dims={self.dims}, device={self.device!r})"

    # Texts to vectors

    def encode(
        self,
        texts: str | Iterable[str],
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
        instruction: str | None = None,
        truncate_dim: int | None = None,
        normalize_embeddings: bool = True,
        precision: str = "float32",
        show_progress_bar: bool = False,
        truncate: str | None = None,
    ) -> NDArray[Any]:
        """Vectors of texts, in their order.

        texts                 one str, or any number of them
        prompt                text put before each text
        prompt_name           a key of `prompts`
        instruction           task sentence for the model's instruction template
        truncate_dim          first dims to keep, within `spec.mrl_dims`
        normalize_embeddings  bring each vector to length 1, after the cut to `truncate_dim`
        precision             "float32", "int8", "binary", "ubinary": see `qgguf.vectors.to_precision`
        show_progress_bar     on stderr
        truncate              "end" or "error", for this call
        returns               (n_texts, dims); (dims,) for one str; float32 unless `precision` says otherwise
        raises                TextError (index named), TextTooLongError, DimensionError, PromptError, OptionError
        """
        single = isinstance(texts, str)
        embeddings = self.embed(
            texts,
            prompt=prompt,
            prompt_name=prompt_name,
            instruction=instruction,
            truncate_dim=truncate_dim,
            normalize_embeddings=normalize_embeddings,
            precision=precision,
            show_progress_bar=show_progress_bar,
            truncate=truncate,
        )
        return embeddings.vectors[0] if single else embeddings.vectors

    def encode_query(
        self,
        texts: str | Iterable[str],
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
        instruction: str | None = None,
        truncate_dim: int | None = None,
        normalize_embeddings: bool = True,
        precision: str = "float32",
        show_progress_bar: bool = False,
        truncate: str | None = None,
    ) -> NDArray[Any]:
        """As `encode`, with the model's prompt "query" unless another is given."""
        if prompt is None and prompt_name is None and instruction is None:
            prompt_name = self._first_prompt(prompt_texts.QUERY_PROMPT_NAMES)
        return self.encode(
            texts,
            prompt=prompt,
            prompt_name=prompt_name,
            instruction=instruction,
            truncate_dim=truncate_dim,
            normalize_embeddings=normalize_embeddings,
            precision=precision,
            show_progress_bar=show_progress_bar,
            truncate=truncate,
        )

    def encode_document(
        self,
        texts: str | Iterable[str],
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
        truncate_dim: int | None = None,
        normalize_embeddings: bool = True,
        precision: str = "float32",
        show_progress_bar: bool = False,
        truncate: str | None = None,
    ) -> NDArray[Any]:
        """As `encode`, with the model's prompt "document", "passage" or "corpus" unless another is given."""
        if prompt is None and prompt_name is None:
            prompt_name = self._first_prompt(prompt_texts.DOCUMENT_PROMPT_NAMES)
        return self.encode(
            texts,
            prompt=prompt,
            prompt_name=prompt_name,
            truncate_dim=truncate_dim,
            normalize_embeddings=normalize_embeddings,
            precision=precision,
            show_progress_bar=show_progress_bar,
            truncate=truncate,
        )

    def embed(
        self,
        texts: str | Iterable[str],
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
        instruction: str | None = None,
        truncate_dim: int | None = None,
        normalize_embeddings: bool = True,
        precision: str = "float32",
        show_progress_bar: bool = False,
        truncate: str | None = None,
    ) -> Embeddings:
        """As `encode`, with the tokens of each text and whether it was cut; always a row for each text."""
        _check_precision(precision, normalize_embeddings)
        before = self._prompt(prompt, prompt_name, instruction)
        dims = self._dims if truncate_dim is None else self._checked_dims(truncate_dim)
        cut = self._truncate if truncate is None else _truncation(truncate)

        listed = _listed(texts)
        distinct, places = _distinct(listed)
        with self._life.in_use():
            ids = self._tokenize(distinct, before, places)
            n_tokens = np.fromiter(map(len, ids), np.int64, len(ids))
            self._report_long(n_tokens[places], cut)
            # Different texts may have equal ids: é written in two ways, long texts that begin alike.
            fitting, rows = distinct_texts([self._tokenizer.truncate(one, self._max_tokens) for one in ids])
            raw = self._compute(fitting, self._tokenizer.prompt_ids(before), show_progress_bar)[rows]
        _check_finite(raw, listed, places)

        sliced = raw[:, :dims]
        finished = vector_math.to_precision(
            vector_math.normalize(sliced) if normalize_embeddings else sliced, precision
        )
        return Embeddings(finished[places], n_tokens[places], n_tokens[places] > self._max_tokens)

    def similarity(self, a: ArrayLike, b: ArrayLike) -> NDArray[np.float32]:
        """Cosine of every vector of `a` with every vector of `b`: (n, m) float32; see `qgguf.vectors.similarity`."""
        return vector_math.similarity(a, b)

    # Tokens

    def count_tokens(
        self,
        texts: str | Iterable[str],
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
        instruction: str | None = None,
    ) -> NDArray[np.int64]:
        """Tokens of each text as `encode` sees it, prompt and end token included, before any cut: (n_texts,) int64."""
        before = self._prompt(prompt, prompt_name, instruction)
        distinct, places = _distinct(_listed(texts))
        with self._life.in_use():
            ids = self._tokenize(distinct, before, places)
        return np.fromiter(map(len, ids), np.int64, len(ids))[places]

    def token_ids(self, text: str) -> list[int]:
        """Ids of one text, end token included; no prompt, no cut."""
        distinct, places = _distinct(_listed(text))
        with self._life.in_use():
            ids: list[int] = self._tokenize(distinct, "", places)[0].tolist()
        return ids

    # Life

    def close(self) -> None:
        """Free the model's memory. Calls after it, and those under way in other threads, raise NativeError."""
        if self._life.end():
            if self._context is not None:
                self._context.close()
            self._model.close()

    def __enter__(self) -> "Embedder":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Inside

    def _first_prompt(self, names: Sequence[str]) -> str | None:
        return next((name for name in names if name in self._prompts), None)

    def _prompt(self, prompt: str | None, prompt_name: str | None, instruction: str | None) -> str:
        return prompt_texts.choose(
            self._prompts,
            self.spec.instruction_template,
            prompt=prompt,
            prompt_name=prompt_name,
            instruction=instruction,
            default_name=self._default_prompt_name,
        )

    def _checked_dims(self, dims: int) -> int:
        smallest, largest = self.spec.mrl_dims or (1, self.spec.dims)
        vector_math.check_dims(dims, smallest, max(largest, self.spec.dims) if dims == self.spec.dims else largest)
        if self.spec.mrl_dims is None and dims != self.spec.dims and not self._warned_of_dims:
            self._warned_of_dims = True
            log.warning(
                "%s was not trained to be cut to %d of its %d dims; expect worse results. Measure before use.",
                self.spec.name, dims, self.spec.dims,
            )  # fmt: skip
        return int(dims)

    def _tokenize(self, texts: Sequence[str], before: str, places: NDArray[np.intp]) -> list[Ids]:
        ids = []
        for index, text in enumerate(texts):
            self._life.check()
            try:
                ids.append(self._tokenizer.ids(before + text))
            except UnicodeEncodeError as error:
                place = int(np.flatnonzero(places == index)[0])
                code = ord(error.object[error.start])
                raise TextError(
                    f"Text {place} holds the lone surrogate U+{code:04X}, which is no character. "
                    "Mend it: text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')"
                ) from None
        return ids

    def _report_long(self, n_tokens: NDArray[np.int64], truncate: str) -> None:
        long = np.flatnonzero(n_tokens > self._max_tokens)
        if not len(long):
            return
        shown = ", ".join(f"text {index} ({n_tokens[index]:,})" for index in long[:5])
        shown += ", ..." if len(long) > 5 else ""
        what = f"{len(long):,} of {len(n_tokens):,} texts are longer than {self._max_tokens:,} tokens: {shown}"
        if truncate == "error":
            raise TextTooLongError(f'{what}. Split them, or cut them with truncate="end".')
        log.warning("%s. Their ends were cut.", what)

    def _compute(self, ids: Sequence[Ids], prompt: Ids, show_progress_bar: bool) -> NDArray[np.float32]:
        """Vectors of id sequences, in their order: (n, native dims) float32, length not mended."""
        out = np.empty((len(ids), self.spec.dims), np.float32)
        least_shared = LEAST_SHARED if self.strategy is Strategy.LAST_ROWS else MAX_INT
        order, costs = order_texts(ids, least_shared=least_shared)
        lengths = [len(ids[index]) for index in order]
        cells = max(BATCH_TOKENS[self.strategy], max(lengths, default=0))
        start = 0
        with tqdm(total=sum(lengths), unit="tok", unit_scale=True, delay=2, disable=not show_progress_bar) as bar:
            while start < len(order):
                with self._computing:
                    self._life.check()
                    context = self._context_for(cells)
                    stop = take_batch(lengths, costs, start, max_tokens=cells, max_texts=context.max_texts)
                    batch = order[start:stop]
                    out[batch] = context.vectors([ids[index] for index in batch], prompt)
                bar.update(sum(lengths[start:stop]))
                start = stop
        return out

    def _context_for(self, cells: int) -> NativeContext:
        """The context, made anew when a longer text comes than it has cells for."""
        if self._context is None or self._context.cells < cells:
            if self._context is not None:
                self._context.close()
                self._context = None
            # To the next power of two, so that slowly growing texts do not each cost a new context.
            room = min(1 << (cells - 1).bit_length(), max(self._max_tokens, BATCH_TOKENS[self.strategy]))
            self._context = NativeContext(
                self._model,
                cells=room,
                threads=self._threads,
                pooling=self._pooling,
                strategy=self.strategy,
            )
        return self._context


class _Life:
    """Lets calls run until the end is asked for, and holds the end until they have left.

    Freed memory under a running native call is a crash, so the end waits; calls ask between two native calls whether to
    go on, so it waits for no more than one batch.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._n_calls = 0
        self._ended = False

    @contextmanager
    def in_use(self) -> Iterator[None]:
        with self._changed:
            self.check()
            self._n_calls += 1
        try:
            yield
        finally:
            with self._changed:
                self._n_calls -= 1
                self._changed.notify_all()

    def check(self) -> None:
        if self._ended:
            raise NativeError("This Embedder is closed. Open the model again: Embedder(...)")

    def end(self) -> bool:
        """True for the one caller who is to free the memory, after all calls have left."""
        with self._changed:
            if self._ended:
                return False
            self._ended = True
            self._changed.wait_for(lambda: self._n_calls == 0)
            return True


def _find(model: str | os.PathLike[str]) -> Path:
    path = Path(model)
    if path.is_file():
        return path
    from qgguf.hub import resolve  # huggingface-hub is slow to import, and a path needs none of it

    return resolve(os.fspath(model))


def _pooling(spec: ModelSpec, asked: str | None, path: Path) -> Pooling:
    words = {"mean": Pooling.MEAN, "cls": Pooling.CLS, "last": Pooling.LAST}
    if asked is not None:
        if asked not in words:
            raise OptionError(f"pooling={asked!r}; there are {', '.join(words)}.")
        return words[asked]
    if spec.pooling is None:
        raise ModelFileError(
            f"{path} declares no pooling, so it is a text generator or lacks metadata; an embedding model is needed. "
            'If you know how it pools, say so: pooling="last", "mean" or "cls".'
        )
    if spec.pooling not in words.values():
        raise ModelFileError(f"{path} is a reranker: it scores pairs and makes no vectors. Give an embedding model.")
    return spec.pooling


def _max_tokens(spec: ModelSpec, asked: int | None) -> int:
    if asked is None:
        return min(spec.max_tokens or DEFAULT_MAX_TOKENS, spec.context_length)
    _at_least(4, asked, "max_tokens")
    if asked > spec.context_length:
        raise OptionError(f"max_tokens={asked:,}, but {spec.name} was trained on {spec.context_length:,} positions.")
    return asked


def _at_least(least: int, value: int, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise OptionError(f"{name}={value!r}; a whole number of {least} or more is needed.")
    return value


def _truncation(word: str) -> str:
    if word not in TRUNCATIONS:
        raise OptionError(f'truncate={word!r}; there are "end" and "error".')
    return word


def _check_precision(precision: str, normalized: bool) -> None:
    if precision not in vector_math.PRECISIONS:
        raise OptionError(f"precision={precision!r}; there are {', '.join(vector_math.PRECISIONS)}.")
    if precision == "int8" and not normalized:
        raise OptionError("int8 codes have one fixed scale, for unit vectors: leave normalize_embeddings on.")


def _listed(texts: str | Iterable[str]) -> list[str]:
    if isinstance(texts, str):
        return [texts]
    if isinstance(texts, bytes) or not isinstance(texts, Iterable):
        raise TextError(f"Texts must be a str or a list of str, not {type(texts).__name__}.")
    listed = list(texts)
    for index, text in enumerate(listed):
        if not isinstance(text, str):
            raise TextError(f"Text {index} is {type(text).__name__}, not str.")
    return listed


def _distinct(texts: list[str]) -> tuple[list[str], NDArray[np.intp]]:
    """Each text once, and for every place which one stands there."""
    index_of: dict[str, int] = {}
    places = np.fromiter((index_of.setdefault(text, len(index_of)) for text in texts), np.intp, len(texts))
    return list(index_of), places


def _check_finite(raw: NDArray[np.float32], texts: list[str], places: NDArray[np.intp]) -> None:
    bad = np.flatnonzero(~np.isfinite(raw).all(axis=1))
    if len(bad):
        place = int(np.flatnonzero(places == bad[0])[0])
        start = texts[place][:40]
        raise TextError(
            f"Text {place} ({start!r}) gives a vector that is not finite, and {len(bad) - 1} others do: the model's "
            "numbers overflow. Use a BF16, F32 or quantised file of it instead of F16."
        )
