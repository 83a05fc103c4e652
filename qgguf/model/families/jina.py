"""Jina's embedding models.

source  the model cards of jinaai/jina-embeddings-v3, -v4-text-retrieval-GGUF and -v5-text-small-retrieval
"""

from qgguf.model.families.family import Card, Family
from qgguf.model.spec import Pooling

JINA_V5 = Card(
    r"\bjina[-_ ]embeddings[-_ ]v5",
    prompts={"query": "Query: ", "document": "Document: "},
    pooling=Pooling.LAST,
    smallest_dims=32,
)

JINA = Family(
    name="Jina",
    architectures=("jina-bert-v2", "jina-bert-v3"),
    causal=False,
    decoder=False,
    frames_texts=True,
    cards=(
        Card(
            r"\bjina[-_ ]embeddings[-_ ]v3",
            prompt_is_unknown=True,
            warning="its task adapters are not in a GGUF file, so these are the vectors of the model without a task",
        ),
    ),
)

EUROBERT = Family(name="EuroBERT", architectures=("eurobert",), causal=False, decoder=False, cards=(JINA_V5,))

QWEN2_VL = Family(
    name="Qwen2-VL",
    architectures=("qwen2vl",),
    cards=(
        Card(
            r"\bjina[-_ ]embeddings[-_ ]v4.*(retrieval|code)",
            prompts={"query": "Query: ", "document": "Passage: "},
            pooling=Pooling.MEAN,
        ),
    ),
)
