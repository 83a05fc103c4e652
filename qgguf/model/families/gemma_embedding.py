"""EmbeddingGemma.

source  the model card of google/embeddinggemma-300m
"""

from qgguf.model.families.family import Card, Family
from qgguf.model.spec import Pooling

_DENSE_IS_MISSING = (
    "its two Dense layers are missing, without which the vectors are wrong. Fetch a file that has dense_2.weight and "
    "dense_3.weight"
)

GEMMA_EMBEDDING = Family(
    name="EmbeddingGemma",
    architectures=("gemma-embedding",),
    causal=False,
    decoder=False,
    frames_texts=True,
    needed_tensors={"dense_2.weight": _DENSE_IS_MISSING, "dense_3.weight": _DENSE_IS_MISSING},
    cards=(
        Card(
            prompts={"query": "task: search result | query: ", "document": "title: none | text: "},
            pooling=Pooling.MEAN,
            smallest_dims=128,
        ),
    ),
)
