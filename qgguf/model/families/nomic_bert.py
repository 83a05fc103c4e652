"""Nomic Embed: BERT with rotary positions, and its mixture of experts.

source  the model cards of nomic-ai/nomic-embed-text-v1.5 and -v2-moe
"""

from qgguf.model.families.family import Family

NOMIC_BERT = Family(
    name="Nomic Embed",
    architectures=("nomic-bert", "nomic-bert-moe"),
    causal=False,
    prompts=((r"\bnomic[-_ ]embed", {"query": "search_query: ", "document": "search_document: "}),),
)
