"""Encoders of which only the attention is known; once more is known of one, give it a separate file."""

from qgguf.model.families.family import Family

ENCODERS = Family(
    name="encoders",
    architectures=("jina-bert-v2", "jina-bert-v3", "modern-bert", "neo-bert", "eurobert", "gemma-embedding"),
    causal=False,
)
