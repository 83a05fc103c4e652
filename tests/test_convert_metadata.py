"""What llama.cpp's own converter writes for a checkpoint is in our file with the same values, and qgguf's own too."""

import json
from pathlib import Path

import pytest

from qgguf.convert.converter import convert_checkpoint
from tests.support.reference_checkpoints import MADE, MINILM, boiled_down

REFERENCE = json.loads((Path(__file__).parent / "data" / "reference_metadata.json").read_text(encoding="utf-8"))[
    "files"
]


@pytest.mark.parametrize("name", MADE)
def test_values_and_tensors_are_those_of_llama_cpps_converter(name: str, minilm_checkpoint: Path, tmp_path: Path):
    """Same keys in the same order, same types and values, same tensors byte for byte."""
    make, quant = MADE[name]
    checkpoint = make(tmp_path, minilm_checkpoint)
    compare(boiled_down(convert_checkpoint(checkpoint, tmp_path / "ours.gguf", quant=quant)), REFERENCE[name])


def test_real_minilm_is_as_llama_cpps_converter_makes_it(minilm_checkpoint: Path, tmp_path: Path):
    """The same of the real checkpoint: card, datasets, vocabulary, every weight."""
    out = convert_checkpoint(minilm_checkpoint, tmp_path / "ours.gguf", quant="F32")
    compare(boiled_down(out), REFERENCE[MINILM])


def compare(ours: dict, theirs: dict) -> None:
    own = {key for key in ours["values"] if key.startswith("qgguf.")}
    assert {key: value for key, value in ours["values"].items() if key not in own} == theirs["values"]
    assert [key for key in ours["values"] if key not in own] == list(theirs["values"])
    assert ours["tensors"] == theirs["tensors"]
