"""Embedder: texts in, vectors out."""

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qgguf import lifetime
from qgguf import vectors as vector_math
from qgguf.batching import Ids
from qgguf.errors import ModelFileError, OptionError, PromptError, TextTooLongError
from qgguf.gguf_format.reader import read_header
from qgguf.hardware.cores import usable_cores
from qgguf.inference import inputs, pipeline, sentence_transformers
from qgguf.inference.aio import AsyncRunner, asynchronous, current_cancellation
from qgguf.inference.engine import Engine
from qgguf.inference.options import EncodeOptions
from qgguf.inference.stats import EngineStats
from qgguf.inference.token_bar import TokenBar
from qgguf.memory.planner import Plan, PlanRequest
from qgguf.model import prompts as prompt_texts
from qgguf.model.from_gguf import spec_of
from qgguf.model.spec import ModelSpec, Pooling, SpecChoices
from qgguf.native.strategy import Strategy
from qgguf.option_values import LEAST_MAX_TOKENS, PRECISIONS, TRUNCATIONS, whole_number
from qgguf.settings import device_setting, ram_setting, threads_setting, vram_setting

log = logging.getLogger("qgguf")


@dataclass(frozen=True, slots=True)
class Embeddings:
    """The vectors of some texts, and the length of each text.

    vectors    (n_texts, dims), float32 or what `precision` names
    n_tokens   (n_texts,) int64: tokens of each whole text, prompt and end token included, before any cut
    truncated  (n_texts,) bool: whether the text was cut to the token limit
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
    truncate             "end" cuts longer texts and logs a warning, "error" refuses them; the end token is kept
    truncate_dim         dims of the vectors where a call names none; default: all
    device               "auto" (a GPU when one has enough free memory, else the CPU), "cpu", "gpu" or "cuda" (which
                         refuse to run elsewhere); default: $QGGUF_DEVICE, else "auto"
    threads              CPU threads; default: $QGGUF_THREADS, else the cores this process may use
    vram                 GPU memory for all of it, in bytes or as "3GB"; default: $QGGUF_VRAM, else what is free
    ram                  the same for the host's memory; default: $QGGUF_RAM, else what the machine or container has
    kv_type              type of the KV cache: "f16", "q8_0" or "q4_0"; default: the most exact that fits the memory
    pooling              "mean", "cls" or "last", for a file that declares none or a wrong one
    attention            "causal" or "bidirectional", the same
    end_token            token that ends each text, such as "</s>", the same; "" for none
    prompts              name -> text; added to the model's own
    default_prompt_name  prompt of a plain `encode`; default: the model's own, mostly none
    strategy             "last_rows", "two_calls" or "plain": how llama.cpp is driven; default: chosen by a probe
    local_files_only     True: never use the network
    raises               ModelNotFoundError, ModelFileError, ChecksumError, OptionError, PromptError, DeviceError,
                         BudgetError (the memory given is too little; both numbers are named), NativeError

    The other arguments are those of SentenceTransformer: they are refused, with the way out, where they would change
    something.

    All methods may be called from any thread. Close it, or use it as a context manager, to free its memory.

    A forked process cannot use its parent's model: it gets a ForkError, and may open its own. A pickled Embedder is its
    path and its arguments; the unpickled one opens the model when it is first used.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        max_tokens: int | None = None,
        truncate: str = "end",
        truncate_dim: int | None = None,
        device: str | None = None,
        threads: int | None = None,
        vram: int | str | None = None,
        ram: int | str | None = None,
        kv_type: str | None = None,
        pooling: str | None = None,
        attention: str | None = None,
        end_token: str | None = None,
        prompts: Mapping[str, str] | None = None,
        default_prompt_name: str | None = None,
        strategy: str | None = None,
        local_files_only: bool = False,
        similarity_fn_name: str | None = None,
        trust_remote_code: bool = False,
        revision: str | None = None,
        cache_folder: str | os.PathLike[str] | None = None,
        token: str | bool | None = None,
        model_kwargs: Mapping[str, Any] | None = None,
        processor_kwargs: Mapping[str, Any] | None = None,
        tokenizer_kwargs: Mapping[str, Any] | None = None,
        config_kwargs: Mapping[str, Any] | None = None,
        backend: str | None = None,
    ) -> None:
        sentence_transformers.check_opening(
            similarity_fn_name=similarity_fn_name,
            trust_remote_code=trust_remote_code,
            revision=revision,
            cache_folder=cache_folder,
            token=token,
            model_kwargs=model_kwargs,
            processor_kwargs=processor_kwargs,
            tokenizer_kwargs=tokenizer_kwargs,
            config_kwargs=config_kwargs,
            backend=backend,
        )
        prompts = prompt_texts.checked_prompts({} if prompts is None else prompts, default_prompt_name)
        self.path = _find(model, download=not sentence_transformers.flag("local_files_only", local_files_only))
        self._arguments: dict[str, Any] = {
            "model": os.path.abspath(self.path),
            "max_tokens": max_tokens,
            "truncate": truncate,
            "truncate_dim": truncate_dim,
            "device": device,
            "threads": threads,
            "vram": vram,
            "ram": ram,
            "kv_type": kv_type,
            "pooling": pooling,
            "attention": attention,
            "end_token": end_token,
            "prompts": prompts,
            "default_prompt_name": default_prompt_name,
            "strategy": strategy,
        }
        header = read_header(self.path)
        self.spec: ModelSpec = spec_of(header, self.path, SpecChoices.of(pooling, attention, end_token))
        for sentence in self.spec.corrections:
            log.info("%s: %s", self.path.name, sentence)
        for sentence in self.spec.warnings:
            log.warning("%s: %s.", self.path.name, sentence)
        self._truncate = _checked_truncation(truncate)
        self._dims = self.spec.dims
        self._warned_of_dims = self._warned_of_prompt = False
        if truncate_dim is not None:
            self._dims = self._checked_dims(truncate_dim)
        self._prompts = {**self.spec.prompts, **prompts}
        self._default_prompt_name = default_prompt_name or self.spec.default_prompt_name
        if self._default_prompt_name is not None and self._default_prompt_name not in self._prompts:
            raise PromptError(f"default_prompt_name={default_prompt_name!r}; there are {sorted(self._prompts)}.")
        request = PlanRequest(
            vram=vram_setting(vram),
            ram=ram_setting(ram),
            max_tokens=None if max_tokens is None else _max_tokens(self.spec, max_tokens),
            kv_type=kv_type,
            threads=threads_setting(threads) or usable_cores(),
        )
        engine = Engine(
            self.path,
            header,
            self.spec,
            device_setting(device),
            request,
            pooling=_pooling(self.spec, self.path),
            strategy=strategy,
        )
        self._async_runner = AsyncRunner()
        self._engine = engine

    # What the model is

    @property
    def dims(self) -> int:
        """Length of the vectors that a call without `truncate_dim` returns."""
        return self._dims

    @property
    def max_tokens(self) -> int:
        """Longest text in tokens, prompt and end token included."""
        return self.plan.settings.max_tokens

    @property
    def max_seq_length(self) -> int:
        """The same as `max_tokens`, under the name that sentence-transformers has for it."""
        return self.max_tokens

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        if whole_number(value) != self.max_tokens:
            raise OptionError(
                f"max_seq_length={value!r}; the limit is {self.max_tokens:,} since the model was opened, because its "
                f"memory was planned for it. Open it with another one: Embedder(..., max_tokens={value!r})"
            )

    @property
    def similarity_fn_name(self) -> str:
        """What `similarity` computes: "cosine"."""
        return "cosine"

    def get_embedding_dimension(self) -> int:
        """Return `dims`, under the name that sentence-transformers has for it."""
        return self.dims

    def get_sentence_embedding_dimension(self) -> int:
        """Return `dims`, under the name that older releases of sentence-transformers have for it."""
        return self.dims

    @property
    def device(self) -> str:
        """Kind of the device that the model runs on: "cpu" or "gpu"."""
        return self._engine.device

    @property
    def plan(self) -> Plan:
        """The memory plan, and what was conceded to fit it; see `qgguf.memory.planner.Plan`."""
        return self._engine.placement.plan

    @property
    def strategy(self) -> Strategy:
        """How llama.cpp is driven; see `qgguf.Strategy`."""
        return self._engine.strategy

    @property
    def prompts(self) -> dict[str, str]:
        """Prompt name -> the text put before a text."""
        return dict(self._prompts)

    def stats(self) -> EngineStats:
        """Return what the model has computed, what it computes now, and the memory it is given."""
        return self._engine.stats()

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
        show_progress_bar: bool | None = False,
        truncate: str | None = None,
        batch_size: int | None = None,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        output_value: str | None = "sentence_embedding",
        device: str | None = None,
    ) -> NDArray[Any]:
        """Return the vectors of texts, in their order.

        texts                 one str, or any number of them
        prompt                text put before each text
        prompt_name           a key of `prompts`
        instruction           task sentence for the model's instruction template
        truncate_dim          first dims to keep, within `spec.mrl_dims`
        normalize_embeddings  bring each vector to length 1, after the cut to `truncate_dim`
        precision             "float32", "int8", "binary", "ubinary": see `qgguf.vectors.to_precision`
        show_progress_bar     on stderr
        truncate              "end" or "error", for this call
        batch_size and after  arguments of sentence-transformers, refused where they would change something
        returns               (n_texts, dims); (dims,) for one str; float32 unless `precision` names another
        raises                TextError (index named), TextTooLongError, DimensionError, PromptError, OptionError,
                              NativeError
        """
        sentence_transformers.check_encode(
            batch_size=batch_size,
            convert_to_numpy=convert_to_numpy,
            convert_to_tensor=convert_to_tensor,
            output_value=output_value,
            device=device,
            model_device=self.device,
        )
        return self._vectors(
            texts,
            EncodeOptions(
                prompt=prompt,
                prompt_name=prompt_name,
                instruction=instruction,
                truncate_dim=truncate_dim,
                normalize_embeddings=normalize_embeddings,
                precision=precision,
                show_progress_bar=show_progress_bar,
                truncate=truncate,
            ),
        )

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
        show_progress_bar: bool | None = False,
        truncate: str | None = None,
        batch_size: int | None = None,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        output_value: str | None = "sentence_embedding",
        device: str | None = None,
    ) -> NDArray[Any]:
        """Do as `encode`, with the model's prompt "query" unless another is given."""
        sentence_transformers.check_encode(
            batch_size=batch_size,
            convert_to_numpy=convert_to_numpy,
            convert_to_tensor=convert_to_tensor,
            output_value=output_value,
            device=device,
            model_device=self.device,
        )
        options = EncodeOptions(
            prompt=prompt,
            prompt_name=prompt_name,
            instruction=instruction,
            truncate_dim=truncate_dim,
            normalize_embeddings=normalize_embeddings,
            precision=precision,
            show_progress_bar=show_progress_bar,
            truncate=truncate,
        )
        chosen = self._with_default_prompt(options, prompt_texts.QUERY_PROMPT_NAMES)
        if self.spec.prompt_is_unknown and not chosen.names_prompt and not self._warned_of_prompt:
            self._warned_of_prompt = True
            log.warning(
                "%s needs a prompt before queries, which its file does not have. Take it from the model card: "
                "Embedder(prompts={'query': ...}).",
                self.spec.name,
            )
        return self._vectors(texts, chosen)

    def encode_document(
        self,
        texts: str | Iterable[str],
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
        truncate_dim: int | None = None,
        normalize_embeddings: bool = True,
        precision: str = "float32",
        show_progress_bar: bool | None = False,
        truncate: str | None = None,
        batch_size: int | None = None,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        output_value: str | None = "sentence_embedding",
        device: str | None = None,
    ) -> NDArray[Any]:
        """Do as `encode`, with the model's prompt "document", "passage" or "corpus" unless another is given."""
        sentence_transformers.check_encode(
            batch_size=batch_size,
            convert_to_numpy=convert_to_numpy,
            convert_to_tensor=convert_to_tensor,
            output_value=output_value,
            device=device,
            model_device=self.device,
        )
        options = EncodeOptions(
            prompt=prompt,
            prompt_name=prompt_name,
            instruction=None,
            truncate_dim=truncate_dim,
            normalize_embeddings=normalize_embeddings,
            precision=precision,
            show_progress_bar=show_progress_bar,
            truncate=truncate,
        )
        return self._vectors(texts, self._with_default_prompt(options, prompt_texts.DOCUMENT_PROMPT_NAMES))

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
        show_progress_bar: bool | None = False,
        truncate: str | None = None,
    ) -> Embeddings:
        """Do as `encode`, and also return the tokens of each text and whether it was cut; a row even for one str."""
        return self._embed(
            texts,
            EncodeOptions(
                prompt=prompt,
                prompt_name=prompt_name,
                instruction=instruction,
                truncate_dim=truncate_dim,
                normalize_embeddings=normalize_embeddings,
                precision=precision,
                show_progress_bar=show_progress_bar,
                truncate=truncate,
            ),
        )

    def similarity(
        self, a: ArrayLike, b: ArrayLike, *, precision: str | None = None, truncate_dim: int | None = None
    ) -> NDArray[np.float32]:
        """Return the cosine of every vector of `a` with every one of `b`: (n, m) float32.

        Of packed binary vectors it is the cosine of their signs, 1 - 2 h / dims with the Hamming distance h.

        a, b          what `encode` returned; one vector each is allowed
        precision     that of the vectors, needed only where int8 may be "int8" or "binary"
        truncate_dim  that of packed vectors, where it is not `dims` and no multiple of 8
        raises        DimensionError, OptionError: see `qgguf.vectors.similarity`
        """
        dims = self._dims if truncate_dim is None else self._checked_dims(truncate_dim)
        return vector_math.similarity(a, b, precision=precision, dims=dims, model_dims=self.spec.dims)

    def similarity_pairwise(
        self, a: ArrayLike, b: ArrayLike, *, precision: str | None = None, truncate_dim: int | None = None
    ) -> NDArray[np.float32]:
        """Return the cosine of each vector of `a` with the one of `b` at the same index: (n,) float32.

        The arguments are those of `similarity`.
        """
        dims = self._dims if truncate_dim is None else self._checked_dims(truncate_dim)
        return vector_math.similarity_pairwise(a, b, precision=precision, dims=dims, model_dims=self.spec.dims)

    # Tokens

    def count_tokens(
        self,
        texts: str | Iterable[str],
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
        instruction: str | None = None,
    ) -> NDArray[np.int64]:
        """Return the tokens of each text as `encode` counts them: (n_texts,) int64.

        The prompt and the end token are included; nothing is cut.
        """
        chosen = self._prompt(prompt, prompt_name, instruction)
        distinct, indices = inputs.distinct(inputs.as_list(texts))
        with self._engine.in_use():
            lengths = map(len, pipeline.tokenize(self._engine, distinct, chosen))
            counts = np.fromiter(lengths, np.int64, len(distinct))
        return counts[indices]

    def token_ids(self, text: str) -> list[int]:
        """Return the ids of one text, end token included, without a prompt and not cut."""
        with self._engine.in_use():
            ids: list[int] = self._engine.tokenizer.ids(inputs.one_text(text)).tolist()
        return ids

    # Asynchronous forms

    aencode = asynchronous(encode)
    aencode_query = asynchronous(encode_query)
    aencode_document = asynchronous(encode_document)
    aembed = asynchronous(embed)

    # Closing

    def close(self) -> None:
        """Free the model's memory. Calls after it, and those under way in other threads, raise NativeError."""
        self._engine.close()
        self._async_runner.close()

    # Copies and pickles

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__.get("_pickled") or self._arguments

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._pickled = state

    def __getattr__(self, name: str) -> Any:
        """Open an unpickled Embedder when one of its attributes is first needed."""
        if name.startswith("__") or "_pickled" not in self.__dict__:
            raise AttributeError(sentence_transformers.explain_attribute(type(self), name))
        with lifetime.opening_lock():
            if "_engine" not in self.__dict__:
                self.__init__(**self._pickled)  # type: ignore[misc]
        return object.__getattribute__(self, name)

    def __copy__(self) -> "Embedder":
        raise TypeError(
            "An Embedder cannot be copied: it holds a model's memory. Share it, its methods may be called from any "
            f"thread; or open the model a second time: Embedder({str(self.path)!r})"
        )

    def __deepcopy__(self, _memo: object) -> "Embedder":
        return self.__copy__()

    def __enter__(self) -> "Embedder":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Inside

    def _vectors(self, texts: str | Iterable[str], options: EncodeOptions) -> NDArray[Any]:
        vectors = self._embed(texts, options).vectors
        return vectors[0] if isinstance(texts, str) else vectors

    def _embed(self, texts: str | Iterable[str], options: EncodeOptions) -> Embeddings:
        normalize = sentence_transformers.flag("normalize_embeddings", options.normalize_embeddings)
        shows_bar = options.show_progress_bar is not None and sentence_transformers.flag(
            "show_progress_bar", options.show_progress_bar
        )
        _check_precision(options.precision, normalize)
        prompt = self._prompt(options.prompt, options.prompt_name, options.instruction)
        dims = self._dims if options.truncate_dim is None else self._checked_dims(options.truncate_dim)
        truncate = self._truncate if options.truncate is None else _checked_truncation(options.truncate)

        distinct, indices = inputs.distinct(inputs.as_list(texts))
        task = pipeline.EncodeTask(
            texts=distinct,
            indices=indices,
            prompt=prompt,
            max_tokens=self.max_tokens,
            finish=lambda raw: _finished(raw[:, :dims], normalize, options.precision),
            cancellation=current_cancellation(),
        )
        with self._engine.in_use():
            tokenized = self._checked_lengths(task) if truncate == "error" else {}
            with TokenBar(shows_bar, sum(map(len, distinct))) as bar:
                vectors, n_tokens = pipeline.compute(self._engine, task, bar, tokenized)
        if len(distinct) < len(indices):
            vectors, n_tokens = vectors[indices], n_tokens[indices]
        truncated = n_tokens > self.max_tokens
        if truncated.any():
            log.warning("%s. Their ends were cut.", self._long_texts(n_tokens))
        return Embeddings(vectors, n_tokens, truncated)

    def _with_default_prompt(self, options: EncodeOptions, names: Sequence[str]) -> EncodeOptions:
        """Choose the first of these prompts that the model has, unless the caller chose one."""
        if options.names_prompt:
            return options
        return replace(options, prompt_name=next((name for name in names if name in self._prompts), None))

    def _prompt(self, prompt: str | None, prompt_name: str | None, instruction: str | None) -> prompt_texts.Prompt:
        return prompt_texts.choose_prompt(
            self._prompts,
            self.spec.instruction_template,
            prompt=prompt,
            prompt_name=prompt_name,
            instruction=instruction,
            default_name=self._default_prompt_name,
        )

    def _checked_dims(self, dims: int) -> int:
        smallest, largest = self.spec.mrl_dims or (1, self.spec.dims)
        is_whole = whole_number(dims) == self.spec.dims
        vector_math.check_dims(dims, smallest, max(largest, self.spec.dims) if is_whole else largest)
        dims = int(dims)
        if self.spec.mrl_dims is None and dims != self.spec.dims and not self._warned_of_dims:
            self._warned_of_dims = True
            log.warning(
                "%s was not trained to be cut to %d of its %d dims; expect worse results. Measure before use.",
                self.spec.name, dims, self.spec.dims,
            )  # fmt: skip
        return dims

    def _checked_lengths(self, task: pipeline.EncodeTask) -> dict[int, Ids]:
        """Tokenise the texts that may be too long, before anything is computed; return their ids by index.

        raises  TextTooLongError
        """
        tokenized = pipeline.ids_of_long_texts(self._engine, task)
        n_tokens = np.zeros(len(task.texts), np.int64)
        for index, ids in tokenized.items():
            n_tokens[index] = len(ids)
        if (n_tokens > self.max_tokens).any():
            raise TextTooLongError(
                f'{self._long_texts(n_tokens[task.indices])}. Split them, or cut them with truncate="end".'
            )
        return tokenized

    def _long_texts(self, n_tokens: NDArray[np.int64]) -> str:
        long = np.flatnonzero(n_tokens > self.max_tokens)
        shown = ", ".join(f"text {index} ({n_tokens[index]:,})" for index in long[:5])
        shown += ", ..." if len(long) > 5 else ""
        return f"{len(long):,} of {len(n_tokens):,} texts are longer than {self.max_tokens:,} tokens: {shown}"


def _find(model: str | os.PathLike[str], download: bool) -> Path:
    if not isinstance(model, str | os.PathLike):
        raise OptionError(f"model={model!r}; a path or the name of a model is needed.")
    path = Path(model)
    if path.is_file():
        return path
    from qgguf.hub import resolve  # huggingface-hub is slow to import, and a path needs none of it

    return resolve(os.fspath(model), download=download)


def _pooling(spec: ModelSpec, path: Path) -> Pooling:
    if spec.pooling is None:
        raise ModelFileError(
            f"{path} declares no pooling, so it is a text generator or lacks metadata; an embedding model is needed. "
            'If you know how it pools, name it: pooling="last", "mean" or "cls"; --pooling last on the command line.'
        )
    if not spec.pooling.makes_vectors:
        raise ModelFileError(f"{path} is a reranker: it scores pairs and makes no vectors. Give an embedding model.")
    return spec.pooling


def _max_tokens(spec: ModelSpec, asked: int) -> int:
    number = whole_number(asked)
    if number is None or number < LEAST_MAX_TOKENS:
        raise OptionError(f"max_tokens={asked!r}; a whole number of {LEAST_MAX_TOKENS} or more is needed.")
    if number > spec.context_length:
        raise OptionError(f"max_tokens={number:,}, but {spec.name} was trained on {spec.context_length:,} positions.")
    return number


def _checked_truncation(word: str) -> str:
    if not isinstance(word, str) or word not in TRUNCATIONS:
        raise OptionError(f'truncate={word!r}; there are "end" and "error".')
    return word


def _check_precision(precision: str, normalized: bool) -> None:
    if not isinstance(precision, str) or precision not in PRECISIONS:
        raise OptionError(f"precision={precision!r}; there are {', '.join(PRECISIONS)}.")
    if precision == "int8" and not normalized:
        raise OptionError("int8 codes have one fixed scale, for unit vectors: leave normalize_embeddings on.")


def _finished(raw: NDArray[np.float32], normalized: bool, precision: str) -> NDArray[Any]:
    return vector_math.to_precision(vector_math.normalize(raw) if normalized else raw, precision)
