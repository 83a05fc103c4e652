"""Nomic Embed: BERT with rotary positions, and its mixture of experts.

source  the model cards of nomic-ai/nomic-embed-text-v1.5 and -v2-moe, nomic-ai/CodeRankEmbed and
        nomic-ai/modernbert-embed-base
"""

from qgguf.model.families.family import Card, Family

NOMIC_PROMPTS = {"query": "search_query: ", "document": "search_document: "}
CODE_PROMPTS = {"query": "Represent this query for searching relevant code: ", "document": ""}

NOMIC_BERT = Family(
    name="Nomic Embed",
    architectures=("nomic-bert", "nomic-bert-moe"),
    causal=False,
    decoder=False,
    frames_texts=True,
    cards=(
        Card(r"\bnomic[-_ ]embed.*v1\.5", prompts=NOMIC_PROMPTS, smallest_dims=64),
        Card(r"\bnomic[-_ ]embed.*v2", prompts=NOMIC_PROMPTS, smallest_dims=256),
        Card(r"\bnomic[-_ ]embed", prompts=NOMIC_PROMPTS),
        Card(r"\b(code|swe)rank[-_ ]?embed", prompts=CODE_PROMPTS),
    ),
)
