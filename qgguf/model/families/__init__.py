"""The families of models; a new one is a file here and a line in `FAMILIES`."""

from qgguf.model.families.bert import BERT
from qgguf.model.families.encoders import ENCODERS
from qgguf.model.families.family import Card, Family, Traits
from qgguf.model.families.gemma_embedding import GEMMA_EMBEDDING
from qgguf.model.families.jina import EUROBERT, JINA, QWEN2_VL
from qgguf.model.families.llama import LLAMA, LLAMA_EMBED
from qgguf.model.families.nomic_bert import NOMIC_BERT
from qgguf.model.families.qwen2 import QWEN2
from qgguf.model.families.qwen3 import QWEN3, QWEN3_EMBEDDING, QWEN3_EMBEDDING_VOCABULARY

__all__ = ["FAMILIES", "Card", "Family", "Traits", "family_of"]

FAMILIES: tuple[Family, ...] = (
    QWEN3_EMBEDDING, QWEN3_EMBEDDING_VOCABULARY, QWEN3, BERT, NOMIC_BERT, ENCODERS, GEMMA_EMBEDDING, JINA, EUROBERT,
    QWEN2_VL, LLAMA, LLAMA_EMBED, QWEN2,
)  # fmt: skip
"""All families, the more particular before the more general one."""

_UNKNOWN = Family(name="unknown", architectures=())


def family_of(traits: Traits) -> Family:
    """Return the first family that recognises a model; for an unknown model a causal family without any facts."""
    return next(
        (family for family in FAMILIES if traits.architecture in family.architectures and family.recognises(traits)),
        _UNKNOWN,
    )
