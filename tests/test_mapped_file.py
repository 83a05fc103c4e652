"""Models whose file is deleted, replaced or written to while they are open."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from qgguf import Embedder
from qgguf.errors import ModelFileError
from qgguf.mapped_file import MappedFile

TEXTS = ["é", "한국어 텍스트", "😉 \ua7cb", "word " * 300]


@pytest.fixture
def path(small_qwen3: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(small_qwen3, tmp_path / "한.gguf"))


@pytest.mark.parametrize("how", ["deleted", "replaced", "moved", "folder deleted"])
def test_file_is_not_needed_by_name(how: str, path: Path, minilm_q8: Path, tmp_path: Path):
    """Another file under its name changes nothing: ids and vectors stay those of the model that was opened."""
    with Embedder(path) as model:
        expected, ids = model.encode(TEXTS), [model.token_ids(text) for text in TEXTS]
        if how == "moved":
            path.rename(tmp_path / "elsewhere.gguf")
        elif how == "replaced":
            os.replace(shutil.copy(minilm_q8, tmp_path / "new"), path)
        else:
            path.unlink()
        if how == "folder deleted":
            shutil.rmtree(tmp_path)
        assert [model.token_ids(text) for text in TEXTS] == ids
        assert np.array_equal(model.encode(TEXTS), expected)


@pytest.mark.parametrize("how", ["truncated", "copied over", "one byte", "grown"])
def test_file_that_was_written_to_is_refused(how: str, path: Path, poisoned_qwen3: Path):
    """Its weights are read from the file, so that vectors would be wrong, or the process would end by SIGBUS."""
    with Embedder(path) as model:
        model.encode(TEXTS)
        if how == "copied over":
            shutil.copyfile(poisoned_qwen3, path)
        else:
            with path.open("r+b") as stream:
                if how == "truncated":
                    stream.truncate(1000)
                elif how == "grown":
                    stream.seek(0, os.SEEK_END)
                    stream.write(b"x")
                else:
                    stream.seek(path.stat().st_size // 2)
                    stream.write(b"\0")
        for call in (lambda: model.encode("é"), lambda: model.encode(TEXTS)):
            with pytest.raises(ModelFileError, match=r"한\.gguf was written to while it was open") as caught:
                call()
            assert "\n" not in str(caught.value)


def test_metadata_may_change(tmp_path: Path):
    """Mode, names and the time of the last access are not the content."""
    path = tmp_path / "x"
    path.write_bytes(b"x")
    file = MappedFile(path)
    path.chmod(0o600)
    os.link(path, tmp_path / "y")
    os.utime(path, ns=(0, path.stat().st_mtime_ns))
    path.read_bytes()
    file.check()
    file.close()
    file.close()


def test_file_that_cannot_be_read(tmp_path: Path):
    with pytest.raises(ModelFileError, match="Cannot read"):
        MappedFile(tmp_path / "missing")
