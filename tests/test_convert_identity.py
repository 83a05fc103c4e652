"""Our files hold what llama_model_quantize makes of our own full-precision file, byte for byte."""

from pathlib import Path

import pytest

from qgguf.convert.converter import convert_checkpoint
from qgguf.convert.quant_recipes import QUANTS
from qgguf.native import binding
from tests.support.bert_checkpoints import make_bert_checkpoint
from tests.support.checkpoints import make_qwen3_checkpoint
from tests.support.llama_quantize import OddRowsError, llama_quantize, tensors_of

# name -> (maker, master type). Shapes are chosen for what they make of the mixture:
CHECKPOINTS = {
    # K-quants without fallback, two query heads per key head
    "qwen3": (lambda folder: make_qwen3_checkpoint(folder, small_vocab=True, layers=9, ffn=256), "BF16"),
    # four query heads per key head: IQ4 raises attn_v
    "qwen3 shared values": (
        lambda folder: make_qwen3_checkpoint(
            folder, small_vocab=True, layers=8, heads=8, kv_heads=2, head_dim=32, ffn=512, dims=256, dtype="F16"
        ),
        "F16",
    ),
    # rows of 96 and 160: blocks of 256 fall back to blocks of 32
    "qwen3 narrow": (
        lambda folder: make_qwen3_checkpoint(
            folder, small_vocab=True, layers=17, heads=2, kv_heads=1, head_dim=32, ffn=160, dims=96, dtype="F32"
        ),
        "F32",
    ),
    # rows of 384 in one place, of 1536 in the other, as MiniLM's
    "bert": (lambda folder: make_bert_checkpoint(folder, dims=384, ffn=1536, layers=2), "F32"),
    # rows of 100 fit no block at all: F16
    "bert odd": (lambda folder: make_bert_checkpoint(folder, dims=100, ffn=256, layers=8, dtype="BF16"), "BF16"),
}


@pytest.fixture(scope="module", params=CHECKPOINTS)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkpoint and our full-precision GGUF of it."""
    make, master = CHECKPOINTS[request.param]
    folder = make(tmp_path_factory.mktemp("identity") / "model")
    return folder, convert_checkpoint(folder, folder / "master.gguf", quant=master)


@pytest.mark.parametrize("quant", QUANTS)
def test_every_tensor_is_llama_cpps(checkpoint: tuple[Path, Path], quant: str, tmp_path: Path):
    """Names, order, shapes, types and bytes are those of llama_model_quantize."""
    folder, master = checkpoint
    ours = convert_checkpoint(folder, tmp_path / "ours.gguf", quant=quant)
    try:
        theirs = llama_quantize(master, tmp_path / "theirs.gguf", quant)
    except OddRowsError as error:
        pytest.skip(f"llama-cpp-python {binding.version()}: {error}")
    assert tensors_of(ours) == tensors_of(theirs)
