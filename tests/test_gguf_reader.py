"""qgguf.gguf_format: headers are read as other readers read them, and hostile ones are refused."""

import ctypes
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qgguf.errors import ModelFileError
from qgguf.gguf_format.reader import read_header
from qgguf.gguf_format.tensors import FILE_TYPES, TENSOR_TYPES, row_bytes
from qgguf.native import binding
from tests.support.gguf_bytes import QWEN3, gguf, save, text

WHOLE = gguf(QWEN3, {"token_embd.weight": np.arange(12).reshape(3, 4), "output_norm.weight": np.ones(4)})


def test_metadata_and_tensors_are_read(tmp_path: Path):
    """A file that was written by hand is read back, with the bytes of its tensors."""
    header = read_header(save(tmp_path / "é 한 😉.gguf", WHOLE))
    assert header.metadata == QWEN3
    shapes = [(tensor.name, tensor.shape) for tensor in header.tensors]
    assert shapes == [("token_embd.weight", (4, 3)), ("output_norm.weight", (4,))]
    first = header.tensors[0]
    start = header.data_offset + first.offset
    stored = np.frombuffer(WHOLE[start : start + first.size_bytes], np.float32)
    np.testing.assert_array_equal(stored, np.arange(12))
    assert header.size_bytes == len(WHOLE)


def test_the_gguf_package_reads_the_same(tmp_path: Path):
    """The package of llama.cpp's authors writes a file; its reader and ours agree."""
    gguf_py = pytest.importorskip("gguf")
    path = tmp_path / "model.gguf"
    writer = gguf_py.GGUFWriter(path, "bert")
    writer.add_int32("a.int", -5)
    writer.add_uint64("a.big", 2**40)
    writer.add_string("a.word", "한")
    writer.add_array("a.list", [1.5, 2.5])
    writer.add_array("a.words", ["é", "😉"])
    writer.add_tensor("x.weight", np.ones((2, 64), np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    header, theirs = read_header(path), gguf_py.GGUFReader(path)

    for name, field in theirs.fields.items():
        if not name.startswith("GGUF."):
            assert header.metadata[name] == field.contents()
    start = header.data_offset
    assert [(t.name, t.shape, start + t.offset, t.size_bytes) for t in header.tensors] == [
        (t.name, tuple(int(n) for n in t.shape), t.data_offset, t.n_bytes) for t in theirs.tensors
    ]


# ---- the tables


def test_tensor_types_agree_with_the_gguf_package():
    """Names and block sizes are those of the package of llama.cpp's authors, for all types that both know."""
    gguf_py = pytest.importorskip("gguf")
    theirs = {int(kind): (kind.name, *sizes) for kind, sizes in gguf_py.GGML_QUANT_SIZES.items()}
    both = TENSOR_TYPES.keys() & theirs.keys()
    assert {number: TENSOR_TYPES[number] for number in both} == {number: theirs[number] for number in both}
    assert len(both) >= 30


def test_tensor_types_are_those_of_llama_cpp():
    """The table is complete: every type of the loaded ggml but the two that only its own computations use."""
    count = getattr(binding.llama(), "GGML_TYPE_COUNT", 0)
    ggml = binding.ggml()
    ggml.ggml_type_name.restype, ggml.ggml_type_size.restype = ctypes.c_char_p, ctypes.c_size_t
    ggml.ggml_blck_size.restype = ctypes.c_int64
    theirs = {
        number: (ggml.ggml_type_name(number).decode().upper(), ggml.ggml_blck_size(number), ggml.ggml_type_size(number))
        for number in range(count)
        if ggml.ggml_type_size(number)
    }
    in_files = {number: entry for number, entry in theirs.items() if entry[0] not in ("Q8_1", "Q8_K")}
    assert in_files == {number: entry for number, entry in TENSOR_TYPES.items() if number < count}


def test_file_types_are_those_of_llama_cpp():
    """general.file_type -> name is complete, and as the binding's constants have it."""
    names = [name for name in dir(binding.llama()) if name.startswith("LLAMA_FTYPE_") and name != "LLAMA_FTYPE_GUESSED"]
    theirs = {
        getattr(binding.llama(), name): name.removeprefix("LLAMA_FTYPE_").removeprefix("ALL_").removeprefix("MOSTLY_")
        for name in names
    }
    assert theirs == {number: name for number, name in FILE_TYPES.items() if number <= max(theirs)}


def test_row_bytes_counts_blocks():
    """Q8_0 stores 32 numbers in 34 bytes."""
    assert row_bytes(8, 64) == 68


# ---- damaged and hostile files


@pytest.mark.parametrize("n_bytes", [4, 5, 23, 24, 40, 100, 300, len(WHOLE) - 33, len(WHOLE) - 17])
def test_a_file_cut_short_is_refused(tmp_path: Path, n_bytes: int):
    """Wherever the cut is."""
    with pytest.raises(ModelFileError, match=r"cut short|not a GGUF"):
        read_header(save(tmp_path / "cut.gguf", WHOLE[:n_bytes]))


def test_another_kind_of_file_is_refused_with_the_next_step(tmp_path: Path):
    """A safetensors file that was given by mistake."""
    path = save(tmp_path / "model.safetensors", b'\x40\0\0\0\0\0\0\0{"x":1}')
    with pytest.raises(ModelFileError, match=r"is not a GGUF file.*qgguf convert"):
        read_header(path)


HOSTILE = {
    "a version of the future": b"GGUF" + struct.pack("<IQQ", 99, 0, 0),
    "a big-endian file": b"GGUF" + struct.pack(">IQQ", 3, 0, 0),
    "two billion values": b"GGUF" + struct.pack("<IQQ", 3, 0, 2**31),
    "2**63 tensors": b"GGUF" + struct.pack("<IQQ", 3, 2**63, 0),
    "a key longer than the file": b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**62) + b"x" * 64,
    "an array longer than the file": b"GGUF"
    + struct.pack("<IQQ", 3, 0, 1) + text("k") + struct.pack("<IIQ", 9, 4, 2**61) + b"x" * 64,
    "strings longer than the file": b"GGUF"
    + struct.pack("<IQQ", 3, 0, 1) + text("k") + struct.pack("<IIQQ", 9, 8, 3, 2**60) + b"x" * 64,
    "arrays in arrays in arrays": b"GGUF"
    + struct.pack("<IQQ", 3, 0, 1) + text("k") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 40 + b"x" * 64,
    "an unknown value type": b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("k") + struct.pack("<I", 77) + b"x" * 64,
    "an alignment of zero": gguf({"general.alignment": 0}),
    "an alignment of three": gguf({"general.alignment": 3}),
    "one key twice": b"GGUF" + struct.pack("<IQQ", 3, 0, 2) + (text("k") + struct.pack("<II", 4, 1)) * 2 + b"x" * 64,
    "a tensor of nine dimensions": b"GGUF"
    + struct.pack("<IQQ", 3, 1, 0) + text("t") + struct.pack("<I9QIQ", 9, *[1] * 9, 0, 0) + b"x" * 64,
    "a tensor of no dimensions": b"GGUF"
    + struct.pack("<IQQ", 3, 1, 0) + text("t") + struct.pack("<IIQ", 0, 0, 0) + b"x" * 64,
    "a tensor of an unknown type": b"GGUF"
    + struct.pack("<IQQ", 3, 1, 0) + text("t") + struct.pack("<IQIQ", 1, 4, 99, 0) + b"x" * 64,
    # 2**40 * 2**40 wraps to 0 in 64 bits: a reader that multiplies in C would find it small.
    "a shape whose product overflows": b"GGUF"
    + struct.pack("<IQQ", 3, 1, 0) + text("t") + struct.pack("<IQQIQ", 2, 2**40, 2**40, 0, 0) + b"x" * 64,
    "a row that is no multiple of its block": b"GGUF"
    + struct.pack("<IQQ", 3, 1, 0) + text("t") + struct.pack("<IQIQ", 1, 33, 8, 0) + b"x" * 64,
    "a tensor off its alignment": b"GGUF"
    + struct.pack("<IQQ", 3, 1, 0) + text("t") + struct.pack("<IQIQ", 1, 1, 0, 4) + b"x" * 64,
    "an empty file": b"",
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_header_is_refused(tmp_path: Path, what: str):
    """Every impossible value raises ModelFileError, before memory is allocated for it."""
    with pytest.raises(ModelFileError):
        read_header(save(tmp_path / "hostile.gguf", HOSTILE[what]))


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.data())
def test_random_damage_raises_nothing_else(tmp_path: Path, data: st.DataObject):
    """Changed bytes lead to a header or to a ModelFileError of one line."""
    damaged = bytearray(WHOLE)
    for _ in range(data.draw(st.integers(1, 6))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        read_header(save(tmp_path / "damaged.gguf", bytes(damaged)))
    except ModelFileError as error:
        assert "\n" not in str(error)


def test_a_folder_and_a_missing_file_are_refused(tmp_path: Path):
    """With the system's reason."""
    for path in (tmp_path / "missing.gguf", tmp_path):
        with pytest.raises(ModelFileError, match="Cannot read"):
            read_header(path)


def test_a_file_without_tensors_need_not_be_padded(tmp_path: Path):
    """Some tools write a vocabulary alone, and end the file after its last value."""
    raw = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("general.name") + struct.pack("<I", 8) + text("é")
    assert read_header(save(tmp_path / "vocabulary.gguf", raw)).metadata == {"general.name": "é"}
