"""The metadata of converted files: the values that llama.cpp's own converter writes, and qgguf's own."""

import json
import shutil
from pathlib import Path

import pytest

from qgguf.convert.converter import convert_checkpoint
from qgguf.gguf_format.reader import read_header
from qgguf.model.from_gguf import read_spec
from tests.support.reference_checkpoints import MADE, MINILM, boiled_down

REFERENCE = json.loads((Path(__file__).parent / "data" / "reference_metadata.json").read_text(encoding="utf-8"))[
    "files"
]


@pytest.mark.parametrize("name", MADE)
def test_values_and_tensors_are_those_of_llama_cpps_converter(name: str, minilm_checkpoint: Path, tmp_path: Path):
    """Keys, their order, types, values and the tensors' bytes equal those of llama.cpp's converter."""
    make, quant = MADE[name]
    checkpoint = make(tmp_path, minilm_checkpoint)
    compare(boiled_down(convert_checkpoint(checkpoint, tmp_path / "ours.gguf", quant=quant)), REFERENCE[name])


def test_real_minilm_equals_llama_cpps_conversion(minilm_checkpoint: Path, tmp_path: Path):
    """The real checkpoint gives the same values and weights, with model card, datasets and vocabulary."""
    out = convert_checkpoint(minilm_checkpoint, tmp_path / "ours.gguf", quant="F32")
    compare(boiled_down(out), REFERENCE[MINILM])


@pytest.mark.parametrize(
    ("name", "template"),
    [("Qwen3-Embedding-Small", "Instruct: {instruction}\nQuery:"), ("Qwen3-Reranker-Small", None), ("Small", None)],
)
def test_converter_recognises_a_family_as_the_runtime_does(
    small_qwen3_checkpoint: Path, tmp_path: Path, name: str, template: str | None
):
    """A checkpoint gets the keys of its family by the rule that the runtime applies to the file's header."""
    checkpoint = tmp_path / name
    shutil.copytree(small_qwen3_checkpoint, checkpoint)
    path = convert_checkpoint(checkpoint, tmp_path / "model.gguf", quant="F16")
    values = read_header(path).metadata

    assert values.get("qgguf.instruction_template") == template
    assert ("qgguf.mrl.min_dims" in values) == (template is not None)
    assert read_spec(path).instruction_template == template


def compare(ours: dict, theirs: dict) -> None:
    own = {key for key in ours["values"] if key.startswith("qgguf.")}
    assert {key: value for key, value in ours["values"].items() if key not in own} == theirs["values"]
    assert [key for key in ours["values"] if key not in own] == list(theirs["values"])
    assert ours["tensors"] == theirs["tensors"]
