"""Imports only go down, and llama_cpp has one door: the layout that the code's readers rely on."""

import ast
import re
from pathlib import Path

import pytest

from qgguf.gguf_format import keys

PACKAGE = Path(__file__).resolve().parent.parent / "qgguf"

# From the top. A module may import its own floor and those below.
FLOORS = (
    ("faces", ("__init__", "__main__", "cli", "server", "integrations")),
    ("tools", ("jobs", "calibration", "evaluation", "doctor", "convert")),
    ("work", ("embedder",)),
    ("inference", ("inference",)),
    ("tokens", ("tokenization",)),
    ("door", ("native",)),
    ("files", ("hub",)),
    ("model", ("model",)),
    ("format", ("gguf_format",)),
    (
        "machine",
        ("hardware", "settings", "atomic_file", "file_hash", "lfs_pointer", "background", "lifetime", "mapped_file"),
    ),
    ("pure", ("memory", "batching", "vectors", "option_values", "units")),
    ("words", ("errors", "types", "_version")),
)
FLOOR_OF = {name: height for height, (_, names) in enumerate(reversed(FLOORS)) for name in names}
DOOR = "qgguf/native/binding.py"
# What a pure or a words module may import beside the standard library.
PURE_PACKAGES = {"numpy"}
# Modules of higher floors that are pure too, and so import only each other and the pure floors.
PURE_MODULES = {
    "gguf_format.keys",
    "model.families",
    "model.spec",
    "model.prompts",
    "tokenization.control_tokens",
    "tokenization.kept_parts",
    "model.tokenizer_parts",
    "inference.options",
    "inference.stats",
    "inference.inputs",
    "native.builds",
    "hub.repo_name",
    "native.strategy",
    "evaluation.sample_texts",
}
# Modules whose code may name Qwen3: the family, its tensors, and these with their reasons.
NAMES_QWEN3 = {
    "model.families.qwen3": "what is known of the family",
    "model.families.__init__": "the list of families",
    "convert.architectures.qwen3": "its tensors",
    "convert.architectures.__init__": "the list of architectures",
    "hub.catalogue": "the published files",
    "memory.compute_buffer": "the model of its graph",
    "cli.options": "an example in a help text",
    "cli.models": "an example in a message",
}
# Without a dot, a key of an architecture or a value of a key is also a usual word.
GGUF_KEYS = {value for name, value in vars(keys).items() if name.isupper() and "." in str(value)}
VAGUE = {"utils", "util", "helpers", "helper", "common", "base", "manager", "misc"}

SOURCES = sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    """The dotted name inside qgguf: "native.binding", "__init__"."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def imports(path: Path, at_import: bool = False) -> list[str]:
    """Dotted names that a file imports; with `at_import` only those that run when it is imported."""
    found: list[str] = []

    def visit(node: ast.AST) -> None:
        if at_import and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            return
        if at_import and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            return
        if isinstance(node, ast.Import):
            found.extend(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.extend([f"{node.module}.{alias.name}" for alias in node.names])
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text("utf-8")))
    return found


def texts_in_code(path: Path) -> set[str]:
    """Return a file's string constants, without docstrings."""
    nodes = list(ast.walk(ast.parse(path.read_text("utf-8"))))
    docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    constants = [node for node in nodes if isinstance(node, ast.Constant) and id(node) not in docstrings]
    return {node.value for node in constants if isinstance(node.value, str)}


def identifiers(path: Path) -> set[str]:
    """Return a file's names of variables, attributes, arguments, functions, classes and modules."""
    fields = ("id", "attr", "name", "asname", "module", "arg")
    nodes = ast.walk(ast.parse(path.read_text("utf-8")))
    return {name for node in nodes for field in fields if isinstance(name := getattr(node, field, None), str)}


def is_pure(name: str) -> bool:
    """Whether a module, or a name in one ("model.spec.Pooling"), needs neither files of the system nor native code."""
    known = FLOOR_OF.get(name.split(".")[0])
    on_pure_floor = known is not None and known <= FLOOR_OF["vectors"]
    return on_pure_floor or ".".join(name.split(".")[:2]) in PURE_MODULES


# What tests/support has for models, the hub and other processes.
SUPPORT_OF_SLOW_TESTS = {
    "bert_checkpoints", "checkpoints", "empty_model", "hub_server", "lanes", "llama_quantize", "minilm", "native",
    "pages", "processes", "reference_checkpoints",
}  # fmt: skip


def is_fast(path: Path) -> bool:
    """Whether a test file needs no native code, hub, command line or other process: `scripts/test --fast` runs it."""
    for name in imports(path):
        first, _, rest = name.partition(".")
        if first in ("llama_cpp", "click", "scripts"):
            return False
        if name.startswith("tests.support.") and name.split(".")[2] in SUPPORT_OF_SLOW_TESTS:
            return False
        if first == "qgguf" and not is_pure(rest) and FLOOR_OF.get(rest.split(".")[0], 99) >= FLOOR_OF["hub"]:
            return False
    return True


def test_fast_files_need_no_model():
    """`scripts/test --fast` runs the layout and the pure tests, and nothing that opens a model."""
    tests = PACKAGE.parent / "tests"
    fast = {path.stem for path in tests.glob("test_*.py") if is_fast(path)}
    assert {"test_floors", "test_batching", "test_vectors", "test_prompts", "test_inputs"} <= fast
    assert not {"test_embedder", "test_cli_embed", "test_hub_download", "test_convert", "test_docs"} & fast


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_imports_go_down(path: Path):
    """A module imports nothing of a floor above its own, not even inside a function."""
    here = FLOOR_OF[name_of(path).split(".")[0]]
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "qgguf":
            there = parts[1] if parts[1] in FLOOR_OF else "__init__"
            assert FLOOR_OF[there] <= here, f"{name_of(path)} imports {name}, which is above it"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_llama_cpp_has_one_door(path: Path):
    """Only native/binding.py imports llama_cpp."""
    names = [name for name in imports(path) if name.split(".")[0] == "llama_cpp"]
    assert not names or path == PACKAGE.parent / DOOR


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_pure_floors_import_nothing_heavy(path: Path):
    """Words and pure modules need the standard library and numpy alone, and no file of the system."""
    if is_pure(name_of(path)):
        own = [name.removeprefix("qgguf.") for name in imports(path) if name.startswith("qgguf.")]
        assert all(is_pure(name) for name in own)
        outside = {name.split(".")[0] for name in imports(path)} - {"qgguf"}
        assert not outside & {"llama_cpp", "gguf", "huggingface_hub", "click", "tqdm", "ctypes", "os", "pathlib"}
        stdlib = set(__import__("sys").stdlib_module_names)
        assert outside - stdlib <= PURE_PACKAGES


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_every_module_is_on_a_floor(path: Path):
    """Every module is on a floor, and none has a name without meaning."""
    parts = name_of(path).split(".")
    assert parts[0] in FLOOR_OF, f"say in tests/test_floors.py on which floor {parts[0]} is"
    assert not VAGUE & set(parts)


@pytest.mark.parametrize("path", [*(PACKAGE / "cli").glob("*.py"), PACKAGE / "__init__.py"], ids=name_of)
def test_faces_are_light(path: Path):
    """What `import qgguf` and `qgguf --help` run imports no numpy, no native code and no hub at its top."""
    heavy = {"numpy", "gguf", "huggingface_hub", "tqdm", "psutil", "llama_cpp"}
    assert not heavy & {name.split(".")[0] for name in imports(path, at_import=True)}


# Imported after a look at the platform: locks of open files, which os does not offer.
ASKED_FOR = {"atomic_file": {"fcntl"}}


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_no_module_of_one_system_only(path: Path):
    """No module that Windows or macOS lacks is imported, and no call of os that one of them lacks goes unasked for."""
    missing = {"fcntl", "resource", "termios", "pwd", "grp", "pty", "msvcrt", "winreg", "posix"}
    found = missing & {name.split(".")[0] for name in imports(path)}
    assert found <= ASKED_FOR.get(name_of(path), set())
    text = path.read_text("utf-8")
    for call in (
        "sched_getaffinity",
        "process_cpu_count",
        "posix_fallocate",
        "posix_fadvise",
        "statvfs",
        "fork",
        "pread",
    ):
        if f"os.{call}(" in text:
            assert f'hasattr(os, "{call}")' in text or f'getattr(os, "{call}"' in text, f"os.{call} without a fallback"


@pytest.mark.parametrize("system_file", ["/proc/cpuinfo", "/proc/meminfo", "/proc/self/cgroup", "/sys/fs/cgroup"])
def test_a_file_of_the_system_has_one_reader(system_file: str):
    """Two readers of it would come to differ."""
    readers = [name_of(path) for path in SOURCES if f'Path("{system_file}")' in path.read_text("utf-8")]
    assert len(readers) == 1


def test_no_module_imports_itself_in_a_circle():
    """The modules can be put in an order in which each imports only earlier ones."""
    graph = {}
    for path in SOURCES:
        name = name_of(path).removesuffix(".__init__")
        wanted = {other.removeprefix("qgguf.") for other in imports(path, at_import=True) if other.startswith("qgguf.")}
        graph[name] = wanted
    names = set(graph)
    edges = {
        name: {target for other in wanted for target in (other, other.rpartition(".")[0]) if target in names - {name}}
        for name, wanted in graph.items()
    }
    while edges:
        free = {name for name, wanted in edges.items() if not wanted & set(edges)}
        assert free, f"a circle among {sorted(edges)}"
        edges = {name: wanted for name, wanted in edges.items() if name not in free}


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_family_is_known_in_its_own_file(path: Path):
    """No code names Qwen3, except in the family's file, in the converter's table, and where a reason is stated."""
    names_it = any("qwen3" in word.lower() for word in texts_in_code(path) | identifiers(path))
    assert names_it == (name_of(path) in NAMES_QWEN3)


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_gguf_key_is_written_once(path: Path):
    """A key of a GGUF header is a constant of gguf_format/keys.py, so that reader and converter use the same one."""
    assert not GGUF_KEYS & texts_in_code(path) or name_of(path) == "gguf_format.keys"


# Words of an older, private language, each with what is written instead. tests/test_docs.py holds the pages to it.
BANNED = {
    "aloud": "state it",
    "mend": "fix, infer, correct",
    "mended": "fixed, inferred, corrected",
    "told": "logged, reported",
    "tell": "log, report",
    "tells": "logs, reports",
    "said": "reported, stated",
    "say": "report, state",
    "says": "reports, states",
    "saying": "stating",
    "scratch": "compute buffer",
    "place": "device, index, offset, folder, file",
    "places": "devices, indices, offsets, folders, files",
    "whoever": "the caller",
    "nobody": "no caller",
    "somebody": "a caller",
    "to be had": "available",
    "one hopes": "(nothing)",
    "lets go": "releases",
    "as it is": "unchanged",
    "thing of use": "result",
    "of its own": "separate",
    "at hand": "available",
}
# Lists of words that texts are made of.
WORD_LISTS = {"evaluation.sample_texts"}
SCRIPTS = sorted(path for path in (PACKAGE.parent / "scripts").iterdir() if path.is_file())


@pytest.mark.parametrize("path", [*SOURCES, *SCRIPTS], ids=lambda path: path.name)
def test_words_are_plain(path: Path):
    """No word of the list above is in a docstring, a comment, a message or a name."""
    if path in SOURCES and name_of(path) in WORD_LISTS:
        return
    words = "|".join(word.replace(" ", r"\s+(?:#\s*)?") for word in BANNED)
    found = re.findall(rf"[^\n]*\b(?:{words})\b[^\n]*", path.read_text("utf-8"), re.I)
    assert not found, f"{path.name}: {found}; the list has a plain word for each"
