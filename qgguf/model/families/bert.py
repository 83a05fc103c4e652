"""BERT and the embedding models with its graph, also with XLM-RoBERTa's tokenizer: MiniLM, E5, BGE, Arctic, mxbai.

source  the model cards of the E5, BGE, mxbai, UAE, Snowflake Arctic Embed, LaBSE and distiluse models
"""

from qgguf.model.families.family import SPACED_TEMPLATE, Card, Family

_SEARCH_PROMPTS = {"query": "Represent this sentence for searching relevant passages: ", "document": ""}
_DENSE_IS_MISSING = (
    "the checkpoint has a Dense layer after the pooling, which a GGUF file of it does not hold, so these are other "
    "vectors. Use another model, such as multilingual-e5-base"
)

BERT = Family(
    name="BERT",
    architectures=("bert",),
    causal=False,
    decoder=False,
    frames_texts=True,
    exact_compute_buffer=True,
    cards=(
        Card(r"\be5[-_ ].*instruct", instruction_template=SPACED_TEMPLATE),
        Card(r"\be5[-_ ](small|base|large)", prompts={"query": "query: ", "document": "passage: "}),
        Card(r"\bbge[-_ ](small|base|large)[-_ ]en", prompts=_SEARCH_PROMPTS),
        Card(
            r"\bbge[-_ ](small|base|large)[-_ ]zh",
            prompts={"query": "为这个句子生成表示以用于检索相关文章：", "document": ""},
        ),
        Card(r"\bmxbai[-_ ]embed[-_ ]large|\buae[-_ ]large", prompts=_SEARCH_PROMPTS),
        Card(r"\barctic[-_ ]embed.*v2", prompts={"query": "query: ", "document": ""}, smallest_dims=256),
        Card(r"\barctic[-_ ]embed.*v1\.5", prompts=_SEARCH_PROMPTS, smallest_dims=256),
        Card(r"\barctic[-_ ]embed", prompts=_SEARCH_PROMPTS),
        Card(r"\blabse\b|\bdistiluse[-_ ]", warning=_DENSE_IS_MISSING),
        Card(r"instruct", prompt_is_unknown=True),
    ),
)
