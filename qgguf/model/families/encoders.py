"""Encoders of which only the attention is known. Once more is known of one, it gets a file of its own."""

from qgguf.model.families.family import Family

ENCODERS = Family(
    name="encoders",
    architectures=("jina-bert-v2", "jina-bert-v3", "modern-bert", "neo-bert", "eurobert", "gemma-embedding"),
    causal=False,
)
