"""What runs the suite: noxfile.py, the CI workflow and pyproject.toml agree; what scripts/gpu_software refuses."""

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PYPROJECT = (REPOSITORY / "pyproject.toml").read_text("utf-8")
NOXFILE = (REPOSITORY / "noxfile.py").read_text("utf-8")
WORKFLOW = (REPOSITORY / ".github" / "workflows" / "ci.yml").read_text("utf-8")

linux = pytest.mark.skipif(sys.platform != "linux", reason="scripts/gpu_software is for Linux")


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


# scripts/gpu_software


@pytest.fixture
def gpu_software(tmp_path: Path) -> Callable[..., str]:
    """Run a copy of the script in an empty repository, with or without glslc; return what it prints."""
    (tmp_path / "scripts").mkdir()
    (tmp_path / "bin").mkdir()
    (tmp_path / "pyproject.toml").touch()
    for name in ("gpu_software", "prepare"):
        shutil.copy(REPOSITORY / "scripts" / name, tmp_path / "scripts")
    for name in ("bash", "dirname", "uname", "sed", "tr", "sort", "head", "realpath", "cksum", "grep"):
        (tmp_path / "bin" / name).symlink_to(shutil.which(name) or name)

    def run(*, glslc: bool = True, **variables: str) -> str:
        if glslc:
            (tmp_path / "bin" / "glslc").symlink_to("/bin/true")
        done = subprocess.run(
            [tmp_path / "scripts" / "gpu_software"],
            env={"PATH": str(tmp_path / "bin"), **variables},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 1 and "command not found" not in done.stderr, done.stderr
        return done.stderr

    return run


def headers(folder: Path, version: str) -> str:
    """Write headers of Vulkan of a version, as far as the script reads them; return their folder."""
    major, minor, patch = version.split(".")
    (folder / "vulkan").mkdir(parents=True)
    (folder / "vulkan" / "vulkan.hpp").touch()
    (folder / "vulkan" / "vulkan_core.h").write_text(
        f"#define VK_HEADER_VERSION {patch}\n"
        f"#define VK_HEADER_VERSION_COMPLETE VK_MAKE_API_VERSION(0, {major}, {minor}, VK_HEADER_VERSION)\n"
    )
    return str(folder)


@linux
def test_gpu_software_names_what_is_missing(gpu_software: Callable[..., str], tmp_path: Path):
    """The driver, the compiler of shaders, the headers: one line each, with the packages that have them."""
    assert "glslc, the compiler" in gpu_software(glslc=False, VK_DRIVER_FILES="é.json")
    missing = gpu_software(VK_DRIVER_FILES="é.json", VULKAN_INCLUDE=str(tmp_path))
    assert f"{tmp_path} has no headers of Vulkan" in missing and "apt install" in missing


@linux
def test_gpu_software_names_both_versions_of_old_headers(gpu_software: Callable[..., str], tmp_path: Path):
    """Versions are compared as numbers, and the way to newer headers is named."""
    old = gpu_software(VK_DRIVER_FILES="é.json", VULKAN_INCLUDE=headers(tmp_path / "한", "1.3.99"))
    assert "are of version 1.3.99, llama.cpp needs 1.3.272 or newer" in old and "VULKAN_INCLUDE=" in old


@linux
def test_gpu_software_takes_new_headers(gpu_software: Callable[..., str], tmp_path: Path):
    """It goes on to the environment, for which this copy has no Python."""
    new = gpu_software(VK_DRIVER_FILES="é.json", VULKAN_INCLUDE=headers(tmp_path / "new", "1.4.1"))
    assert "Python 3.10 or newer is needed" in new


@linux
def test_gpu_software_names_the_missing_driver(gpu_software: Callable[..., str], tmp_path: Path):
    """Where no folder of Vulkan drivers has Mesa's."""
    script = tmp_path / "scripts" / "gpu_software"
    folders = "{/etc,/usr/local/share,/usr/share}/vulkan/icd.d"
    assert folders in script.read_text("utf-8")
    script.write_text(script.read_text("utf-8").replace(folders, "{/etc,/usr/local/share}/é"), "utf-8")
    assert "Mesa's software driver (lvp_icd.*.json) is not installed" in gpu_software()
