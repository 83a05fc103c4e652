"""Models with Qwen2's graph.

source  the model cards of Alibaba-NLP/gte-Qwen2-1.5B-instruct and -7B-instruct, and of nomic-ai/nomic-embed-code
"""

from qgguf.model.families.family import SPACED_TEMPLATE, Card, Family
from qgguf.model.families.nomic_bert import CODE_PROMPTS
from qgguf.model.spec import Pooling

QWEN2 = Family(
    name="Qwen2",
    architectures=("qwen2",),
    cards=(
        Card(
            r"\bgte[-_ ]qwen2",
            instruction_template=SPACED_TEMPLATE,
            pooling=Pooling.LAST,
            end_token="<|endoftext|>",
        ),
        Card(r"\bnomic[-_ ]embed[-_ ]code", prompts=CODE_PROMPTS),
        Card(r"\bkalm[-_ ]embed|\bjina[-_ ]code|\bembed|instruct", prompt_is_unknown=True),
    ),
)
