"""The environment variables: an argument overrides them, and a wrong value gives one line."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qgguf import Embedder
from qgguf.errors import BudgetError, OptionError
from qgguf.settings import (
    DEVICES,
    MOST_THREADS,
    VARIABLES,
    device_setting,
    model_setting,
    ram_setting,
    threads_setting,
    vram_setting,
)
from tests.support.processes import REPOSITORY, qgguf

MEMORY = [("QGGUF_VRAM", vram_setting), ("QGGUF_RAM", ram_setting)]


def test_the_argument_wins():
    """Argument, then variable, then the default; an empty variable is an unset one."""
    assert model_setting("a.gguf", {"QGGUF_MODEL": "b.gguf"}) == "a.gguf"
    assert model_setting(None, {"QGGUF_MODEL": "b.gguf"}) == model_setting("", {"QGGUF_MODEL": "b.gguf"}) == "b.gguf"
    assert model_setting(None, {}) is model_setting(None, {"QGGUF_MODEL": ""}) is None
    assert device_setting("cpu", {"QGGUF_DEVICE": "gpu"}) == "cpu"
    assert device_setting(None, {"QGGUF_DEVICE": "gpu"}) == "gpu"
    assert device_setting(None, {}) == device_setting(None, {"QGGUF_DEVICE": ""}) == "auto"
    assert threads_setting(3, {"QGGUF_THREADS": "5"}) == 3
    assert threads_setting(None, {"QGGUF_THREADS": " 5 "}) == 5
    assert threads_setting(None, {}) is threads_setting(None, {"QGGUF_THREADS": ""}) is None


@pytest.mark.parametrize(("variable", "setting"), MEMORY)
def test_the_argument_wins_for_memory(variable: str, setting: Callable[..., int | None]):
    """Likewise; a number of bytes needs no unit."""
    assert setting("3GB", {variable: "5GB"}) == setting(3_000_000_000, {variable: "many"}) == 3_000_000_000
    assert setting(None, {variable: " 2GiB "}) == 2 * 2**30
    assert setting(None, {}) is setting(None, {variable: " "}) is None
    (other,) = {name for name, _ in MEMORY} - {variable}
    assert setting(None, {other: "5GB"}) is None


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_other_text_is_refused_naming_the_variable(text: str):
    """One line with the variable, its value, and what is needed."""
    if text and text not in DEVICES:
        with pytest.raises(OptionError, match=r"QGGUF_DEVICE=.*auto, cpu, gpu or cuda") as refused:
            device_setting(None, {"QGGUF_DEVICE": text})
        assert "\n" not in str(refused.value)
    try:
        number = threads_setting(None, {"QGGUF_THREADS": text})
    except OptionError as error:
        assert "QGGUF_THREADS=" in str(error) and "\n" not in str(error)
    else:
        assert number is None if not text.strip() else number == int(text) and 1 <= number <= MOST_THREADS
    for variable, setting in MEMORY:
        try:
            size = setting(None, {variable: text})
        except OptionError as error:
            assert str(error).startswith(f"{variable}: ") and "\n" not in str(error)
        else:
            assert size is None if not text.strip() else size is not None and size >= 1_000_000


@pytest.mark.parametrize("wrong", [0, -1, MOST_THREADS + 1, True, 2.0, "4"])
def test_wrong_threads_are_refused(wrong: object):
    """Over 512 threads llama.cpp would write past its arrays."""
    with pytest.raises(OptionError, match="threads="):
        threads_setting(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [True, 2.0, b"3GB", "3 gigs", 0, -1, 999_999])
@pytest.mark.parametrize(("variable", "setting"), MEMORY)
def test_a_wrong_amount_of_memory_is_refused(variable: str, setting: Callable[..., int | None], wrong: object):
    """The message names the argument, not the variable."""
    with pytest.raises(OptionError, match=rf"^{variable.removeprefix('QGGUF_').lower()}[=:]"):
        setting(wrong, {variable: "3GB"})


@pytest.mark.parametrize("command", [["embed", "é"], ["similarity", "é", "한"]])
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("QGGUF_DEVICE", "tpu", "QGGUF_DEVICE='tpu' is not a device. Use auto, cpu, gpu or cuda."),
        ("QGGUF_THREADS", "½", "QGGUF_THREADS='½'; a whole number from 1 to 512"),
        ("QGGUF_VRAM", "3 gigs", "QGGUF_VRAM: '3 gigs' is no"),
        ("QGGUF_RAM", "½ GB", "QGGUF_RAM: '½ GB' is no"),
    ],
)
def test_a_wrong_variable_is_one_line(command: list[str], name: str, value: str, message: str, tmp_path: Path):
    """Exit code 1, nothing on stdout, no model is searched for."""
    done = qgguf(*command, home=tmp_path, **{name: value})
    shown = done.stderr.decode()
    assert (done.returncode, done.stdout) == (1, b"") and shown.startswith(f"Error: {message}")
    assert len(shown.splitlines()) == 1


def test_the_command_line_obeys_them(minilm_q8: Path, tmp_path: Path):
    """QGGUF_DEVICE=cpu runs on the CPU as asked; an option overrides a wrong variable."""
    done = qgguf("-v", "embed", "é", "-m", str(minilm_q8), home=tmp_path, QGGUF_DEVICE="cpu", QGGUF_THREADS="1")
    assert done.returncode == 0 and b"Running on CPU" in done.stderr and b": as asked." in done.stderr
    assert qgguf("embed", "é", "-m", str(minilm_q8), "--device", "cpu", home=tmp_path, QGGUF_DEVICE="x").returncode == 0


@pytest.mark.parametrize("option", ["vram", "ram"])
def test_a_plan_obeys_the_memory_variables(option: str, small_qwen3: Path, tmp_path: Path):
    """The variable is the budget of the plan; the option overrides it, even where it is wrong."""
    run = ["plan", str(small_qwen3), "--json"]
    variable, wrong = {f"QGGUF_{option.upper()}": "2GB"}, {f"QGGUF_{option.upper()}": "much"}
    by_variable = json.loads(qgguf(*run, home=tmp_path, **variable).stdout)
    by_option = json.loads(qgguf(*run, f"--{option}", "2GB", home=tmp_path, **wrong).stdout)
    assert by_variable == by_option and by_variable["budget"][f"{option}_bytes"] == 2_000_000_000


def test_an_embedder_obeys_the_ram_variable(minilm_q8: Path, monkeypatch: pytest.MonkeyPatch):
    """Too little RAM is refused with both numbers; the argument overrides the variable."""
    monkeypatch.setenv("QGGUF_RAM", "2MB")
    with pytest.raises(BudgetError, match=r"Nothing fits in 2MB of the host's memory: .* needs \d+MB"):
        Embedder(minilm_q8)
    with Embedder(minilm_q8, ram="2GB") as model:
        assert model.plan.ram_bytes <= 2_000_000_000


def test_an_embedder_obeys_the_vram_variable(minilm_q8: Path, monkeypatch: pytest.MonkeyPatch):
    """Also where there is no GPU: a wrong value is refused, the argument overrides it."""
    monkeypatch.setenv("QGGUF_VRAM", "3 gigs")
    with pytest.raises(OptionError, match="QGGUF_VRAM: '3 gigs'"):
        Embedder(minilm_q8)
    with Embedder(minilm_q8, vram="3GB", device="cpu") as model:
        assert model.plan.vram_bytes == 0


# The table


def test_the_table_has_every_variable_of_the_code():
    """No module reads a QGGUF variable that the table lacks, and the table has none that nothing reads."""
    sources = [path.read_text("utf-8") for path in (REPOSITORY / "qgguf").rglob("*.py")]
    read = {name for text in sources for name in re.findall(r'["$](QGGUF_[A-Z_]+)', text)}
    assert read == {variable.name for variable in VARIABLES if variable.name.startswith("QGGUF_")}


def test_the_table_is_complete():
    """Each variable is there once, with its meaning and default in words; only the token is secret."""
    assert len({variable.name for variable in VARIABLES}) == len(VARIABLES)
    assert all(variable.meaning and variable.default for variable in VARIABLES)
    assert [variable.name for variable in VARIABLES if variable.secret] == ["HF_TOKEN"]


@pytest.mark.parametrize("name", [variable.name for variable in VARIABLES if variable.name.startswith("QGGUF_")])
def test_every_variable_is_documented(name: str):
    """README or a page of docs/ explains it."""
    pages = [REPOSITORY / "README.md", *(REPOSITORY / "docs").rglob("*.md")]
    assert any(name in page.read_text("utf-8") for page in pages)
