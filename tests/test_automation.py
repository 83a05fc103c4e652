"""What runs the suite: noxfile.py and the CI workflow agree with pyproject.toml and with each other."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PYPROJECT = (REPOSITORY / "pyproject.toml").read_text("utf-8")
NOXFILE = (REPOSITORY / "noxfile.py").read_text("utf-8")
WORKFLOW = (REPOSITORY / ".github" / "workflows" / "ci.yml").read_text("utf-8")


def constant(name: str) -> Any:
    """Return the value of a constant of noxfile.py."""
    for node in ast.parse(NOXFILE).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return ast.literal_eval(node.value)
    raise LookupError(name)


def test_suite_runs_on_each_python_that_is_declared():
    """Classifiers, nox and CI name the same Pythons."""
    declared = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', PYPROJECT)
    assert tuple(declared) == constant("PYTHONS")
    assert re.findall(r"^ +(3\.\d+)$", WORKFLOW, re.MULTILINE) == declared
    assert f'requires-python = ">={declared[0]}"' in PYPROJECT


@pytest.mark.parametrize("requirement", constant("OLDEST"))
def test_oldest_dependencies_are_those_required(requirement: str):
    """The session `oldest` installs the lower bounds of pyproject.toml."""
    name, _, version = requirement.partition("==")
    assert f'"{name}>={version.removesuffix(".*")}' in PYPROJECT


def test_ci_runs_sessions_that_exist():
    """Each session of the workflow is a function of noxfile.py, for a Python that it names."""
    functions = {node.name for node in ast.parse(NOXFILE).body if isinstance(node, ast.FunctionDef)}
    sessions = re.findall(r"session: ([\w.-]+)", WORKFLOW)
    assert {"tests", "oldest", "newest", "binding"} <= set(sessions)
    for session in sessions:
        name, _, python = session.partition("-")
        assert name in functions and (not python or python in constant("PYTHONS"))
