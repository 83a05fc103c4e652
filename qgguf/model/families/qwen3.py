"""Qwen3-Embedding, and other models of its architecture.

source  the model cards and tokenizer.json of Qwen/Qwen3-Embedding-0.6B, -4B and -8B, and of
        jinaai/jina-embeddings-v5-text-small
"""

from qgguf.model.families.family import Card, Family, Traits
from qgguf.model.families.jina import JINA_V5
from qgguf.model.spec import Pooling

_ARCHITECTURES = ("qwen3",)

# The vocabularies of the 0.6B, and of the 4B and 8B. The chat models' are padded to 151,936.
_VOCABULARIES = (151669, 151665)

# Of many files the header calls <|im_end|> the end token, which ends a chat model's turn.
_END_TOKEN = "<|endoftext|>"

# No space after the colon: the models were trained so. get_detailed_instruct on the model card.
_TEMPLATE = "Instruct: {instruction}\nQuery:"


def _is_reranker(traits: Traits) -> bool:
    """Return whether a model with the same vocabulary gives a score for each pair of texts."""
    return "rerank" in traits.names


def _is_embedding_model(traits: Traits) -> bool:
    is_named = "qwen3" in traits.names and "embed" in traits.names
    return (is_named or traits.instruction_template == _TEMPLATE) and not _is_reranker(traits)


def _has_embedding_vocabulary(traits: Traits) -> bool:
    return traits.vocab_size in _VOCABULARIES and not _is_reranker(traits)


_F2LLM = Card(r"\bf2llm", pooling=Pooling.LAST, end_token=_END_TOKEN, prompt_is_unknown=True)


QWEN3_EMBEDDING = Family(
    name="Qwen3-Embedding",
    architectures=_ARCHITECTURES,
    recognises=_is_embedding_model,
    ignores_add_eos=True,
    exact_compute_buffer=True,
    cards=(
        JINA_V5,
        _F2LLM,
        Card(
            pooling=Pooling.LAST,
            end_token=_END_TOKEN,
            instruction_template=_TEMPLATE,
            smallest_dims=32,
        ),
    ),
)

# Fine-tunes and files under another name. What is trained on top of Qwen3-Embedding may have other prompts.
QWEN3_EMBEDDING_VOCABULARY = Family(
    name="Qwen3-Embedding",
    architectures=_ARCHITECTURES,
    recognises=_has_embedding_vocabulary,
    ignores_add_eos=True,
    exact_compute_buffer=True,
    cards=(JINA_V5, _F2LLM, Card(pooling=Pooling.LAST, end_token=_END_TOKEN, prompt_is_unknown=True)),
)

# Models with another vocabulary, which declare their pooling; rerankers and chat models, which make no vectors.
QWEN3 = Family(
    name="Qwen3",
    architectures=_ARCHITECTURES,
    exact_compute_buffer=True,
    cards=(JINA_V5, _F2LLM, Card(end_token=_END_TOKEN)),
)
