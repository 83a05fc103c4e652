"""The test suite on other Pythons and with other releases of what qgguf needs. `nox -l` lists the sessions.

Each session runs pytest as scripts/test does, in a separate environment. Arguments after `--` go to pytest:

    nox -s tests-3.12 -- tests/test_embedder.py

Sessions whose Python is not installed are skipped. pip compiles each release of llama-cpp-python once, about 5 minutes
on 2 cores, and reuses the wheel from its cache.
"""

import ast
from pathlib import Path

import nox

ROOT = Path(__file__).parent
PYTHONS = ("3.10", "3.11", "3.12", "3.13")

# The lowest versions that pyproject.toml allows. numpy 1.24 has wheels up to Python 3.11.
OLDEST = ("numpy==1.24.*", "huggingface-hub==0.30.*")
NEWEST = ("numpy", "huggingface-hub")

nox.options.default_venv_backend = "venv"
nox.options.error_on_missing_interpreters = False


def tested_versions() -> tuple[str, ...]:
    """Return TESTED_VERSIONS of qgguf/native/builds.py, without importing qgguf."""
    for node in ast.parse((ROOT / "qgguf" / "native" / "builds.py").read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["TESTED_VERSIONS"]:
            versions: tuple[str, ...] = ast.literal_eval(node.value)
            return versions
    raise LookupError("qgguf/native/builds.py has no TESTED_VERSIONS.")


def run_suite(session: nox.Session, *requirements: str, upgrade: bool = False) -> None:
    """Install qgguf with the requirements, show what was installed, and run the suite."""
    # Dependency groups came with pip 25.1.
    session.install("--upgrade", "pip>=25.1")
    options = ("--upgrade", "--upgrade-strategy", "eager") if upgrade else ()
    session.install(*options, "--editable", ".[convert]", "--group", "test", "--group", "build", *requirements)
    session.run("python", "-m", "pip", "list")
    session.run("python", "-m", "pytest", *session.posargs)


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the suite on each Python."""
    run_suite(session)


@nox.session(python="3.10")
def oldest(session: nox.Session) -> None:
    """Run the suite with the oldest numpy and huggingface-hub."""
    run_suite(session, *OLDEST)


@nox.session(python="3.13")
def newest(session: nox.Session) -> None:
    """Run the suite with the newest numpy and huggingface-hub."""
    run_suite(session, *NEWEST, upgrade=True)


@nox.session(python="3.12")
@nox.parametrize("release", tested_versions())
def binding(session: nox.Session, release: str) -> None:
    """Run the suite with each supported release of llama-cpp-python."""
    run_suite(session, f"llama-cpp-python=={release}")
