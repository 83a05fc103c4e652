"""Counts terminal columns: letters of East Asian scripts and emoji take two."""

import unicodedata


def shorten(text: str, columns: int) -> str:
    """Return the text on one line of at most this many terminal columns.

    >>> shorten("한국어", 5)
    '한국…'
    """
    text = " ".join("".join(" " if unicodedata.category(letter) == "Cc" else letter for letter in text).split())
    if width(text) <= columns:
        return text
    kept = ""
    for letter in text:
        if width(kept + letter) > columns - 1:
            break
        kept += letter
    return kept + "…"


def width(text: str) -> int:
    """Return the terminal columns of a text: 2 for East Asian wide letters and emoji, 0 for combining marks.

    >>> width("é"), width("e\u0301"), width("한"), width("😉")
    (1, 1, 2, 2)
    """
    columns = 0
    for letter in text:
        if unicodedata.category(letter) in ("Mn", "Me", "Cf"):
            continue
        columns += 2 if unicodedata.east_asian_width(letter) in "WF" else 1
    return columns
