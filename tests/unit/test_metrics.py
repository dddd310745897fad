"""The metrics against a plain whole-tensor formulation, and one test for every trap.

All of it in several passes, as it is done without numba, and in one.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from dataclasses import fields
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignkit.metrics import (
    chunks,
    compiled_loops,
    dtype_kind,
    error_histogram,
    measure,
    measure_error,
    one_pass,
    ulp,
)
from alignkit.metrics.kernel import add_chunk
from alignkit.metrics.ordering import bit_layout
from alignkit.records import Array, ErrorMetrics

FLOATS = ("float16", "bfloat16", "float32", "float64", "float8_e4m3fn", "float8_e5m2")
INTS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")
FAMILIES: dict[str, tuple[str, ...]] = {
    "float": FLOATS,
    "int": INTS,
    "bool": ("bool",),
    "complex": ("complex64", "complex128"),
}


WAYS = {"several passes": sys.maxsize, "one pass": 0}
IN_ANY_ORDER = {"mse", "rmse", "mean_abs", "cosine", "sqnr_db"}


@pytest.fixture(scope="module", autouse=True, params=WAYS)
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    """However small a tensor is, it is measured in that way."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(one_pass, "_LEAST", WAYS[request.param])
        yield request.param


def dtype_named(name: str) -> np.dtype[Any]:
    return np.dtype(getattr(ml_dtypes, name, name))


def array(name: str, *values: Any) -> Array:
    return np.array(values).astype(dtype_named(name))


def measured(
    reference: Any, candidate: Any, rtol: float = 0.0, atol: float = 0.0, **more: Any
) -> ErrorMetrics:
    return measure_error(np.asarray(reference), np.asarray(candidate), rtol=rtol, atol=atol, **more)


def oracle(reference: Array, candidate: Array, rtol: float, atol: float) -> dict[str, Any]:
    """Every figure from whole float64 copies (complex128), element by element where that is exact."""
    wide = np.complex128 if reference.dtype.kind == "c" else np.float64
    with np.errstate(all="ignore"):
        r, c = reference.astype(wide).ravel(), candidate.astype(wide).ravel()
        finite = np.isfinite(r) & np.isfinite(c)
        agree = (r == c) | (np.isnan(r) & np.isnan(c))
        error = np.abs(c - r)
        if dtype_kind(reference.dtype) in ("int", "bool"):
            pairs = zip(reference.ravel().tolist(), candidate.ravel().tolist(), strict=True)
            error = np.array([float(abs(int(y) - int(x))) for x, y in pairs])
        beyond = np.where(finite, error > atol + rtol * np.abs(r), ~agree)
        size = np.abs(r[finite])
        kept = error[finite]
        relative = kept[size > 0] / size[size > 0]
        dot = np.sum(r[finite] * np.conj(c[finite])).real
        r2, c2, d2 = np.sum(size**2), np.sum(np.abs(c[finite]) ** 2), np.sum(kept**2)
        norms = np.sqrt(r2) * np.sqrt(c2)
    has_sqnr = 0 < r2 < math.inf and 0 < d2 < math.inf
    mismatches = np.flatnonzero(~finite & ~agree)
    worst = None
    if mismatches.size:
        worst = int(mismatches[0])
    elif kept.size and kept.max() > 0:
        worst = int(np.argmax(np.where(finite, error, -1.0)))
    return {
        "mse": d2 / kept.size if kept.size else None,
        "rmse": math.sqrt(d2 / kept.size) if kept.size else None,
        "mean_abs": kept.mean() if kept.size else None,
        "max_abs": kept.max() if kept.size else None,
        "max_rel": relative.max() if relative.size else None,
        "scale": size.max() if size.size else 0.0,
        "cosine": dot / norms if 0 < norms < math.inf and math.isfinite(dot) else None,
        "sqnr_db": 10 * (math.log10(r2) - math.log10(d2)) if has_sqnr else None,
        "mismatched": beyond.mean() if r.size else 0.0,
        "nonfinite_mismatches": mismatches.size,
        "reference_nan": int(np.isnan(r).sum()),
        "candidate_nan": int(np.isnan(c).sum()),
        "reference_inf": int((np.isinf(r) & ~np.isnan(r)).sum()),
        "candidate_inf": int((np.isinf(c) & ~np.isnan(c)).sum()),
        "worst_index": None if worst is None else tuple(map(int, np.unravel_index(worst, reference.shape))),
    }


def require_equal(metrics: ErrorMetrics, expected: dict[str, Any]) -> None:
    for name, value in expected.items():
        found = getattr(metrics, name)
        if isinstance(value, float):
            # Cosine and SQNR are near a cancelling sum or on a logarithmic scale: also an absolute bound.
            slack = 1e-12 if name in ("cosine", "sqnr_db") else 0.0
            assert found == pytest.approx(value, rel=1e-12, abs=slack), name
        else:
            assert found == value, name


def ordered(value: float, dtype: np.dtype[Any]) -> int:
    """The place of a float in the order of its dtype, zero at 0, from its pattern alone."""
    width = 8 * dtype.itemsize
    bits = int(np.array(value).astype(dtype).view(f"u{dtype.itemsize}"))
    magnitude = bits & ((1 << (width - 1)) - 1)
    return -magnitude if bits >> (width - 1) else magnitude


@st.composite
def elements(draw: st.DrawFn, name: str, size: int) -> Array:
    """Values of one dtype with every kind of special element: any bit pattern is a legal value."""
    dtype = dtype_named(name)
    if name == "bool":
        return np.array(draw(st.lists(st.booleans(), min_size=size, max_size=size)), bool)
    patterns = np.frombuffer(
        draw(st.binary(min_size=size * dtype.itemsize, max_size=size * dtype.itemsize)), dtype
    )
    if dtype_kind(dtype) == "int":
        return patterns.copy()
    special = (0.0, -0.0, 1.0, -1.0, math.nan, math.inf, -math.inf, 1e-3, 240.0, 2.0**-9)
    chosen = draw(st.lists(st.sampled_from((*special, None, None)), min_size=size, max_size=size))
    values = patterns.copy()
    with np.errstate(all="ignore"):
        for place, value in enumerate(chosen):
            if value is not None:
                values[place] = dtype.type(value)
    return values


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Array, Array]:
    """Two arrays of one shape and kind, near each other in part, in any memory layout."""
    kind = draw(st.sampled_from(sorted(FAMILIES)))
    names = [draw(st.sampled_from(FAMILIES[kind])) for _ in range(2)]
    if draw(st.booleans()):
        names[1] = names[0]
    shape = tuple(draw(st.lists(st.integers(0, 5), max_size=3)))
    size = math.prod(shape)
    reference, candidate = (draw(elements(name, size)) for name in names)
    same = np.array(draw(st.lists(st.booleans(), min_size=size, max_size=size)), bool)
    with np.errstate(all="ignore"):
        candidate[same] = reference[same].astype(candidate.dtype)
    left, right = reference.reshape(shape), candidate.reshape(shape)
    layout = draw(st.sampled_from(("plain", "transposed", "strided", "reversed", "big-endian")))
    if layout == "transposed":
        left = left.T.copy().T
    elif layout == "strided":
        right = np.repeat(right[..., None], 2, axis=-1)[..., 0]
    elif layout == "reversed" and shape:
        left, right = left[::-1], right[::-1]
    elif layout == "big-endian" and left.dtype.kind in "fiuc":
        left = left.astype(left.dtype.newbyteorder(">"))
    return left, right


@settings(max_examples=300, deadline=None)
@given(pairs(), st.sampled_from((0.0, 1e-6, 1e-2, 0.5, 2.0)), st.sampled_from((0.0, 1e-8, 1e-3, 1.0)))
def test_agrees_with_the_plain_formulation(pair: tuple[Array, Array], rtol: float, atol: float) -> None:
    """For all dtypes, layouts and special values, every figure is that of the whole-tensor formulae."""
    require_equal(measure_error(*pair, rtol=rtol, atol=atol), oracle(*pair, rtol, atol))


@settings(max_examples=200, deadline=None)
@given(st.data(), st.sampled_from(FLOATS))
def test_ulp_distance_is_the_difference_of_places(data: st.DataObject, name: str) -> None:
    """ulp_max is the distance of places in the order of all floats, across zero and for subnormals too."""
    size = data.draw(st.integers(1, 40))
    reference, candidate = (data.draw(elements(name, size)) for _ in range(2))
    with np.errstate(invalid="ignore"):  # a signalling NaN
        r, c = reference.astype(np.float64), candidate.astype(np.float64)
    finite = np.isfinite(r) & np.isfinite(c)
    steps = [abs(ordered(y, c_.dtype) - ordered(x, c_.dtype))
             for x, y, c_ in zip(r[finite], c[finite], candidate[finite], strict=True)]  # fmt: skip
    assert measured(reference, candidate).ulp_max == (max(steps) if steps else None)


@pytest.mark.parametrize("name", ["float32", "float64", "float16", "bfloat16", "int64", "complex64", "uint8"])
@pytest.mark.parametrize("noise", [0.0, 1e-6, 1e-2, 3.0])
def test_many_chunks_agree_with_the_plain_formulation(name: str, noise: float) -> None:
    """The same holds over several chunks and a rest, with zeros, whether few elements differ or all."""
    rng = np.random.default_rng(7)
    size = 2 * chunks.CHUNK + 12345
    values = rng.standard_normal(size) * 30 + 60
    values[::7] = 0.0
    moved = values + noise * rng.standard_normal(size)
    pair = values.astype(dtype_named(name)), moved.astype(dtype_named(name))
    for rtol, atol in ((0.0, 0.0), (1e-5, 1e-8), (1e-5, 0.0), (0.0, 1e-3), (1e-2, 1e-3)):
        require_equal(measure_error(*pair, rtol=rtol, atol=atol), oracle(*pair, rtol, atol))


@pytest.mark.parametrize("name", ["float32", "float16", "float64"])
def test_ulp_distance_over_chunks(name: str) -> None:
    """Few sign changes and many sign changes, which are counted in two ways, give the same distance."""
    rng = np.random.default_rng(3)
    dtype = dtype_named(name)
    reference = rng.standard_normal(5000).astype(dtype)
    for candidate in (reference * dtype.type(1.01), np.roll(reference, 1), reference + dtype.type(1e-3)):
        places = [[ordered(float(x), dtype) for x in side] for side in (reference, candidate)]
        expected = max(abs(x - y) for x, y in zip(*places, strict=True))
        assert measured(reference, candidate).ulp_max == expected


def test_records_in_later_chunks_are_found() -> None:
    """The largest relative error and ULP distance count wherever they lie, however close the runners-up."""
    reference = np.ones(4 * chunks.CHUNK, np.float32)
    candidate = reference * np.float32(1.5)
    candidate[1::2] = 1.0
    for place, value in (
        (chunks.CHUNK, 1.5000001),
        (2 * chunks.CHUNK + 2, 1.5000002),
        (3 * chunks.CHUNK, 1e-3),
    ):
        candidate[place] = value
    metrics = measured(reference, candidate)
    assert metrics.max_rel == float(np.float32(1e-3)) * -1 + 1
    assert metrics.ulp_max == ordered(1.0, candidate.dtype) - ordered(1e-3, candidate.dtype)
    candidate[3 * chunks.CHUNK] = 1.0
    assert measured(reference, candidate).max_rel == float(np.float32(1.5000002)) - 1


def test_relative_errors_beyond_float32_are_ordered() -> None:
    """Of relative errors too large for float32, in several chunks, the largest is found."""
    reference = np.ones(2 * chunks.CHUNK, np.float32)
    candidate = 2 * reference
    reference[[3, -1]] = tiny = np.float32(1e-45)
    candidate[3], candidate[-1] = 1.0, 2.0
    assert measured(reference, candidate).max_rel == pytest.approx(2.0 / float(tiny), rel=1e-12)


def test_close_floats_are_few_steps_apart() -> None:
    """The bound on which the search for ULP distances relies holds on both sides of every power of two."""
    for name in ("float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"):
        dtype = dtype_named(name)
        layout = bit_layout(dtype, dtype)
        assert layout is not None
        unsigned = np.arange(layout.sign, dtype=layout.unsigned)
        with np.errstate(all="ignore"):
            values = unsigned.view(dtype).astype(np.float64)
        finite = values[np.isfinite(values) & (values > 0)]
        for reference in (finite, (finite[:-1] + finite[1:]) * 0.5):  # also where both sides are rounded
            places = reference.astype(dtype).view(layout.unsigned).astype(int)
            for steps in (0, 1, 2, 3, 4, 7, 20, 300, 5000):
                close = layout.closest(steps)
                for factor in (1 - close, 1 + close):
                    with np.errstate(over="ignore"):
                        others = (reference * factor).astype(dtype).view(layout.unsigned).astype(int)
                    assert np.abs(others - places).max() <= steps


@pytest.mark.parametrize(
    "name", ["float32", "float64", "float16", "bfloat16", "int32", "int64", "uint8", "bool"]
)
def test_one_pass_and_several_say_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the last bit, but for sums; with numba installed these dtypes do go through its loops."""
    dtype = dtype_named(name)
    assert one_pass.adder_for(dtype, dtype, sys.maxsize) is not add_chunk
    rng = np.random.default_rng(5)
    values = rng.standard_normal(chunks.CHUNK + 999) * 100
    moved = values + rng.standard_normal(values.size)
    cut = np.maximum(values, 0.0), np.maximum(moved, 0.0)  # as behind a ReLU; of bool, not all are True
    reference, candidate = (side.astype(dtype) for side in cut)
    found = []
    for least in WAYS.values():
        monkeypatch.setattr(one_pass, "_LEAST", least)
        found.append(measured(reference, candidate, rtol=1e-3, atol=1e-3))
    for field in fields(ErrorMetrics):
        several, one = (getattr(metrics, field.name) for metrics in found)
        assert one == (pytest.approx(several, rel=1e-12) if field.name in IN_ANY_ORDER else several), (
            field.name
        )


def test_without_numba_there_are_several_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an extra: where it cannot be loaded, or has no place for what it compiles, numpy does it all."""
    remembered = one_pass._load_compiled, one_pass._loops_for
    monkeypatch.delattr("alignkit.metrics.compiled", raising=False)
    monkeypatch.setitem(sys.modules, "alignkit.metrics.compiled", None)
    for function in remembered:
        function.cache_clear()
    try:
        assert one_pass.adder_for(np.dtype("f4"), np.dtype("f4"), sys.maxsize) is add_chunk
        assert one_pass.compiled_for(sys.maxsize) is None
    finally:
        for function in remembered:
            function.cache_clear()


def test_where_memory_is_short_numba_is_left_alone() -> None:
    """Its own code would take more than many a budget."""
    single = np.dtype("f4")
    with compiled_loops(wanted=False):
        assert one_pass.adder_for(single, single, sys.maxsize) is add_chunk
        assert one_pass.compiled_for(sys.maxsize) is None
    assert one_pass.adder_for(single, single, sys.maxsize) is not add_chunk


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_every_short_float_is_widened(name: str) -> None:
    """Each finite value, normal or not, of either sign, against zero and against its own negative."""
    values = np.arange(2**16, dtype=np.uint16).view(dtype_named(name))
    with np.errstate(invalid="ignore"):  # a signalling NaN
        finite = values[np.isfinite(values.astype(np.float64))]
    for candidate in (np.zeros_like(finite), -finite):
        for each in (slice(None), slice(0, 200), slice(finite.size // 2, finite.size // 2 + 200)):
            pair = finite[each], candidate[each]
            require_equal(measure_error(*pair, rtol=0.0, atol=0.0), oracle(*pair, 0.0, 0.0))


def test_what_one_process_compiled_the_next_one_finds(tmp_path: Path) -> None:
    """Or each would compile for a second what takes a fraction of one."""
    pytest.importorskip("numba")
    code = (
        "import numpy as np; from alignkit.metrics import compiled as c; pairs = np.zeros((2, 64));"
        "views = {'': 'f4', 'float16': 'i2', 'bfloat16': 'i2'};"
        "[c.SURVEYS[n](*pairs.astype(d), 0.0, 0.0, 0.0) for n, d in views.items()];"
        "print(sum(sum(s.stats.cache_misses.values()) for s in c.SURVEYS.values()))"
    )
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    runs = [
        subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
        )
        for _ in range(2)
    ]
    assert [int(run.stdout) for run in runs] == [3, 0]


@pytest.mark.parametrize("name", ["int4", "uint4"])
def test_integers_that_numpy_does_not_know_are_measured(name: str) -> None:
    """There is no loop for them."""
    dtype = getattr(ml_dtypes, name)
    reference = (np.arange(2**15) % 7).astype(dtype)
    candidate = reference.copy()
    candidate[5] = 0
    assert measure_error(reference, candidate, rtol=0.0, atol=0.0).max_abs == 5.0


def test_halves_are_widened_without_the_processors_help() -> None:
    """Every pattern there is, bit for bit as numpy widens it, on a machine that knows no float16."""
    numba = pytest.importorskip("numba")
    compiled = pytest.importorskip("alignkit.metrics.compiled")
    patterns = np.arange(-(2**15), 2**15).astype(np.int16)
    with np.errstate(invalid="ignore"):  # a signalling NaN
        expected = patterns.view(np.float16).astype(np.float32)
    found = numba.njit(compiled._widen_half)(patterns, np.empty(patterns.size, np.float32))
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(np.signbit(found), np.signbit(expected))


def test_first_of_equal_errors_is_the_worst() -> None:
    """Equal errors in the spans of two threads: the first one is named."""
    reference = np.zeros(8 * chunks.CHUNK, np.float32)
    candidate = reference.copy()
    candidate[[chunks.CHUNK + 1, 7 * chunks.CHUNK]] = 2.0, -2.0
    for threads in (1, 2):
        assert measured(reference, candidate, threads=threads).worst_index == (chunks.CHUNK + 1,)


@pytest.mark.parametrize("name", ["float32", "bfloat16", "int64", "complex64"])
def test_result_does_not_depend_on_threads(name: str) -> None:
    """Every figure, bit for bit, is the same for any number of threads."""
    rng = np.random.default_rng(1)
    reference = (rng.standard_normal(chunks.CHUNK * 13 + 5) * 100).astype(dtype_named(name))
    candidate = reference.copy()
    candidate[chunks.CHUNK * 3 :: 1000] = 0
    candidate[[chunks.CHUNK * 2, chunks.CHUNK * 9, -1]] = reference[0] = 1000
    results = {measured(reference, candidate, rtol=1e-5, threads=threads) for threads in (1, 2, 3, 64)}
    assert len(results) == 1


def test_first_nonfinite_mismatch_is_the_worst_for_any_number_of_threads() -> None:
    """Of two infinities in the candidate the first is named, although a thread each finds one."""
    reference = np.ones(chunks.CHUNK * 8, np.float32)
    candidate = reference.copy()
    candidate[[chunks.CHUNK * 2 + 3, chunks.CHUNK * 7]] = np.inf
    for threads in (1, 2):
        metrics = measured(reference, candidate, threads=threads)
        assert metrics.worst_index == (chunks.CHUNK * 2 + 3,)
        assert (metrics.worst_reference, metrics.worst_candidate) == (1.0, math.inf)
        assert metrics.nonfinite_mismatches == metrics.candidate_inf == 2


def test_mse_is_the_mean_of_squares() -> None:
    """Errors of +1 and -1 have the mean square 1, although the square of their mean is 0."""
    metrics = measured([0.0, 0.0], [1.0, -1.0])
    assert metrics.mse == 1.0
    assert metrics.rmse == 1.0


def test_float16_does_not_overflow() -> None:
    """A difference beyond the float16 range, and its square, are taken in float64."""
    metrics = measured(array("float16", -60000.0), array("float16", 60000.0))
    assert metrics.max_abs == 120000.0
    assert metrics.mse == 120000.0**2


def test_float32_extremes_do_not_overflow() -> None:
    """The largest float32 against its negative, and relative errors beyond float32, are exact."""
    top, tiny = float(np.finfo(np.float32).max), float(np.float32(1e-45))
    metrics = measured(array("float32", top, tiny, tiny), array("float32", -top, 1.0, top))
    assert metrics.max_abs == 2 * top
    assert metrics.max_rel == (top - tiny) / tiny


def test_uint8_does_not_wrap() -> None:
    """1 - 2 differs by one, not by 255."""
    metrics = measured(array("uint8", 2), array("uint8", 1))
    assert metrics.max_abs == metrics.mse == 1.0


@pytest.mark.parametrize(
    ("dtype", "reference", "candidate"),
    [
        ("int64", 2**63 - 1, 2**63 - 2),
        ("int64", 2**53, 2**53 + 1),
        ("int64", -(2**63), 2**63 - 1),
        ("uint64", 2**64 - 1, 2**64 - 2),
        ("uint64", 0, 2**64 - 1),
    ],
)
def test_wide_integers_are_exact(dtype: str, reference: int, candidate: int) -> None:
    """Neighbours above 2**53 differ by one, and the widest differences do not wrap around."""
    metrics = measured(np.array([reference], dtype), np.array([candidate], dtype))
    assert metrics.max_abs == float(abs(Fraction(candidate) - Fraction(reference)))
    assert metrics.mismatched == 1.0
    assert (metrics.worst_reference, metrics.worst_candidate) == (reference, candidate)
    assert metrics.ulp_max is None


def test_signed_against_unsigned_is_exact() -> None:
    """int64 against uint64 has no common numpy integer, but an exact difference."""
    assert measured(array("int64", -1), array("uint64", 2**64 - 1)).max_abs == 2.0**64
    assert measured(array("int8", -1), array("uint64", 2**63)).max_abs == float(2**63 + 1)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "complex64"])
def test_nonfinite_rules(dtype: str) -> None:
    """Equal NaNs and infinities agree; one-sided or opposite ones mismatch and touch no other figure."""
    nan, inf = math.nan, math.inf
    reference = array(dtype, nan, inf, -inf, nan, inf, inf, 1.0, 2.0)
    candidate = array(dtype, nan, inf, -inf, 1.0, 1.0, -inf, inf, 2.5)
    metrics = measured(reference, candidate, rtol=1.0)
    assert metrics.nonfinite_mismatches == 4
    assert metrics.mismatched == 0.5
    assert metrics.worst_index == (3,)
    assert (metrics.reference_nan, metrics.reference_inf) == (2, 4)
    assert (metrics.candidate_nan, metrics.candidate_inf) == (1, 4)
    assert metrics.mse == 0.25
    assert metrics.max_abs == metrics.mean_abs == 0.5
    assert metrics.scale == 2.0


def test_nan_on_both_sides_is_aligned() -> None:
    """Tensors that are NaN all over agree, and have no averages."""
    metrics = measured(np.full(3, np.nan), np.full(3, np.nan))
    assert metrics.mismatched == 0.0
    assert (metrics.mse, metrics.max_abs, metrics.ulp_max, metrics.worst_index) == (None, None, None, None)


def test_bfloat16_is_up_cast() -> None:
    """bfloat16, which numpy does not know, is subtracted in float64 and counted in its own ULPs."""
    metrics = measured(array("bfloat16", 1.0), array("bfloat16", 1.0078125))
    assert metrics.max_abs == 2.0**-7
    assert metrics.ulp_max == 1
    assert (metrics.worst_reference, metrics.worst_candidate) == (1.0, 1.0078125)


def test_ulp_distance_is_taken_in_the_coarser_dtype() -> None:
    """float16 against float32 counts float16 steps, in either order."""
    coarse, fine = array("float16", 1.0), array("float32", 1.0 + 2.0**-9)
    assert measured(coarse, fine).ulp_max == measured(fine, coarse).ulp_max == 2


@pytest.mark.parametrize("name", FLOATS)
def test_ulp_distance_across_zero(name: str) -> None:
    """The smallest positive and negative values are two apart, and the zeros are one place."""
    dtype = dtype_named(name)
    tiny = ulp(0.0, dtype)
    assert measured(array(name, tiny), array(name, -tiny)).ulp_max == 2
    assert measured(array(name, 0.0), array(name, -0.0)).ulp_max == 0
    one = ordered(1.0, dtype)
    assert measured(array(name, 1.0), array(name, -1.0)).ulp_max == 2 * one


def test_formats_without_ordered_patterns_have_no_ulp_distance() -> None:
    """Where -0 is NaN, or there is no sign, or a byte is not filled, no distance is made up."""
    for name in ("float8_e4m3fnuz", "float8_e8m0fnu", "float4_e2m1fn"):
        values = array(name, 1.0, 2.0)
        metrics = measured(values, values[::-1])
        assert metrics.ulp_max is None
        assert metrics.max_abs == 1.0


def test_complex_error_is_the_modulus() -> None:
    """3 + 4i away is 5 away, and a rotation by 90 degrees has cosine 0."""
    metrics = measured(array("complex64", 1j), array("complex64", 3 + 5j))
    assert (metrics.max_abs, metrics.mse, metrics.max_rel, metrics.ulp_max) == (5.0, 25.0, 5.0, None)
    assert metrics.worst_candidate == "(3+5j)"
    assert measured(array("complex64", 1), array("complex64", 1j)).cosine == 0.0


def test_bool_counts_differences() -> None:
    """True and False are 1 and 0, and come back as bool."""
    metrics = measured([True, True, False, False], [True, False, False, True])
    assert (metrics.mismatched, metrics.mse, metrics.max_abs) == (0.5, 0.5, 1.0)
    assert (metrics.worst_index, metrics.worst_reference, metrics.worst_candidate) == ((1,), True, False)


def test_scalars_and_empty_tensors() -> None:
    """A 0-d tensor has the index (); an empty one has no figures, and nothing is mismatched."""
    assert measured(np.float32(1.0), np.float32(2.0)).worst_index == ()
    empty = measured(np.zeros((2, 0)), np.zeros((2, 0)))
    assert (empty.size, empty.mse, empty.max_abs, empty.mismatched, empty.scale) == (0, None, None, 0.0, 0.0)


def test_undefined_figures_are_none() -> None:
    """Equal tensors have no SQNR and no worst element, a zero vector no cosine and no relative error."""
    equal = measured([1.0, 2.0], [1.0, 2.0])
    assert (equal.sqnr_db, equal.worst_index, equal.max_rel) == (None, None, 0.0)
    assert equal.cosine == pytest.approx(1.0, rel=1e-15)
    zero = measured([0.0, 0.0], [1.0, 2.0])
    assert (zero.sqnr_db, zero.cosine, zero.max_rel, zero.scale) == (None, None, None, 0.0)


def test_sqnr_and_cosine_by_hand() -> None:
    """A tenth of the signal's amplitude is 20 dB below it; a right angle has cosine 0."""
    assert measured([10.0, 0.0], [11.0, 0.0]).sqnr_db == pytest.approx(20.0, rel=1e-14)
    assert measured([1.0, 0.0], [0.0, 1.0]).cosine == 0.0


@pytest.mark.parametrize("shapes", [((2, 3), (3,)), ((2, 3), (3, 2)), ((1,), ()), ((4,), (1,))])
def test_shapes_are_never_broadcast(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    """Different shapes are refused even where numpy would broadcast them or the sizes agree."""
    with pytest.raises(ValueError, match="shapes differ"):
        measured(np.zeros(shapes[0]), np.zeros(shapes[1]))
    with pytest.raises(ValueError, match="shapes differ"):
        error_histogram("tap", np.zeros(shapes[0]), np.zeros(shapes[1]))


@pytest.mark.parametrize("candidate", [np.zeros(2, np.int64), np.zeros(2, bool), np.zeros(2, np.complex64)])
def test_kinds_are_never_mixed(candidate: Array) -> None:
    """A float is not compared with an integer, a bool or a complex number."""
    with pytest.raises(ValueError, match="kinds of dtype differ"):
        measured(np.zeros(2, np.float32), candidate)


def test_bad_arguments_are_refused() -> None:
    """Text has no error; a tolerance is finite and not negative; there is at least one thread."""
    with pytest.raises(ValueError, match="not numbers"):
        measured(["a"], ["b"])
    for bad in (math.nan, math.inf, -1e-9):
        with pytest.raises(ValueError, match="rtol"):
            measured([1.0], [1.0], rtol=bad)
        with pytest.raises(ValueError, match="atol"):
            measure_error(np.ones(1), np.ones(1), rtol=0.0, atol=bad)
    with pytest.raises(ValueError, match="threads"):
        measured([1.0], [1.0], threads=0)


def test_inputs_are_left_as_they_are() -> None:
    """Measuring writes to neither side, also where non-finite elements are set aside."""
    reference, candidate = array("float32", 1, np.nan, 3, np.inf), array("float32", 1, 2, 4, np.inf)
    copies = reference.tobytes(), candidate.tobytes()
    reference.flags.writeable = candidate.flags.writeable = False
    measured(reference, candidate)
    assert (reference.tobytes(), candidate.tobytes()) == copies


@pytest.mark.parametrize("layout", ["contiguous", "transposed", "with NaN"])
def test_memory_stays_small(layout: str) -> None:
    """Measuring 64 MiB allocates less than 6 MiB: no whole copy, in any layout."""
    reference = np.ones((4096, 2048), np.float32)
    candidate = reference + np.float32(1e-3)
    if layout == "transposed":
        candidate = candidate.reshape(2048, 4096).T
    if layout == "with NaN":
        candidate[:, 0] = np.nan
    measured(reference[:1], candidate[:1])  # what is loaded and compiled once does not count
    tracemalloc.start()
    try:
        measure_error(reference, candidate, rtol=1e-5, atol=1e-8)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 6 * 2**20


def test_metrics_load_neither_torch_nor_onnx() -> None:
    """numpy alone is enough to measure; ml_dtypes only comes with such an array."""
    code = (
        "import sys, types; package = types.ModuleType('alignkit'); package.__path__ = [sys.argv[1]];"
        "sys.modules['alignkit'] = package; import numpy, alignkit.metrics as m;"
        "m.measure_error(numpy.ones(3), numpy.zeros(3), rtol=0, atol=0); m.ulp(1.0, 'float16');"
        "print({'torch', 'onnx', 'ml_dtypes'} & set(sys.modules))"
    )
    package = str(measure.__file__).rsplit("metrics", 1)[0]
    done = subprocess.run([sys.executable, "-c", code, package], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@settings(max_examples=100, deadline=None)
@given(pairs())
def test_histogram_counts_every_finite_error(pair: tuple[Array, Array]) -> None:
    """Each finite element is in the bin whose edges hold its error, or among the zeros."""
    histogram = error_histogram("tap", *pair)
    wide = np.complex128 if pair[0].dtype.kind == "c" else np.float64
    with np.errstate(all="ignore"):
        r, c = (side.astype(wide).ravel() for side in pair)
        finite = np.isfinite(r) & np.isfinite(c)
        error = np.abs(c - r)
        if dtype_kind(pair[0].dtype) == "int":
            both = zip(pair[0].ravel().tolist(), pair[1].ravel().tolist(), strict=True)
            error = np.array([float(abs(y - x)) for x, y in both])
        limits = 10.0 ** np.array(histogram.edges)
    error = error[finite]
    assert histogram.zeros == np.count_nonzero(error == 0)
    assert len(histogram.counts) == max(0, len(histogram.edges) - 1)
    expected = [
        np.count_nonzero((error >= low) & ((error < high) | np.isinf(high))) for low, high in pairwise(limits)
    ]
    assert list(histogram.counts) == expected
    assert sum(histogram.counts) + histogram.zeros == error.size


def test_histogram_edges() -> None:
    """An error on an edge counts above it, over all chunks; equal tensors have no bins."""
    size = chunks.CHUNK + 10
    reference, candidate = np.zeros(size), np.zeros(size)
    candidate[:3], candidate[-2:] = 1e-3, -0.5
    histogram = error_histogram("tap", reference, candidate)
    assert histogram.tap == "tap"
    assert histogram.edges[0] == -3.0
    assert histogram.edges[-1] == 0.0
    assert histogram.counts == (3, 0, 0, 0, 0, 2)
    assert histogram.zeros == size - 5
    for exponent in range(-300, 300):
        edge = 10.0 ** (exponent / 2)
        pair = np.zeros(2), np.array([edge, np.nextafter(edge, 0.0)])
        assert error_histogram("tap", *pair).edges == ((exponent - 1) / 2, exponent / 2, (exponent + 1) / 2)
    equal = error_histogram("tap", reference, reference)
    assert (equal.edges, equal.counts, equal.zeros) == ((), (), size)


@pytest.mark.parametrize("name", ["float16", "float32", "float64"])
def test_ulp_is_numpys_spacing(name: str) -> None:
    """Where numpy knows the dtype its spacing is the reference, subnormals and powers of two included."""
    dtype = np.dtype(name)
    info = np.finfo(dtype)
    for value in (
        0.0,
        1.0,
        0.9999,
        3.7,
        1e-3,
        float(info.smallest_normal),
        float(info.smallest_subnormal) * 5,
    ):
        place = dtype.type(value)
        assert ulp(float(place), dtype) == float(np.spacing(place)), value
    assert ulp(-3.7, name) == ulp(3.7, dtype)
    assert ulp(math.inf, dtype) == ulp(float(info.max), dtype) > 0
    assert math.isnan(ulp(math.nan, dtype))


def test_ulp_of_other_dtypes() -> None:
    """ml_dtypes by name or dtype, complex by its components, none for dtypes that are not floating."""
    assert ulp(1.0, "bfloat16") == ulp(1.0, ml_dtypes.bfloat16) == 2.0**-7
    assert ulp(300.0, "float8_e4m3fn") == 32.0
    assert ulp(0.0, "float8_e5m2") == 2.0**-16
    assert ulp(1.0, "complex64") == ulp(1.0, "float32")
    assert ulp(1.0, "int32") == ulp(1.0, "bool") == ulp(1.0, "uint4") == 0.0
    with pytest.raises(TypeError):
        ulp(1.0, "float99")


@pytest.mark.parametrize("kind", sorted(FAMILIES))
def test_kinds(kind: str) -> None:
    """Every dtype, given by name or as such, has its kind."""
    for name in (*FAMILIES[kind], *(("int4", "uint4") if kind == "int" else ())):
        assert dtype_kind(name) == dtype_kind(dtype_named(name)) == kind


def test_other_kinds() -> None:
    """Text, objects, dates and records are no numbers."""
    for dtype in ("U3", "O", "M8[s]", [("field", "f4")], "V2"):
        assert dtype_kind(np.dtype(dtype)) == "other"
