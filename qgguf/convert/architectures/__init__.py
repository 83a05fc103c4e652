"""The architectures that can be converted; a new one is a file here and a name in `ARCHITECTURES`."""

from qgguf.convert.architectures.bert import BERT
from qgguf.convert.architectures.qwen3 import QWEN3

ARCHITECTURES = (QWEN3, BERT)
