"""Which type each tensor gets: our tables against llama_model_quantize on random shapes."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from qgguf.convert.quant_recipes import (
    FILE_TYPE_IDS,
    QUANTS,
    TOKEN_EMBEDDING_TYPES,
    ModelShape,
    check_quant,
    check_token_embedding_type,
    file_order,
    tensor_type,
)
from qgguf.errors import OptionError
from qgguf.gguf_format.reader import read_header
from qgguf.gguf_format.tensors import TENSOR_TYPES, TYPE_IDS
from qgguf.gguf_format.writer import Entry, aligned, header_bytes, lay_out
from tests.support.llama_quantize import OddRowsError, llama_quantize

ROWS = st.sampled_from([32, 64, 96, 100, 128, 256, 384, 512])


def qwen3_shapes(layers: int, dims: int, heads: int, kv_heads: int, head: int, ffn: int) -> dict[str, tuple[int, ...]]:
    """Shapes as ggml counts them; a vocabulary of three."""
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (dims, 3), "output_norm.weight": (dims,)}
    for layer in range(layers):
        shapes |= {
            f"blk.{layer}.attn_norm.weight": (dims,),
            f"blk.{layer}.attn_q.weight": (dims, heads * head),
            f"blk.{layer}.attn_k.weight": (dims, kv_heads * head),
            f"blk.{layer}.attn_v.weight": (dims, kv_heads * head),
            f"blk.{layer}.attn_output.weight": (heads * head, dims),
            f"blk.{layer}.attn_q_norm.weight": (head,),
            f"blk.{layer}.attn_k_norm.weight": (head,),
            f"blk.{layer}.ffn_norm.weight": (dims,),
            f"blk.{layer}.ffn_gate.weight": (dims, ffn),
            f"blk.{layer}.ffn_up.weight": (dims, ffn),
            f"blk.{layer}.ffn_down.weight": (ffn, dims),
        }
    return shapes


def write_zeros(
    path: Path, shapes: dict[str, tuple[int, ...]], model: ModelShape, dims: int, ffn: int, head: int
) -> Path:
    """An F32 GGUF of zeros: enough of one for llama.cpp to choose types, and quick to quantise."""
    sizes = {
        "block_count": model.n_layers,
        "context_length": 32,
        "embedding_length": dims,
        "feed_forward_length": ffn,
        "attention.head_count": model.n_heads,
        "attention.head_count_kv": model.n_kv_heads,
        "attention.key_length": head,
        "attention.value_length": head,
    }
    entries = [Entry.string("general.architecture", "qwen3"), Entry.u32("qwen3.vocab_size", 3)]
    entries += [Entry.u32(f"qwen3.{key}", value) for key, value in sizes.items()]
    entries.append(Entry.f32("qwen3.attention.layer_norm_rms_epsilon", 1e-6))
    tensors = lay_out((name, shape, TYPE_IDS["F32"]) for name, shape in shapes.items())
    n_weight_bytes = tensors[-1].offset + aligned(tensors[-1].size_bytes)
    path.write_bytes(header_bytes(entries, tensors) + bytes(n_weight_bytes))
    return path


@settings(max_examples=40)
@given(
    quant=st.sampled_from(list(QUANTS)),
    layers=st.integers(1, 20),
    dims=ROWS,
    kv_heads=st.integers(1, 3),
    shared=st.integers(1, 5),
    head=st.sampled_from([4, 32, 50]),
    ffn=ROWS,
    embedding=st.sampled_from([None, *TOKEN_EMBEDDING_TYPES]),
)
@example("Q4_K_M", 16, 256, 1, 4, 32, 256, None)
@example("Q4_K_S", 17, 384, 2, 2, 32, 256, "Q8_0")
@example("IQ4_XS", 8, 256, 2, 4, 32, 100, None)
@example("Q5_K_M", 7, 100, 1, 1, 32, 384, None)
def test_types_and_order_are_llama_cpps(quant, layers, dims, kv_heads, shared, head, ffn, embedding):
    """Any number of layers and heads, rows that fit blocks of 256, of 32 or none, any token embedding type."""
    model = ModelShape(layers, kv_heads * shared, kv_heads)
    shapes = qwen3_shapes(layers, dims, model.n_heads, kv_heads, head, ffn)
    if embedding and dims % TENSOR_TYPES[TYPE_IDS[embedding]][1]:
        with pytest.raises(OptionError, match=f"rows of {dims}"):
            tensor_type(quant, "token_embd.weight", shapes["token_embd.weight"], model, embedding)
        return
    with tempfile.TemporaryDirectory() as folder:
        master = write_zeros(Path(folder) / "master.gguf", shapes, model, dims, ffn, head)
        try:
            made = read_header(llama_quantize(master, Path(folder) / "out.gguf", quant, embedding)).tensors
        except OddRowsError:
            return
    theirs = [(tensor.name, TENSOR_TYPES[tensor.type_id][0]) for tensor in made]
    names = sorted(shapes, key=file_order)
    assert [(name, tensor_type(quant, name, shapes[name], model, embedding)) for name in names] == theirs


def test_bert_keeps_its_small_tables_in_f32():
    """Positions, token types, norms and biases are never quantised."""
    model = ModelShape(2, 4, 4)
    for name in ("position_embd.weight", "token_types.weight", "blk.0.attn_output_norm.weight"):
        assert tensor_type("Q4_0", name, (256, 512), model) == "F32"
    assert tensor_type("Q4_0", "blk.0.attn_q.bias", (256,), model) == "F32"


def test_every_quantisation_has_its_file_type():
    """general.file_type of each, as llama.h numbers them."""
    assert FILE_TYPE_IDS == {
        "F32": 0, "F16": 1, "Q4_0": 2, "Q8_0": 7, "Q5_0": 8, "Q4_K_S": 14, "Q4_K_M": 15, "Q5_K_M": 17, "Q6_K": 18,
        "IQ4_NL": 25, "IQ4_XS": 30, "BF16": 32,
    }  # fmt: skip


def test_names_are_read_in_any_case_and_refused_with_the_list():
    """A wrong name is answered with all right ones."""
    assert check_quant("iq4_xs") == "IQ4_XS"
    assert check_token_embedding_type("q8_0") == "Q8_0"
    assert check_token_embedding_type("Q4_K_M") == "Q4_K"
    for check in (check_quant, check_token_embedding_type):
        for wrong in ("Q3_K_M", "", 4, None):
            with pytest.raises(OptionError, match="Choose one of: F32, F16, BF16, Q8_0"):
                check(wrong)
