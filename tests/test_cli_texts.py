"""Lines in, numbers out: the parts of the command line that need no model."""

import base64
import json
from pathlib import Path

import click
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from qgguf.cli.similarity import table
from qgguf.cli.text_input import split_lines
from qgguf.cli.text_width import shorten, width
from qgguf.cli.vector_output import numbers, output, write_vectors
from qgguf.embedder import Embeddings
from qgguf.units import readable

# Everything but the two letters that end a line; U+2028, U+0085, \x0b, \x1c ... are letters like any other.
LINES = st.lists(st.text(st.characters(exclude_characters="\n\r", exclude_categories=["Cs"])))
FLOATS = arrays(np.float32, st.integers(1, 8), elements=st.floats(width=32, allow_nan=False, allow_infinity=False))


@given(LINES, st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_lines_are_split_as_they_were_joined(lines: list[str], end: str, bom: bool):
    """Each line is one text, with any characters in it; a byte order mark is dropped."""
    if bom or not (lines and lines[0].startswith("\ufeff")):
        data = ("\ufeff" * bom + "".join(line + end for line in lines)).encode()
        assert split_lines(data, "x") == lines


@given(LINES.filter(lambda lines: bool(lines) and bool(lines[-1])))
def test_the_last_line_need_not_end(lines: list[str]):
    """The texts are the same with and without a last newline."""
    data = "\n".join(["", *lines]).encode()
    assert split_lines(data, "x") == split_lines(data + b"\n", "x") == ["", *lines]


@pytest.mark.parametrize(
    ("data", "texts"),
    [
        (b"", []),
        (b"\n", [""]),
        (b"\r\n", [""]),
        (b"a\n\nb\n\n", ["a", "", "b", ""]),
        (b"a\rb\r", ["a\rb\r"]),
        ("é\u2028한\u0085😉\x0b\x1c\n".encode(), ["é\u2028한\u0085😉\x0b\x1c"]),
        (b"\xef\xbb\xbf", []),
        (b"\0\n", ["\0"]),
    ],
)
def test_line_splitting_by_hand(data: bytes, texts: list[str]):
    r"""Only \n and \r\n end a line, empty lines are texts, a last newline makes none."""
    assert split_lines(data, "x") == texts


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"ok\n\xe9t\xe9\n", "x, line 2: byte 1 (0xe9) is not UTF-8. Save it as UTF-8."),
        ("한글".encode()[:-1], "x, line 1: byte 4 (0xea) is not UTF-8. Save it as UTF-8."),
        (b"a\n\n\xed\xa0\x80", "x, line 3: byte 1 (0xed) is not UTF-8. Save it as UTF-8."),
        ("한".encode("utf-16"), "x is UTF-16. Save it as UTF-8."),
        ("한".encode("utf-16-be"), None),
    ],
)
def test_line_that_is_not_utf8_is_named(data: bytes, message: str | None):
    """Latin-1, a cut character, a surrogate and UTF-16 are refused."""
    with pytest.raises(click.ClickException) as caught:
        split_lines(data, "x")
    assert message is None or caught.value.message == message


@given(FLOATS)
def test_numbers_give_the_same_float32_back(vector: np.ndarray):
    """Parsed as JSON or by float32 itself, each number is the one that was written."""
    text = numbers(vector, ",")
    for parsed in (json.loads(f"[{text}]"), text.split(",")):
        assert np.array(parsed, np.float32).tobytes() == vector.tobytes()


def test_numbers_are_short():
    """They have the fewest digits that give the same float32, not the 17 of a double."""
    assert numbers(np.array([0.1, 1 / 3, -2.5e-9], np.float32), " ") == "0.1 0.33333334 -2.5e-09"


def written(form: str, vectors: np.ndarray, precision: str = "float32") -> bytes:
    n_texts = len(vectors)
    pieces: list[bytes] = []
    embeddings = Embeddings(vectors, np.arange(n_texts) + 2, np.arange(n_texts) == 1)
    write_vectors(form, pieces.append, embeddings, "é", precision)
    return b"".join(pieces)


VECTORS = np.array([[0.5, -1], [0.1, 3e-9]], np.float32)
CODES = np.array([[5, -128], [0, 127]], np.int8)


@pytest.mark.parametrize(
    ("form", "vectors", "expected"),
    [
        (
            "json",
            VECTORS,
            '{"model": "é", "dims": 2, "precision": "float32", "embeddings": [\n[0.5, -1.0],\n[0.1, 3e-09]\n], '
            '"n_tokens": [2, 3], "truncated": [false, true]}\n',
        ),
        (
            "jsonl",
            CODES,
            '{"index": 0, "embedding": [5, -128], "n_tokens": 2, "truncated": false}\n'
            '{"index": 1, "embedding": [0, 127], "n_tokens": 3, "truncated": true}\n',
        ),
        ("csv", VECTORS, "0.5,-1.0\n0.1,3e-09\n"),
        ("csv", CODES, "5,-128\n0,127\n"),
        ("base64", VECTORS, "AAAAPwAAgL8=\nzczMPY8oTjE=\n"),
        ("base64", CODES, "BYA=\nAH8=\n"),
        ("json", VECTORS[:0], '{"model": "é", "dims": 2, "precision": "float32", "embeddings": [\n], '
         '"n_tokens": [], "truncated": []}\n'),
        ("csv", VECTORS[:0], ""),
    ],
)  # fmt: skip
def test_each_format_by_hand(form: str, vectors: np.ndarray, expected: str):
    """The whole output is compared."""
    assert written(form, vectors).decode() == expected


@pytest.mark.parametrize("vectors", [VECTORS, CODES, CODES.view(np.uint8), VECTORS[:0], VECTORS.astype(">f4")])
def test_npy_is_numpys_own(vectors: np.ndarray, tmp_path: Path):
    """Byte for byte what numpy.save makes of little-endian numbers."""
    np.save(tmp_path / "x.npy", vectors.astype(vectors.dtype.newbyteorder("<")))
    assert written("npy", vectors) == (tmp_path / "x.npy").read_bytes()


def test_base64_is_little_endian_everywhere():
    """The bytes do not depend on the machine's own order."""
    line = written("base64", VECTORS.astype(">f4")).split()[0]
    assert np.frombuffer(base64.b64decode(line), "<f4").tolist() == [0.5, -1]


def test_a_failure_leaves_the_old_file_and_no_part(tmp_path: Path):
    """The output gets its name only when all is written."""
    out = tmp_path / "é 한.csv"
    out.write_bytes(b"old")
    with pytest.raises(RuntimeError), output(str(out)) as write:
        write(b"half")
        raise RuntimeError
    assert out.read_bytes() == b"old" and list(tmp_path.iterdir()) == [out]
    with output(str(out)) as write:
        write(b"new")
    assert out.read_bytes() == b"new" and list(tmp_path.iterdir()) == [out]


def test_a_link_stays_a_link(tmp_path: Path):
    """What a link points to is replaced, not the link."""
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    with output(str(tmp_path / "link")) as write:
        write(b"new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_bytes() == b"new"


@pytest.mark.parametrize(
    ("text", "columns"),
    [("", 0), ("abc", 3), ("é", 1), ("e\u0301", 1), ("한국", 4), ("😉", 2), ("ＡＢ", 4), ("\u200b", 0)],
)
def test_width_counts_columns(text: str, columns: int):
    """Wide letters and emoji take two columns, combining marks none."""
    assert width(text) == columns


@given(st.text(), st.integers(2, 30))
def test_a_shortened_text_fits_on_its_line(text: str, columns: int):
    """Never wider than asked, never more than one line, and whole where it fits."""
    short = shorten(text, columns)
    assert width(short) <= columns and "\n" not in short and "\r" not in short
    if not short.endswith("…"):
        assert short == " ".join("".join(" " if ord(x) < 32 or 127 <= ord(x) < 160 else x for x in text).split())


def test_the_table_stands_in_columns():
    """Numbers are aligned for texts in any script."""
    lines = table(["한국어 😉", "e\u0301", "x" * 50], [[1, 0.5, -0.25]] * 3)
    assert lines == [
        " " * 43 + "      1      2      3",
        "1  한국어 😉" + " " * 31 + "  1.000  0.500 -0.250",
        "2  e\u0301" + " " * 39 + "  1.000  0.500 -0.250",
        "3  " + "x" * 39 + "…  1.000  0.500 -0.250",
    ]
    assert len({width(line) for line in lines}) == 1


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (639_150_592, "639.2 MB"), (2_496_700_000, "2.50 GB")],
)
def test_sizes_are_in_powers_of_1000(size_bytes: int, text: str):
    """Disks and the hub count in these units."""
    assert readable(size_bytes) == text
