"""The public names as a typed program uses them. mypy --strict reads it (scripts/check); nothing runs it."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qgguf import (
    Embedder,
    Embeddings,
    EngineStats,
    LocalModel,
    ModelSpec,
    Plan,
    Pooling,
    QgError,
    Strategy,
    convert_checkpoint,
    list_models,
    pull,
)
from qgguf.errors import TextTooLongError
from qgguf.vectors import int8_scale, similarity, similarity_pairwise


def embed(path: Path) -> NDArray[np.float32]:
    model: Embedder
    with Embedder(path, max_tokens=512, truncate="error", vram="3GB", device="auto") as model:
        spec: ModelSpec = model.spec
        pooling: Pooling | None = spec.pooling
        plan: Plan = model.plan
        strategy: Strategy = model.strategy
        names: dict[str, str] = model.prompts
        print(pooling, plan.vram_bytes, strategy.value, names)
        try:
            embeddings: Embeddings = model.embed(["é", "한", "😉"], truncate_dim=model.dims)
        except TextTooLongError as error:
            raise QgError(str(error)) from error
        counts: NDArray[np.int64] = embeddings.n_tokens
        stats: EngineStats = model.stats()
        print(stats.batches, stats.tokens, stats.waiting_calls)
        print(int(counts.sum()), int8_scale(model.dims))
        cosines: NDArray[np.float32] = similarity(embeddings.vectors, embeddings.vectors)
        pairs: NDArray[np.float32] = similarity_pairwise(cosines, cosines, precision="float32")
        print(model.similarity(cosines, cosines, precision="int8").shape, pairs.shape)
        return cosines


async def embed_later(model: Embedder) -> Embeddings:
    return await model.aembed("é", prompt_name="query")


def files(name: str, checkpoint: Path) -> list[Path]:
    models: list[LocalModel] = list_models()
    path: Path = pull(name, on_progress=lambda done, total: None)
    made: Path = convert_checkpoint(checkpoint, path, quant="Q8_0")
    return [path, made, *(model.path for model in models)]
