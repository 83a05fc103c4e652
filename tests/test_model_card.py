"""qgguf.convert.model_card: with the package gguf and without it."""

import os
import subprocess
import sys
from pathlib import Path

import gguf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qgguf.convert.model_card import size_label, title_of
from qgguf.gguf_format.reader import read_header
from tests.support.bert_checkpoints import make_bert_checkpoint
from tests.support.llama_quantize import tensors_of

REPOSITORY = Path(__file__).resolve().parent.parent

# Converts a folder twice: as it is, and where `import gguf` fails as it does if the package is not installed.
CONVERT_TWICE = """
import logging, sys
logging.basicConfig(format="%(message)s")
from qgguf import convert_checkpoint
convert_checkpoint(sys.argv[1], "with.gguf", quant="Q8_0")
for name in [name for name in sys.modules if name.split(".")[0] == "gguf"]:
    del sys.modules[name]
sys.modules["gguf"] = None
convert_checkpoint(sys.argv[1], "without.gguf", quant="Q8_0")
"""
CARD = "---\nlicense: mit\ntags:\n- é\nbase_model: google-bert/bert-base-uncased\n---\n"


def test_a_checkpoint_is_converted_without_the_package_gguf(tmp_path: Path):
    """The file lacks the model card's values alone; the log names the way to get them."""
    checkpoint = make_bert_checkpoint(tmp_path / "My-Encoder-v2")
    (checkpoint / "README.md").write_text(CARD, encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-c", CONVERT_TWICE, str(checkpoint)]
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr.count('pip install "qgguf[convert]"') == 1

    complete, reduced = read_header(tmp_path / "with.gguf").metadata, read_header(tmp_path / "without.gguf").metadata
    assert complete["general.license"] == "mit" and complete["general.base_model.count"] == 1
    assert reduced == {key: value for key, value in complete.items() if key in reduced}
    missing = complete.keys() - reduced.keys()
    assert missing and all(key.startswith("general.") for key in missing)
    assert not missing & {"general.name", "general.size_label", "general.architecture", "general.file_type"}
    assert tensors_of(tmp_path / "with.gguf") == tensors_of(tmp_path / "without.gguf")


@given(st.one_of(st.integers(1, 10**14), st.sampled_from([10**6, 10**9, 10**12, 10**6 + 1, 10**9 + 1, 10**12 + 1])))
def test_sizes_are_written_as_the_package_gguf_writes_them(n_params: int):
    """Of any number of weights."""
    assert size_label(n_params) == gguf.size_label(n_params, n_params, 0, 0)


@given(st.text(st.sampled_from("aBé3v. -"), min_size=1).filter(str.strip))
def test_titles_are_written_as_the_package_gguf_writes_them(name: str):
    """Words in lower case get a capital, versions and numbers stay."""
    assert title_of(name) == gguf.Metadata.id_to_title(name)


@pytest.mark.parametrize("name", ["Qwen3-Embedding-0.6B", "all-MiniLM-L6-v2", "bge_m3", "한-1.5-v3"])
def test_titles_of_real_names(name: str):
    """The name in a file is the same with the package and without it."""
    about = gguf.Metadata.apply_metadata_heuristic(gguf.Metadata(), {}, {}, Path(name), 1000)
    assert title_of(name) == about.name
