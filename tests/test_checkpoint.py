"""Reading a checkpoint's files: valid and hostile safetensors headers, and indexes of shards."""

import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qgguf.convert.checkpoint import Checkpoint
from qgguf.convert.safetensors import read_tensors
from qgguf.errors import CheckpointError
from tests.support.checkpoints import make_qwen3_checkpoint, write_safetensors

TWO = {
    "é": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "한": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
}


def raw_file(path: Path, header: object, n_data: int = 32, header_bytes: int | None = None) -> Path:
    """A safetensors file of any header, right or wrong."""
    text = header if isinstance(header, bytes) else json.dumps(header, ensure_ascii=False).encode()
    size = len(text) if header_bytes is None else header_bytes
    path.write_bytes(struct.pack("<Q", size) + text + bytes(n_data))
    return path


def changed(**changes: object) -> dict:
    """TWO with its second tensor changed."""
    return {"é": TWO["é"], "한": TWO["한"] | changes}


def test_tensors_have_their_offsets(tmp_path: Path):
    """Names in any script, shapes, types, and offsets from the start of the file; metadata is not a tensor."""
    path = raw_file(tmp_path / "model.safetensors", {"__metadata__": {"format": "pt 😉"}} | TWO)
    first, second = read_tensors(path)
    start = path.stat().st_size - 32
    assert (first.name, first.dtype, first.shape, first.offset, first.size_bytes) == ("é", "F32", (2, 3), start, 24)
    assert (second.name, second.dtype, second.shape, second.offset) == ("한", "BF16", (4,), start + 24)


@pytest.mark.parametrize(
    ("header", "n_data", "header_bytes", "message"),
    [
        (TWO, 32, 1 << 62, "cut short"),
        (TWO, 32, (1 << 64) - 1, "cut short"),
        (TWO, 32, 10_000, "cut short"),
        (TWO, 31, None, "1 of"),
        (TWO, 33, None, "1 bytes after"),
        (b"not JSON \xff", 32, None, "not JSON"),
        (b"[" * 100_000, 32, None, "not JSON"),
        (b"[]", 32, None, "not a JSON object"),
        (b'{"a": {"dtype": "F32", "shape": [8], "data_offsets": [0, 32]}, "a": 1}', 32, None, "'a' twice"),
        (changed(dtype="F4_FANCY"), 32, None, "F4_FANCY"),
        (changed(dtype=7), 32, None, "not known"),
        (changed(shape=[5]), 32, None, "needs 10"),
        (changed(shape=[1 << 40, 1 << 40]), 32, None, "needs"),
        (changed(shape=[-4]), 32, None, "wrongly"),
        (changed(shape=[True, 4]), 32, None, "wrongly"),
        (changed(shape=[4.0]), 32, None, "wrongly"),
        (changed(shape=[1] * 9 + [4]), 32, None, "wrongly"),
        (changed(shape="4"), 32, None, "wrongly"),
        (changed(data_offsets=[20, 28]), 32, None, "overlaps"),
        (changed(data_offsets=[0, 8]), 32, None, "overlaps"),
        (changed(data_offsets=[26, 34]), 34, None, "2 bytes unused"),
        (changed(data_offsets=[1 << 62, (1 << 62) + 8]), 32, None, "unused"),
        (changed(data_offsets=[32, 24]), 32, None, "gives '한' -8 bytes"),
        (changed(data_offsets=[24]), 32, None, "wrongly"),
        ({"é": TWO["é"], "한": 3}, 32, None, "wrongly"),
        ({}, 5, None, "5 bytes after"),
    ],
)
def test_a_hostile_header_is_refused_in_one_line(
    header: object, n_data: int, header_bytes: int | None, message: str, tmp_path: Path
):
    """Every length and offset is checked before it is used; the message names the file."""
    path = raw_file(tmp_path / "model.safetensors", header, n_data, header_bytes)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_tensors(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_header_over_the_formats_limit_is_refused(tmp_path: Path):
    """100 MB is the most a header may have, even where the file is as long (a sparse file here)."""
    path = raw_file(tmp_path / "model.safetensors", TWO, header_bytes=200_000_000)
    os.truncate(path, 300_000_000)
    with pytest.raises(CheckpointError, match="100,000,000 is the most"):
        read_tensors(path)


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reader(tmp_path_factory: pytest.TempPathFactory, data: bytes):
    """Any file is either read or refused, nothing else."""
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    path.write_bytes(data)
    try:
        read_tensors(path)
    except CheckpointError:
        pass


@given(st.data())
def test_no_change_of_a_header_byte_breaks_the_reader(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject):
    """A good file with some bytes changed is either read or refused; what is read lies inside the file."""
    path = raw_file(tmp_path_factory.getbasetemp() / "changed.safetensors", TWO)
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 33))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw)
    try:
        found = read_tensors(path)
    except CheckpointError:
        return
    assert all(tensor.offset + tensor.size_bytes <= len(raw) for tensor in found)


def test_a_linked_weight_file_is_read(tmp_path: Path):
    """The hub's cache is made of symbolic links."""
    real = write_safetensors(tmp_path / "blob", {"a": np.zeros((2, 2), np.float32)}, "F32")
    try:
        (tmp_path / "model.safetensors").symlink_to(real)
    except OSError:
        pytest.skip("this system makes no symbolic links")
    assert [tensor.name for tensor in Checkpoint(tmp_path, "model").tensors()] == ["a"]


def shards(tmp_path: Path) -> tuple[Path, dict]:
    folder = make_qwen3_checkpoint(tmp_path / "sharded", shards=3, small_vocab=True, layers=1, dims=64, ffn=64)
    return folder, json.loads((folder / "model.safetensors.index.json").read_text())


def test_missing_shard_is_named(tmp_path: Path):
    """The message has how many are missing, of how many, and which."""
    folder, _ = shards(tmp_path)
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"1 of its 3 weight files: model-00002-of-00003\.safetensors"):
        Checkpoint(folder, "model").tensors()


@pytest.mark.parametrize("change", ["gone", "moved", "extra"])
def test_an_index_that_disagrees_with_the_shards_is_refused(change: str, tmp_path: Path):
    """A tensor is not in the index, is in another shard, or is missing from its shard."""
    folder, index = shards(tmp_path)
    names = index["weight_map"]
    if change == "gone":
        del names["norm.weight"]
    elif change == "moved":
        names["norm.weight"] = "model-00001-of-00003.safetensors"
    else:
        names["no.such.weight"] = "model-00001-of-00003.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"disagree on (norm|no\.such)\.weight"):
        Checkpoint(folder, "model").tensors()


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "a\\b.safetensors", 7, "model.bin"])
def test_an_index_cannot_point_out_of_its_folder(name: object, tmp_path: Path):
    """A shard is a plain .safetensors file name."""
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(CheckpointError, match="no usable weight_map"):
        Checkpoint(tmp_path, "model").tensors()


@pytest.mark.parametrize(
    ("other", "message"),
    [("adapter_config.json", "merge it"), ("pytorch_model.bin", "pickled weights.*AutoModel"), ("x.txt", "complete")],
)
def test_folder_without_weights_gets_a_next_step(other: str, message: str, tmp_path: Path):
    """The message differs for an adapter, pickled weights, and no weights."""
    (tmp_path / other).write_text("{}")
    with pytest.raises(CheckpointError, match=message):
        Checkpoint(tmp_path, "model").tensors()


@pytest.mark.parametrize("raw", [b"{", b"\xff\xfe", b"[1]", b"7", b"[" * 100_000])
def test_invalid_json_is_refused(raw: bytes, tmp_path: Path):
    """It is not JSON, not UTF-8, not an object, or nested too deeply."""
    (tmp_path / "config.json").write_bytes(raw)
    with pytest.raises(CheckpointError, match=r"config\.json is (not JSON|not a JSON object)"):
        _ = Checkpoint(tmp_path, "model").config
