"""A budget of memory as an option's value: 3GB, 3GiB, 3000MB, 3e9."""

import click


def as_bytes(_context: click.Context, _parameter: click.Parameter, value: str | None) -> int | None:
    """Callback of an option: its words as bytes; what `parse_bytes` refuses is wrong usage."""
    from qgguf.errors import OptionError
    from qgguf.units import parse_bytes

    try:
        return None if value is None else parse_bytes(value)
    except OptionError as error:
        raise click.BadParameter(str(error)) from error
