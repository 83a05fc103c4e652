"""Models with Llama's or Mistral's graph: E5-Mistral and its kin, and NVIDIA's with bidirectional attention.

source  the model cards of intfloat/e5-mistral-7b-instruct, Salesforce/SFR-Embedding-Mistral,
        Linq-AI-Research/Linq-Embed-Mistral, nvidia/llama-embed-nemotron-8b and nvidia/llama-nemotron-embed-1b-v2
"""

from qgguf.model.families.family import SPACED_TEMPLATE, Card, Family
from qgguf.model.spec import Pooling

LLAMA = Family(
    name="Llama and Mistral",
    architectures=("llama",),
    cards=(
        Card(
            r"\be5[-_ ]mistral|\bsfr[-_ ]embedding|\blinq[-_ ]embed",
            instruction_template=SPACED_TEMPLATE,
            pooling=Pooling.LAST,
            end_token="</s>",
        ),
        Card(r"\bembed|instruct.*embed", prompt_is_unknown=True),
    ),
)

# llama.cpp's converter writes neither the attention nor the pooling of these.
LLAMA_EMBED = Family(
    name="Llama with bidirectional attention",
    architectures=("llama-embed",),
    causal=False,
    cards=(
        Card(
            r"\bnemotron[-_ ]embed",
            prompts={"query": "query: ", "document": "passage: "},
            pooling=Pooling.MEAN,
        ),
        Card(instruction_template=SPACED_TEMPLATE, pooling=Pooling.MEAN),
    ),
)
