"""QGGUF_DEVICE and QGGUF_THREADS: where an argument says nothing they do, and wrong values are one line."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qgguf.errors import OptionError
from qgguf.settings import DEVICES, MOST_THREADS, device_setting, threads_setting
from tests.support.processes import qgguf


def test_the_argument_wins():
    """Argument, then variable, then the default; an empty variable is an unset one."""
    assert device_setting("cpu", {"QGGUF_DEVICE": "gpu"}) == "cpu"
    assert device_setting(None, {"QGGUF_DEVICE": "gpu"}) == "gpu"
    assert device_setting(None, {}) == device_setting(None, {"QGGUF_DEVICE": ""}) == "auto"
    assert threads_setting(3, {"QGGUF_THREADS": "5"}) == 3
    assert threads_setting(None, {"QGGUF_THREADS": " 5 "}) == 5
    assert threads_setting(None, {}) is threads_setting(None, {"QGGUF_THREADS": ""}) is None


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_other_text_is_refused_naming_the_variable(text: str):
    """One line with the variable, what it says, and what there is."""
    if text and text not in DEVICES:
        with pytest.raises(OptionError, match=r"QGGUF_DEVICE=.*auto, cpu, gpu and cuda") as refused:
            device_setting(None, {"QGGUF_DEVICE": text})
        assert "\n" not in str(refused.value)
    try:
        number = threads_setting(None, {"QGGUF_THREADS": text})
    except OptionError as error:
        assert "QGGUF_THREADS=" in str(error) and "\n" not in str(error)
    else:
        assert number is None if not text.strip() else number == int(text) and 1 <= number <= MOST_THREADS


@pytest.mark.parametrize("wrong", [0, -1, MOST_THREADS + 1, True, 2.0, "4"])
def test_wrong_arguments_are_refused(wrong: object):
    """Over 512 threads llama.cpp would write past its arrays."""
    with pytest.raises(OptionError, match="threads="):
        threads_setting(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("command", [["embed", "é"], ["similarity", "é", "한"]])
@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("QGGUF_DEVICE", "tpu", "QGGUF_DEVICE='tpu'; there are auto, cpu, gpu and cuda"),
        ("QGGUF_THREADS", "½", "QGGUF_THREADS='½'; a whole number from 1 to 512"),
    ],
)
def test_a_wrong_variable_is_one_line(command: list[str], name: str, value: str, says: str, tmp_path: Path):
    """Exit code 1, nothing on stdout, no model looked for."""
    done = qgguf(*command, home=tmp_path, **{name: value})
    shown = done.stderr.decode()
    assert (done.returncode, done.stdout) == (1, b"") and shown.startswith(f"Error: {says}")
    assert len(shown.splitlines()) == 1


def test_the_command_line_honours_them(minilm_q8: Path, tmp_path: Path):
    """QGGUF_DEVICE=cpu runs on the CPU as asked; an option overrides a wrong variable."""
    done = qgguf("-v", "embed", "é", "-m", str(minilm_q8), home=tmp_path, QGGUF_DEVICE="cpu", QGGUF_THREADS="1")
    assert done.returncode == 0 and b"Running on CPU" in done.stderr and b": as asked." in done.stderr
    assert qgguf("embed", "é", "-m", str(minilm_q8), "--device", "cpu", home=tmp_path, QGGUF_DEVICE="x").returncode == 0
