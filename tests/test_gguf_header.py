import struct

import numpy as np
import pytest
from gguf import GGUFReader, GGUFWriter, LlamaFileType
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qgguf.errors import ModelFileError
from qgguf.gguf_format.reader import FILE_TYPES, TENSOR_TYPES, read_header, row_bytes
from tests.support.gguf_bytes import QWEN3, gguf, save, text

WHOLE = gguf(QWEN3, {"token_embd.weight": np.arange(12).reshape(3, 4), "output_norm.weight": np.ones(4)})


def test_metadata_and_tensor_places_are_read(tmp_path):
    """What was written by hand is read back, tensors by their bytes."""
    path = save(tmp_path / "é 한 😉.gguf", WHOLE)

    header = read_header(path)

    assert header.metadata == QWEN3
    assert [(tensor.name, tensor.shape) for tensor in header.tensors] == [
        ("token_embd.weight", (4, 3)),
        ("output_norm.weight", (4,)),
    ]
    first = header.tensors[0]
    stored = np.frombuffer(WHOLE[first.offset : first.offset + first.size_bytes], np.float32)
    np.testing.assert_array_equal(stored, np.arange(12))
    assert header.size_bytes == len(WHOLE)


def test_the_gguf_packages_files_are_read_as_it_reads_them(tmp_path):
    """Second truth: the gguf package writes, and its reader and ours find the same."""
    path = tmp_path / "model.gguf"
    writer = GGUFWriter(path, "bert")
    for key, item in {
        "a.int": -5,
        "a.big": 2**40,
        "a.word": "한",
        "a.list": [1.5, 2.5],
        "a.words": ["é", "😉"],
    }.items():
        writer.add_key_value(key, item, *_kind(item))
    writer.add_tensor("x.weight", np.ones((2, 64), np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    header, theirs = read_header(path), GGUFReader(path)

    for name, field in theirs.fields.items():
        if not name.startswith("GGUF."):
            assert header.metadata[name] == field.contents()
    assert [(t.name, t.shape, t.offset, t.size_bytes) for t in header.tensors] == [
        (t.name, tuple(int(n) for n in t.shape), t.data_offset, t.n_bytes) for t in theirs.tensors
    ]


def _kind(item):
    from gguf import GGUFValueType

    if isinstance(item, list):
        return GGUFValueType.ARRAY, GGUFValueType.get_type(item[0])
    return (GGUFValueType.UINT64 if item == 2**40 else GGUFValueType.get_type(item),)


@pytest.mark.parametrize(("type_id", "name"), [(id, entry[0]) for id, entry in TENSOR_TYPES.items()])
def test_tensor_types_agree_with_the_gguf_package(type_id, name):
    """Names and block sizes are ggml's."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    known = GGMLQuantizationType(type_id)

    assert known.name == name
    assert TENSOR_TYPES[type_id][1:] == GGML_QUANT_SIZES[known]


def test_row_bytes_counts_blocks():
    """Q8_0 stores 32 numbers in 34 bytes."""
    assert row_bytes(8, 64) == 68


@pytest.mark.parametrize("keep", [4, 5, 23, 24, 40, 100, 300, len(WHOLE) - 33, len(WHOLE) - 17])
def test_a_file_cut_short_is_refused_with_both_numbers(tmp_path, keep):
    """Wherever it is cut, the reader says so, whatever comes after."""
    path = save(tmp_path / "cut.gguf", WHOLE[:keep])

    with pytest.raises(ModelFileError, match=r"cut short|not a GGUF"):
        read_header(path)


def test_another_file_is_refused_with_the_way_out(tmp_path):
    """A safetensors file given by mistake is named for what it is not."""
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
def test_a_hostile_header_is_refused(tmp_path, what):
    """Every lie in a header ends in one ModelFileError, quickly and without much memory."""
    with pytest.raises(ModelFileError):
        read_header(save(tmp_path / "hostile.gguf", HOSTILE[what]))


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.data())
def test_flipped_bytes_never_escape_as_other_errors(tmp_path, data):
    """Random damage gives a header or a ModelFileError, nothing else."""
    damaged = bytearray(WHOLE)
    for _ in range(data.draw(st.integers(1, 6))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))

    try:
        read_header(save(tmp_path / "damaged.gguf", bytes(damaged)))
    except ModelFileError as error:
        assert "\n" not in str(error)


def test_a_folder_and_a_missing_file_are_refused(tmp_path):
    """The system's own reason is in the message."""
    with pytest.raises(ModelFileError, match="Cannot read"):
        read_header(tmp_path / "missing.gguf")
    with pytest.raises(ModelFileError, match="Cannot read"):
        read_header(tmp_path)


def test_file_types_have_the_names_of_the_gguf_package():
    """general.file_type -> name, held against the package of llama.cpp's authors."""
    theirs = {int(kind): kind.name.removeprefix("MOSTLY_").removeprefix("ALL_") for kind in LlamaFileType}
    assert {number: theirs.get(number) for number in FILE_TYPES} == FILE_TYPES
