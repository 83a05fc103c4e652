"""Qwen3-Embedding, and other models of its architecture.

source  the model cards and tokenizer.json of Qwen/Qwen3-Embedding-0.6B, -4B and -8B, and of
        jinaai/jina-embeddings-v5-text-small
"""

from qgguf.model.families.family import Card, Family, Traits
from qgguf.model.families.jina import JINA_V5
from qgguf.model.spec import Pooling

_ARCHITECTURES = ("qwen3",)

# The vocabularies of the 0.6B, and of the 4B and 8B. The chat models' are padded to 151,936.
_EMBEDDING_VOCABULARIES = (151669, 151665)

# Of many files the header calls <|im_end|> the end token, which ends a chat model's turn.
_END_TOKEN = "<|endoftext|>"


def _is_embedding_model(traits: Traits) -> bool:
    if "rerank" in traits.names:  # same vocabulary, but a score for each pair of texts
        return False
    return traits.vocab_size in _EMBEDDING_VOCABULARIES or ("qwen3" in traits.names and "embed" in traits.names)


QWEN3_EMBEDDING = Family(
    name="Qwen3-Embedding",
    architectures=_ARCHITECTURES,
    recognises=_is_embedding_model,
    ignores_add_eos=True,
    exact_compute_buffer=True,
    cards=(
        Card(
            pooling=Pooling.LAST,
            end_token=_END_TOKEN,
            # No space after the colon: the models were trained so. get_detailed_instruct on the model card.
            instruction_template="Instruct: {instruction}\nQuery:",
            smallest_dims=32,
        ),
    ),
)

# Fine-tunes under another name, which declare their pooling; rerankers and chat models, which make no vectors.
QWEN3 = Family(
    name="Qwen3",
    architectures=_ARCHITECTURES,
    exact_compute_buffer=True,
    cards=(JINA_V5, Card(r"\bf2llm", end_token=_END_TOKEN, prompt_is_unknown=True), Card(end_token=_END_TOKEN)),
)
