"""BERT and the embedding models with its graph: MiniLM, E5, BGE, GTE, mxbai.

source  the model cards of the E5, BGE and mxbai models
"""

from qgguf.model.families.family import Family

_SEARCH_PROMPTS = {"query": "Represent this sentence for searching relevant passages: ", "document": ""}

BERT = Family(
    name="BERT",
    architectures=("bert",),
    causal=False,
    prompts=(
        (r"\be5[-_ ](small|base|large)", {"query": "query: ", "document": "passage: "}),
        (r"\bbge[-_ ](small|base|large)[-_ ]en", _SEARCH_PROMPTS),
        (r"mxbai[-_ ]embed[-_ ]large", _SEARCH_PROMPTS),
    ),
    exact_compute_buffer=True,
)
