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


TEMPLATE = "Instruct: {instruction}\nQuery:"
SPACED = {"query": "Instruct: Trouve é 한 😉\nQuery: ", "document": ""}
OTHER = {"query": "<|im_start|>search é", "document": ""}


@pytest.mark.parametrize(
    ("name", "prompts", "template", "has_mrl"),
    [
        ("Qwen3-Embedding-Small", None, TEMPLATE, True),
        ("Qwen3-Embedding-Small", OTHER, TEMPLATE, True),
        ("Small", None, TEMPLATE, True),
        ("Small", SPACED, TEMPLATE + " ", False),
        ("Small", OTHER, None, False),
        ("Qwen3-Reranker-Small", None, TEMPLATE, False),
        ("F2LLM-Small", None, TEMPLATE, False),
    ],
)
def test_a_family_is_recognised_by_name_or_by_the_checkpoints_own_prompt(
    small_qwen3_checkpoint: Path, tmp_path: Path, name: str, prompts: dict | None, template: str | None, has_mrl: bool
):
    """A fine-tune under any name, with any vocabulary, keeps instruction and Matryoshka dims; the runtime agrees."""
    checkpoint = tmp_path / name
    shutil.copytree(small_qwen3_checkpoint, checkpoint)
    if prompts is not None:
        (checkpoint / "config_sentence_transformers.json").write_text(json.dumps({"prompts": prompts}))
    path = convert_checkpoint(checkpoint, tmp_path / "model.gguf", quant="F16")
    values = read_header(path).metadata

    assert values.get("qgguf.instruction_template") == template
    assert ("qgguf.mrl.min_dims" in values) == has_mrl
    spec = read_spec(path)
    assert (spec.instruction_template, spec.mrl_dims is not None) == (template, has_mrl)
    expected = prompts or json.loads((checkpoint / "config_sentence_transformers.json").read_text())["prompts"]
    assert {key: spec.prompts[key] for key in expected} == expected


def compare(ours: dict, theirs: dict) -> None:
    own = {key for key in ours["values"] if key.startswith("qgguf.")}
    assert {key: value for key, value in ours["values"].items() if key not in own} == theirs["values"]
    assert [key for key in ours["values"] if key not in own] == list(theirs["values"])
    assert ours["tensors"] == theirs["tensors"]
