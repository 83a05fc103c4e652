"""The pages in docs/: they describe every command and option, and their links lead to files that exist."""

import re
from pathlib import Path

import click
import pytest

from qgguf.cli import cli

REPOSITORY = Path(__file__).resolve().parent.parent
CLI_PAGE = REPOSITORY / "docs" / "cli.md"
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
COMMANDS = sorted(cli.commands)
FENCE = re.compile(r"^```.*?^```$", re.M | re.S)
LINK = re.compile(r"\]\(([^()\s]+)\)")


def options_of(command: click.Command) -> set[str]:
    """Every spelling of every option of a command, those of --help and --verbose included."""
    context = click.Context(command, help_option_names=["-h", "--help"])
    options = [parameter for parameter in command.get_params(context) if isinstance(parameter, click.Option)]
    return {name for option in options for name in option.opts + option.secondary_opts}


def options_in(text: str) -> set[str]:
    """The options that a text names within backticks."""
    code = " ".join(re.findall(r"`([^`\n]+)`", text))
    return set(re.findall(r"(?<![\w-])--?[a-zA-Z][\w-]*", code))


def section(heading: str) -> str:
    """The text of one section of docs/cli.md; "" where there is none."""
    text = FENCE.sub("", CLI_PAGE.read_text("utf-8"))
    parts = re.split(r"^## (.+)$", text, flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True)).get(heading, "")


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text("utf-8")), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", COMMANDS)
def test_command_and_its_options_are_described(name: str):
    """The command's section names each of its options; those of all commands stand once."""
    described = section(f"`qgguf {name}`")
    assert described, f"docs/cli.md has no section on qgguf {name}"
    common = options_in(section("For all commands")) & {"-h", "--help", "-v", "--verbose"}
    assert options_of(cli.commands[name]) - options_in(described) - common == set()


@pytest.mark.parametrize("name", COMMANDS)
def test_described_options_exist(name: str):
    """No section describes an option that the command does not have."""
    assert options_in(section(f"`qgguf {name}`")) - options_of(cli.commands[name]) == set()


def test_options_of_the_group_are_described():
    """The options before a command's name are in the first section."""
    assert options_of(cli) - options_in(section("For all commands")) == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_lead_to_files(page: Path):
    """Each link to a file, and to a heading of one, has its target."""
    missing = []
    for link in LINK.findall(FENCE.sub("", page.read_text("utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            missing.append(link)
    assert missing == []
