"""Encoders of which little more than the attention is known; once more is known of one, give it a separate file.

source  the model card of nomic-ai/modernbert-embed-base
"""

from qgguf.model.families.family import Card, Family
from qgguf.model.families.nomic_bert import NOMIC_PROMPTS

ENCODERS = Family(
    name="encoders",
    architectures=("modern-bert", "neo-bert"),
    causal=False,
    decoder=False,
    frames_texts=True,
    cards=(Card(r"\bmodernbert[-_ ]embed", prompts=NOMIC_PROMPTS, smallest_dims=256),),
)
