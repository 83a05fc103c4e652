"""Numbers of bytes, as people read and write them."""

import re

from qgguf.errors import OptionError

_UNITS = {"b": 1} | {
    letter + tail: base**power for power, letter in enumerate("kmgt", 1) for tail, base in (("b", 1000), ("ib", 1024))
}
_BYTES = re.compile(r"\s*(\d+(?:\.\d+)?(?:e\d{1,2})?)\s*([a-z]*)\s*", re.IGNORECASE | re.ASCII)
_LEAST_BUDGET = 1_000_000


def parse_bytes(text: str) -> int:
    """Return the bytes that a budget such as "3GB" stands for.

    >>> parse_bytes("3GB"), parse_bytes("3 GiB"), parse_bytes("3000MB"), parse_bytes("3e9"), parse_bytes("2.5gb")
    (3000000000, 3221225472, 3000000000, 3000000000, 2500000000)

    raises  OptionError: another unit, or less than a megabyte
    """
    found = _BYTES.fullmatch(text)
    unit = found[2].lower() if found else ""
    if not found or (unit and unit not in _UNITS):
        raise OptionError(
            f"{text!r} is not a number of bytes. Write 3GB (10^9 bytes each), 3GiB (2^30), 3000MB or 3e9."
        )
    size = int(float(found[1]) * _UNITS[unit or "b"])
    if size < _LEAST_BUDGET:
        raise OptionError(f"{text!r} is {size:,} bytes, less than a megabyte. Write 3GB, 3GiB, 3000MB or 3e9.")
    return size


def in_gigabytes(size_bytes: int) -> str:
    """Format bytes as `parse_bytes` reads them, rounded up, so that a budget of the result holds them.

    >>> in_gigabytes(3_000_000_000), in_gigabytes(2_341_000_001), in_gigabytes(81_000_000)
    ('3GB', '2.35GB', '81MB')
    """
    unit, per_unit, decimals = ("GB", 10**9, 2) if size_bytes >= 10**9 else ("MB", 10**6, 0)
    steps = -(-size_bytes * 10**decimals // per_unit)
    shown = f"{steps / 10**decimals:.{decimals}f}"
    return (shown.rstrip("0").rstrip(".") if "." in shown else shown) + unit


def readable(size_bytes: int) -> str:
    """Format a size for display, in powers of 1000, as disks and the hub do.

    >>> readable(639_150_592)
    '639.2 MB'
    """
    size = float(size_bytes)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.2f} GB"
