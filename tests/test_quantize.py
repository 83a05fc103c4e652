"""Conversion of rows by ggml: checks for finite values, and errors instead of aborts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qgguf.errors import NativeError
from qgguf.gguf_format.tensors import TYPE_IDS, row_bytes
from qgguf.native import binding, quantize
from qgguf.native.quantize import BF16, F16, F32, is_finite, quantize_rows
from tests.support.checkpoints import bf16


def raw(type_id: int, values: np.ndarray) -> np.ndarray:
    """Return numbers as they are stored, as bytes."""
    stored = {
        F32: lambda: values.astype(np.float32),
        F16: lambda: values.astype(np.float16),
        BF16: lambda: bf16(values),
    }
    return np.ascontiguousarray(stored[type_id]()).view(np.uint8).ravel()


@given(st.lists(st.floats(width=16), max_size=40), st.sampled_from([F32, F16]))
def test_is_finite_agrees_with_numpy(values: list[float], type_id: int):
    """It does for any mixture of signs, zeros, NaN and infinities."""
    numbers = np.array(values, np.float32)
    assert is_finite(type_id, raw(type_id, numbers)) == bool(np.isfinite(numbers).all())


@pytest.mark.parametrize("type_id", [F32, F16, BF16])
@pytest.mark.parametrize("bad", [0x7F80_0000, 0xFF80_0000, 0x7FC0_0000, 0xFFC0_0000])
def test_one_bad_number_is_detected(type_id: int, bad: int):
    """NaN or infinity of either sign is detected among negative numbers only and among positive numbers only."""
    for others in (-1.5, 1.5):
        numbers = np.full(100, others, np.float32)
        assert is_finite(type_id, raw(type_id, numbers))
        numbers.view(np.uint32)[57] = bad
        bits = {F32: numbers, BF16: numbers.view(np.uint16)[1::2], F16: numbers.astype(np.float16)}[type_id]
        assert not is_finite(type_id, np.ascontiguousarray(bits).view(np.uint8))


@pytest.mark.parametrize("type_id", [F16, BF16])
def test_same_type_is_copied_bit_by_bit(type_id: int):
    """So are subnormal numbers, which a conversion through float32 may set to zero."""
    source = np.arange(0, 0x7000, dtype=np.uint16).view(np.uint8)
    target = np.empty_like(source)
    assert quantize_rows(type_id, source, 0x7000, type_id, target, np.empty(0x7000, np.float32))
    assert np.array_equal(source, target)


@pytest.mark.parametrize("target", ["Q8_0", "Q4_K", "F16", "IQ4_NL"])
def test_number_of_rows_at_once_has_no_influence(target: str):
    """The bytes are equal for buffers of 1, 3 and 100 rows."""
    rows, columns, type_id = 7, 512, TYPE_IDS[target]
    source = raw(BF16, np.random.default_rng(0).standard_normal((rows, columns)).astype(np.float32))
    made = []
    for rows_at_once in (1, 3, 100):
        out = np.empty(rows * row_bytes(type_id, columns), np.uint8)
        assert quantize_rows(BF16, source, columns, type_id, out, np.empty(rows_at_once * columns, np.float32))
        made.append(out)
    assert np.array_equal(made[0], made[1]) and np.array_equal(made[0], made[2])


def test_fast_conversion_to_f16_equals_the_slow_one(monkeypatch: pytest.MonkeyPatch):
    """Both give the same bits for each BF16 number, each half and numbers near the middle of two halves."""
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float64)
    middles = (halves[1:] + halves[:-1]) / 2
    every = (np.arange(1 << 16, dtype=np.uint32) << 16).view(np.float32)
    numbers = np.concatenate([every[np.isfinite(every)], *(middles * (1 + d) for d in (-1e-7, 0, 1e-7))])
    source = raw(F32, np.concatenate([numbers, -numbers]))
    made = []
    for has_fast in (True, False):
        if not has_fast:
            monkeypatch.setattr(binding, "ggml_cpu", lambda: None)
        quantize._functions.cache_clear()
        out = np.empty(source.nbytes // 2, np.uint8)
        quantize_rows(F32, source, out.nbytes // 2, F16, out, np.empty(out.nbytes // 2, np.float32))
        made.append(out)
    quantize._functions.cache_clear()
    assert np.array_equal(made[0], made[1])


def test_number_too_large_for_the_type_is_detected():
    """100000 is infinity in F16 and finite in BF16."""
    source, out = raw(F32, np.full(32, 1e5, np.float32)), np.empty(64, np.uint8)
    assert not quantize_rows(F32, source, 32, F16, out, np.empty(32, np.float32))
    assert quantize_rows(F32, source, 32, BF16, out, np.empty(32, np.float32))


@pytest.mark.parametrize(("columns", "room"), [(100, 1000), (512, 10)])
def test_unfit_rows_and_targets_are_refused(columns: int, room: int):
    """ggml would abort on rows that are no multiple of a block; a target that is too small would be overrun."""
    with pytest.raises(NativeError):
        quantize_rows(
            F32,
            np.zeros(columns * 4, np.uint8),
            columns,
            TYPE_IDS["Q4_K"],
            np.empty(room, np.uint8),
            np.empty(columns, np.float32),
        )
