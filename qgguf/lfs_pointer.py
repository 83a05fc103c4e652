"""Recognises git-lfs pointers: the small text files that stand for large ones which git has not downloaded."""

# source  https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md
_FIRST_LINES = (b"version https://git-lfs.github.com/spec/", b"version https://hawser.github.com/spec/")
_MOST_BYTES = 1024

FETCH_LFS_FILES = "Run in that folder: git lfs install && git lfs pull"
"""What fetches the files themselves. Without the first command, the second downloads them but leaves the pointers."""


def is_lfs_pointer(first_bytes: bytes, size_bytes: int) -> bool:
    r"""Return whether a file is a git-lfs pointer.

    first_bytes  50 bytes or more from its start

    >>> is_lfs_pointer(b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146", 130)
    True
    """
    return size_bytes < _MOST_BYTES and first_bytes.startswith(_FIRST_LINES)


def pointer_message(name: str) -> str:
    """Return the error message for a pointer, with the next step."""
    return f"{name} is a git-lfs pointer: git has not downloaded the file that it stands for. {FETCH_LFS_FILES}"
