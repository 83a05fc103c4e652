"""README.md, docs/ and the other pages: what they show is run, every public thing is documented, links have targets."""

import inspect
import os
import re
import shlex
import sys
import sysconfig
import venv
from pathlib import Path

import click
import pytest

import qgguf
from qgguf import errors, settings, vectors
from qgguf.cli import cli
from qgguf.gguf_format.reader import read_header
from qgguf.memory.planner import PlanRequest, plan
from qgguf.model.from_gguf import sizes_of, spec_of
from tests.support.empty_model import make_empty_model
from tests.support.pages import PAGES, REPOSITORY, Step, blocks, difference, prose, run, steps

DOCS = REPOSITORY / "docs"
# Pages that begin with a fresh clone; the others begin after scripts/demo, and say so.
FROM_A_CLONE = ("README.md", "docs/install.md", "CONTRIBUTING.md")
AFTER_THE_DEMO = "after [`scripts/demo`]("

NETWORK, COMPILES, GPU, LONG = (
    "needs a network",
    "compiles llama.cpp, or needs an index of packages",
    "needs a GPU",
    "takes minutes",
)
PYTHON = shlex.quote(sys.executable)
LINK_PACKAGES = f"{PYTHON} -m tests.test_docs .venv"
# What is not run: the command, or the first line of a block -> the reason, and what is run instead.
NOT_RUN: dict[str, tuple[str, str]] = {
    "git clone https://github.com/qgguf/qgguf && cd qgguf": (NETWORK, ""),
    'pip install --editable ".[convert]" --only-binary llama-cpp-python --extra-index-url '
    "https://abetlen.github.io/llama-cpp-python/whl/cpu": (COMPILES, LINK_PACKAGES),
    'pip install --editable ".[convert]"': (COMPILES, ""),
    "scripts/demo": (COMPILES, f"{PYTHON} scripts/demo.py"),
    "git clone https://github.com/qgguf/qgguf; cd qgguf": ("is for Windows", ""),
    "pip install --force-reinstall --no-deps --only-binary llama-cpp-python llama-cpp-python==0.3.36 --extra-index-url "
    "https://abetlen.github.io/llama-cpp-python/whl/NAME": (NETWORK, ""),
    'CMAKE_ARGS="FLAG" pip install --force-reinstall --no-deps --no-cache-dir --no-binary llama-cpp-python '
    "llama-cpp-python==0.3.36": (COMPILES, ""),
    "FROM python:3.12 AS build": ("needs Docker", ""),
    "pyinstaller --collect-binaries llama_cpp --collect-data llama_cpp your_program.py": ("needs PyInstaller", ""),
    "# workers.py": ("is a file for a pool of processes", ""),
    "qgguf bench models/all-minilm-l6-v2-Q8_0.gguf --seconds 3": ("is for an idle machine", ""),
    "python scripts/bench_peers.py --model MODEL.gguf --checkpoint FOLDER --minilm MODEL.gguf "
    "--minilm-checkpoint FOLDER \\": (LONG, ""),
}

IDS = [page.relative_to(REPOSITORY).as_posix() for page in PAGES]


def install(environment: Path) -> None:
    """Install qgguf in a virtual environment as pip would: this source, and the packages that are here."""
    program = environment / "bin" / "python"
    packages = next(environment.glob("lib/python*/site-packages"))
    paths = [str(REPOSITORY), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    (packages / "here.pth").write_text("\n".join(dict.fromkeys(paths)) + "\n")
    command = environment / "bin" / "qgguf"
    command.write_text(f"#!{program}\nfrom qgguf.__main__ import main\nmain()\n")
    command.chmod(0o755)


@pytest.fixture
def clone(tmp_path: Path, minilm_q4: Path, minilm_q8: Path) -> Path:
    """A clone of the repository that nothing has been installed in."""
    folder = tmp_path / "qgguf"
    folder.mkdir()
    for path in REPOSITORY.iterdir():
        if path.name not in (".venv", "models", ".git"):
            (folder / path.name).symlink_to(path)
    return folder


@pytest.fixture
def after_the_demo(clone: Path, minilm_q4: Path, minilm_q8: Path) -> Path:
    """The same after scripts/demo: .venv, and models/ with its two files."""
    (clone / "models").mkdir()
    for quant, path in {"Q4_K_M": minilm_q4, "Q8_0": minilm_q8}.items():
        (clone / "models" / f"all-minilm-l6-v2-{quant}.gguf").symlink_to(path)
    venv.create(clone / ".venv", symlinks=True)
    install(clone / ".venv")
    return clone


def shell_environment(home: Path) -> dict[str, str]:
    """A newcomer's environment: no qgguf on the PATH, no setting, an empty home; this Python."""
    names = ("HF_", "QGGUF_", "PYTHON", "VIRTUAL_ENV")
    here = {name: value for name, value in os.environ.items() if not name.startswith(names)}
    folders = [folder for folder in here["PATH"].split(os.pathsep) if not Path(folder, "qgguf").exists()]
    python = home.with_name("bin") / "python3"
    python.parent.mkdir(exist_ok=True)
    python.unlink(missing_ok=True)
    python.symlink_to(Path(sys.executable).resolve())
    return here | {
        "PATH": os.pathsep.join([str(python.parent), *folders]),
        "HOME": str(home),
        "HF_HUB_OFFLINE": "1",
        "PYTHONIOENCODING": "utf-8",
        "COLUMNS": "100",
        "OMP_WAIT_POLICY": "passive",
    }


def test_shown_output_is_compared():
    """Wildcards stand for text and lines, the last digit of a number may differ by 2, everything else is equal."""
    assert difference("a\nb\n", "a\nb\n") is None
    assert difference("a\nb\n", "a\n") is not None
    assert difference("a\nx\ny\nb\n", "a\n...\nb\n") is None
    assert difference("[0.4123, 1]\n", "[0.41...\n") is None
    assert difference("cosine 0.125\n", "cosine 0.124\n") is None
    assert difference("cosine 0.129\n", "cosine 0.124\n") is not None
    assert difference("a -0.01\nb 0.10\n", "a  0.01\nb 0.10\n") is None
    assert difference("a -0.04\nb 0.10\n", "a  0.01\nb 0.10\n") is not None
    assert difference("version 0.3.36\n", "version 0.3.35\n") is not None
    assert difference("", "") is None
    assert difference("a\n", "") is not None
    assert difference("", "a\n") is not None


@pytest.mark.skipif(os.name == "nt", reason="the commands are for bash")
@pytest.mark.parametrize("page", [page for page in PAGES if steps(page)], ids=lambda page: page.name)
def test_page_is_run(page: Path, tmp_path: Path, request: pytest.FixtureRequest):
    """Every command and program of a page runs, in order, in a shell where only what the page states has happened."""
    fresh = page.relative_to(REPOSITORY).as_posix() in FROM_A_CLONE
    assert fresh or AFTER_THE_DEMO in prose(page)
    folder = request.getfixturevalue("clone" if fresh else "after_the_demo")
    (tmp_path / "home").mkdir()
    shown = steps(page)
    stand_ins = [Step(step.line, step.kind, _stand_in(step), step.shown) for step in shown]
    wrong = []
    for step, (printed, code) in zip(shown, run(stand_ins, folder, shell_environment(tmp_path / "home")), strict=True):
        if _key(step) in NOT_RUN and not _stand_in(step).startswith(PYTHON):
            continue
        fails = step.shown.startswith(("Error:", "Usage:", "Traceback"))
        different = difference(printed, step.shown)
        if different or (code != 0) != fails:
            wrong.append(f"{page.name}:{step.line}: {step.code.strip()}\nexit code {code}, {different}")
    assert not wrong, "\n\n".join(wrong)


def _key(step: Step) -> str:
    return step.code.strip().partition("\n")[0]


def _stand_in(step: Step) -> str:
    if _key(step) not in NOT_RUN:
        return step.code
    return NOT_RUN[_key(step)][1] or ("true" if step.kind == "shell" else "pass")


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_block_is_run_or_listed(page: Path):
    """A block is a command, a program or its output; any other is listed as not run, but for plain patterns."""
    for block in blocks(page):
        assert "\n$ " not in "\n" + block.body or block.kind == "console", f"line {block.line}"
        if block.kind not in ("console", "python", "pycon", "text", ""):
            assert block.body.partition("\n")[0] in NOT_RUN, f"```{block.kind} at line {block.line}"
        if block.kind == "":
            assert not block.body.startswith(("pip ", "python", "git ", "CMAKE")), f"line {block.line}"


def test_what_is_not_run_is_on_a_page():
    """No command is listed as not run that no page shows."""
    shown = {_key(step) for page in PAGES for step in steps(page)}
    shown |= {block.body.partition("\n")[0] for page in PAGES for block in blocks(page)}
    assert [command for command in NOT_RUN if command not in shown] == []


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_links_lead_somewhere(page: Path):
    """A relative link names a file of the repository, and its anchor a heading there."""
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), target
        if anchor:
            assert anchor in headings(path), target


def headings(page: Path) -> set[str]:
    """The anchors that a page has on GitHub."""
    titles = re.findall(r"^#+ (.*)$", prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_named_scripts_exist(page: Path):
    """A script or a test that a page names is in the repository."""
    for name in re.findall(r"(?<![\w/.])((?:scripts|tests)/[\w/]+(?:\.\w+)?)", page.read_text("utf-8")):
        assert (REPOSITORY / name).exists(), name


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_commands_in_sentences_exist(page: Path):
    """A `qgguf ...` within a sentence is a command with options that it has."""
    for words in re.findall(r"`qgguf ([^`]+)`", prose(page)):
        name, *rest = words.split()
        if name in ("@", "COMMAND") or name.startswith("-"):
            continue
        assert name in cli.commands, words
        known = {option for parameter in cli.commands[name].params for option in parameter.opts}
        assert [word for word in rest if word.startswith("-") and word.partition("=")[0] not in known] == [], words


# What there is, is documented


def section(page: Path, heading: str) -> str:
    """The text under a heading, up to the next one of its level or above."""
    level = heading.partition(" ")[0]
    match = re.search(
        rf"^{re.escape(heading)}\n(.*?)(?=^#{{1,{len(level)}}} |\Z)", page.read_text("utf-8"), re.M | re.S
    )
    assert match, f"{page.name} has no {heading!r}"
    return match[1]


@pytest.mark.parametrize("name", cli.commands)
def test_every_option_is_documented(name: str):
    """docs/cli.md has a section for each command, with each of its options and arguments, and no others."""
    text = section(DOCS / "cli.md", f"## `qgguf {name}`")
    table = [row.partition(" | ")[0] for row in re.findall(r"^\| (.*)$", text, re.M)]
    documented = set(re.findall(r"`(--?[a-z][\w-]*)", " ".join(table)))
    options = [parameter for parameter in cli.commands[name].params if isinstance(parameter, click.Option)]
    shared = {"-v", "--verbose", "--help", "-h"}
    assert documented == {word for option in options for word in option.opts} - shared
    for parameter in cli.commands[name].params:
        if isinstance(parameter, click.Argument):
            assert (parameter.metavar or parameter.name or "").strip("[].").split()[0].rstrip("].").upper() in text


@pytest.mark.parametrize("name", [name for name in qgguf.__all__ if name != "__version__"])
def test_every_public_name_is_documented(name: str):
    """docs/python.md has a heading for each public name."""
    assert re.search(rf"^#+ `?{name}\b", (DOCS / "python.md").read_text("utf-8"), re.M)


def test_every_method_is_documented():
    """docs/python.md names every public attribute of Embedder, and every argument of its methods."""
    text = (DOCS / "python.md").read_text("utf-8")
    names = [name for name in dir(qgguf.Embedder) if not name.startswith("_")]
    for method in (qgguf.Embedder, *(getattr(qgguf.Embedder, name) for name in names)):
        if callable(method):
            names += [name for name in inspect.signature(method).parameters if name != "self"]
    assert [name for name in dict.fromkeys(names) if not re.search(rf"`{name}\b", text)] == []


def test_every_error_is_documented():
    """docs/python.md draws the tree of errors as the classes are."""
    text = section(DOCS / "python.md", "## Errors")
    lines = re.findall(r"^([ │├└─]*)(\w+Error)\b", text, re.M)
    tree, parents = {}, [""]
    for indent, name in lines:
        depth = len(indent) // 4
        tree[name] = parents[depth]
        parents[depth + 1 :] = [name]
    classes = {name: getattr(errors, name) for name in errors.__all__}
    assert tree == {name: "" if name == "QgError" else kind.__base__.__name__ for name, kind in classes.items()}


def test_every_function_on_vectors_is_documented():
    """docs/python.md names each public function of qgguf.vectors."""
    text = section(DOCS / "python.md", "## qgguf.vectors")
    functions = [name for name, value in vars(vectors).items()
                 if inspect.isfunction(value) and value.__module__ == vectors.__name__ and name[0] != "_"]  # fmt: skip
    assert [name for name in functions if f"`{name}(" not in text] == []


def test_every_variable_is_documented():
    """docs/environment.md has a row for each variable that qgguf reads, and no other of its own."""
    read = {variable.name for variable in settings.VARIABLES}
    rows = set(re.findall(r"^\| `([A-Z_]+)`", (DOCS / "environment.md").read_text("utf-8"), re.M))
    assert {name for name in rows if name.startswith("QGGUF_")} == {name for name in read if name.startswith("QGGUF_")}
    assert read <= rows


def test_every_module_is_in_the_architecture():
    """docs/architecture.md has a sentence for each module that holds code, and names no other."""
    modules = set()
    for path in (REPOSITORY / "qgguf").rglob("*.py"):
        tree = compile(path.read_text("utf-8"), str(path), "exec", 0x400)  # ast.PyCF_ONLY_AST
        if len(tree.body) > 1:
            modules.add(path.relative_to(REPOSITORY / "qgguf").as_posix())
    rows = re.findall(r"^\| `([\w/]+\.py)` \| (.*) \|$", (DOCS / "architecture.md").read_text("utf-8"), re.M)
    assert {name for name, _ in rows} == modules
    assert [name for name, sentence in rows if not re.fullmatch(r"[A-Z`][^.!?]*(\.\w[^.!?]*)*\.", sentence)] == []


@pytest.mark.parametrize(
    ("row", "shape", "quant"),
    [
        ("all-MiniLM-L6-v2", "minilm", "Q8_0"),
        ("`qwen3-embedding-0.6b`", "0.6b", "Q8_0"),
        ("`qwen3-embedding-4b`", "4b", "Q4_K_M"),
        ("`qwen3-embedding-8b`", "8b", "Q4_K_M"),
    ],
)
def test_memory_in_the_readme_is_planned(row: str, shape: str, quant: str, tmp_path: Path):
    """The RAM that the README's table gives is that of a plan for the model's shape."""
    header = read_header(make_empty_model(tmp_path / "model.gguf", shape, quant))
    sizes = sizes_of(header, spec_of(header, tmp_path / "model.gguf"))
    planned = plan(sizes, PlanRequest(threads=2)).ram_bytes / 1e9
    line = next(line for line in (REPOSITORY / "README.md").read_text("utf-8").splitlines() if f"| {row}" in line)
    shown = re.search(r"([\d.]+) GB \|$", line)
    assert shown and float(shown[1]) == pytest.approx(planned, abs=0.06)


BANNED = (
    r"aloud|mend(?:s|ing)?|told|tells?|said|say|saying|whoever|nobody|somebody|to be had|one hopes|lets go|"
    r"thing of use|of its own|at hand|wish(?:es)?"
)


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_page_is_in_plain_words(page: Path):
    """No word of the ban list stands in a page's sentences."""
    assert re.findall(rf"[^\n]*\b(?:{BANNED})\b[^\n]*", prose(page), re.I) == []


if __name__ == "__main__":
    install(Path(sys.argv[1]))
