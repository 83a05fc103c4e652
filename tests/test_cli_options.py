"""The options of the command line: one name has one type and one range, and one wrong value has one exit code."""

from collections import defaultdict

import click
import pytest
from click.testing import CliRunner

from qgguf.cli import cli

# Written files are of different kinds: vectors, and a GGUF file or its folder.
DIFFERENT = {"--output"}


def test_options_of_one_name_have_one_type():
    """An option takes the same values in each command that has it."""
    types = defaultdict(set)
    for command in cli.commands.values():
        for option in command.params:
            if isinstance(option, click.Option):
                types[option.opts[-1]].add(repr(option.type.to_info_dict()))
    assert {name for name, kinds in types.items() if len(kinds) > 1} <= DIFFERENT


@pytest.mark.parametrize(
    ("option", "value"),
    [("--max-tokens", "3"), ("--threads", "0"), ("--threads", "513"), ("--vram", "3 gigs"), ("--kv-type", "f8")],
)
def test_wrong_value_is_wrong_usage_in_every_command(option: str, value: str):
    """It is refused with exit code 2 before a model is looked for, wherever the option exists."""
    for name, command in cli.commands.items():
        if any(option in parameter.opts for parameter in command.params):
            texts = ["a", "b"] if name == "similarity" else ["a"]
            done = CliRunner().invoke(cli, [name, *texts, option, value])
            assert done.exit_code == 2 and option in done.output, name
