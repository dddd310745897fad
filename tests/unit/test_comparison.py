"""Compare: a verdict for every tap of either side, joined by name only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from alignkit.comparison import (
    NoiseFloors,
    coarser_dtype,
    compare_captures,
    compare_outputs,
    measure_coverage,
)
from alignkit.measuring import measure_candidate
from alignkit.records import (
    ROOT,
    Array,
    Candidate,
    Capture,
    LayerRow,
    Noise,
    OutputRow,
    Tap,
    TapId,
    Verdict,
)
from alignkit.tolerance import Tolerances
from tests.captures import capture_of

NO_NOISE = NoiseFloors({}, {}, "not measured")
Values = Mapping[str, Any]


def f32(*values: float) -> Array:
    return np.array(values, np.float32)


def captured(values: Values, untapped: Mapping[str, str] | None = None, outputs: Any = ()) -> Capture:
    untapped = untapped or {}
    taps = {name: Tap(TapId.parse(name), "Linear") for name in (*values, *untapped)}
    return capture_of(values, taps, untapped, tuple(outputs))


def ran(values: Values, absent: Mapping[str, str] | None = None, **more: Any) -> Candidate:
    return Candidate(values, absent or {}, {name: f"value_of_{name}" for name in values}, **more)


def rows_of(
    reference: Capture,
    introduced: Candidate,
    propagated: Candidate,
    noise: NoiseFloors = NO_NOISE,
    tolerances: Tolerances | None = None,
) -> list[LayerRow]:
    """Measured and compared."""
    judge = tolerances or Tolerances()
    own, passed = (measure_candidate(reference, [side], judge) for side in (introduced, propagated))
    return compare_captures(reference, own, passed, noise, judge)


def row_of(
    expected: Any,
    own: Any,
    passed: Any = None,
    noise: NoiseFloors = NO_NOISE,
    tolerances: Tolerances | None = None,
) -> LayerRow:
    """The row of one tap; ``passed`` defaults to ``own``, ``None`` leaves a side out."""
    introduced = {} if own is None else {"a#0[0]": own}
    propagated = {"a#0[0]": own if passed is None else passed}
    rows = rows_of(captured({"a#0[0]": expected}), ran(introduced), ran(propagated), noise, tolerances)
    assert [row.tap for row in rows] == ["a#0[0]"]
    return rows[0]


def test_equal_values_are_ok() -> None:
    """The row states what was compared."""
    row = row_of(f32(1, 2), f32(1, 2))
    assert row.verdict is Verdict.OK
    assert (row.module, row.shape, row.dtype, row.onnx_value) == ("a", (2,), "float32", "value_of_a#0[0]")


def test_wrong_on_its_own_is_introduced() -> None:
    """Fed with the reference and still wrong: the segment's own fault."""
    assert row_of(f32(1, 2), f32(1, 3)).verdict is Verdict.INTRODUCED


def test_right_on_its_own_and_wrong_in_passing_is_propagated() -> None:
    """Fed with the reference and right: what is wrong came from before."""
    row = row_of(f32(1, 2), f32(1, 2), f32(1, 3))
    assert row.verdict is Verdict.PROPAGATED
    assert row.introduced is not None
    assert row.introduced.max_abs == 0.0
    assert row.propagated is not None
    assert row.propagated.max_abs == 1.0


def test_a_fault_that_cancels_on_the_way_is_still_introduced() -> None:
    """Right in the ordinary run is no excuse for a segment that is wrong on the reference."""
    assert row_of(f32(1, 2), f32(1, 3), f32(1, 2)).verdict is Verdict.INTRODUCED


@pytest.mark.parametrize("shape", [(1, 3), (3, 1), (1,), (), (3, 3), (0,)])
def test_shapes_are_never_broadcast(shape: tuple[int, ...]) -> None:
    """Shapes that numpy would broadcast are different shapes."""
    row = row_of(np.ones(3, np.float32), np.ones(shape, np.float32))
    assert row.verdict is Verdict.SHAPE
    assert str(list(shape)) in row.reason
    assert "[3]" in row.reason


def test_a_shape_that_only_the_ordinary_run_gets_wrong_is_propagated() -> None:
    """Its own segment computes the right shape."""
    row = row_of(f32(1, 2), f32(1, 2), f32(1, 2, 3))
    assert row.verdict is Verdict.PROPAGATED
    assert "its own segment" in row.reason


@pytest.mark.parametrize("dtype", [np.int64, np.bool_, np.complex64])
def test_another_kind_of_dtype_is_a_verdict(dtype: Any) -> None:
    """A float tensor that became something else differs, equal values or not."""
    row = row_of(f32(1, 1), np.ones(2, dtype))
    assert row.verdict is Verdict.DTYPE
    assert "float32" in row.reason
    assert np.dtype(dtype).name in row.reason


def test_another_width_is_judged_at_the_coarser_precision() -> None:
    """A file converted to float16 cannot be held to float32; what is wrong at float16 still is."""
    expected = f32(1.0, 1 / 3)
    assert row_of(expected, expected.astype(np.float16)).verdict is Verdict.OK
    assert row_of(expected, np.array([1.0, 0.4], np.float16)).verdict is Verdict.INTRODUCED


@pytest.mark.parametrize("order", [1, -1])
def test_the_coarser_of_two_sixteen_bit_dtypes_is_bfloat16(order: int) -> None:
    """Of equal size, but three bits of precision apart."""
    pair = [np.zeros(1, np.float16), np.zeros(1, ml_dtypes.bfloat16)][::order]
    assert coarser_dtype(*pair) == ml_dtypes.bfloat16


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_finite_on_one_side_only_is_a_divergence(value: float) -> None:
    """On either side; the reason counts them."""
    for expected, found in ((f32(1, 2), f32(1, value)), (f32(1, value), f32(1, 2))):
        row = row_of(expected, found, noise=NoiseFloors({"a#0[0]": Noise(9.0, 9.0)}, {}))
        assert row.verdict is Verdict.NONFINITE
        assert "1 of 2" in row.reason


def test_not_finite_at_the_same_places_is_ok() -> None:
    """Masks are made of infinities."""
    values = f32(1, np.nan, np.inf, -np.inf)
    assert row_of(values, values.copy()).verdict is Verdict.OK


def test_infinities_of_opposite_sign_differ() -> None:
    """Both infinite is not yet equal."""
    assert row_of(f32(np.inf), f32(-np.inf)).verdict is Verdict.NONFINITE


@pytest.mark.parametrize(
    ("dtype", "left", "right"),
    [(np.int64, 2**53, 2**53 + 1), (np.uint8, 1, 2), (np.int8, -128, 127), (np.bool_, True, False)],
)
def test_integers_and_booleans_are_exact(dtype: Any, left: Any, right: Any) -> None:
    """Off by one beyond float64's integers, across zero of an unsigned type, at the ends of a type."""
    expected, found = np.array([left], dtype), np.array([right], dtype)
    assert row_of(expected, expected.copy()).verdict is Verdict.OK
    assert row_of(expected, found).verdict is Verdict.INTRODUCED
    assert row_of(found, expected).verdict is Verdict.INTRODUCED


def test_bfloat16_and_float16_do_not_overflow() -> None:
    """The difference of two large halves is not infinite."""
    for dtype in (np.float16, ml_dtypes.bfloat16):
        row = row_of(np.array([6e4, 1], dtype), np.array([-6e4, 1], dtype))
        assert row.verdict is Verdict.INTRODUCED
        assert row.introduced is not None
        assert row.introduced.max_abs is not None
        assert 1.1e5 < row.introduced.max_abs < 1.3e5


def test_noise_decides_between_rounding_and_fault() -> None:
    """The same error passes where float64 shows that much rounding, and fails where it does not."""
    expected, found = f32(1, 2), f32(1, 2.001)
    loud, quiet = Noise(1e-3, 1e-3), Noise(1e-7, 1e-7)
    assert (
        row_of(expected, found, noise=NoiseFloors({"a#0[0]": loud}, {"a#0[0]": loud})).verdict is Verdict.OK
    )
    row = row_of(expected, found, noise=NoiseFloors({"a#0[0]": quiet}, {"a#0[0]": loud}))
    assert row.verdict is Verdict.INTRODUCED
    assert row.noise_ratio is not None
    assert row.noise_ratio > 1000
    assert row.propagated_noise == 1e-3


def test_a_users_tolerance_judges_in_place_of_the_noise() -> None:
    """Given for this tap by its own name."""
    tolerances = Tolerances(by_name={"a#*": (0.0, 0.5)})
    row = row_of(f32(1, 2), f32(1, 2.4), tolerances=tolerances)
    assert row.verdict is Verdict.OK
    assert "yours" in row.tolerance


def test_taps_are_joined_by_name_in_execution_order() -> None:
    """The file's order and the runtime's order mean nothing."""
    names = ["c#0[0]", "a#0[0]", "b#0[0]"]
    values = {name: f32(i) for i, name in enumerate(names)}
    found = {name: values[name] for name in sorted(values)}
    rows = rows_of(captured(values), ran(found), ran(found))
    assert [(row.tap, row.verdict) for row in rows] == [(name, Verdict.OK) for name in names]


def test_a_tap_on_one_side_only_is_a_row() -> None:
    """Missing is a verdict of its own, on either side, with the side in its reason."""
    rows = rows_of(
        captured({"a#0[0]": f32(1), "b#0[0]": f32(1)}),
        ran({"a#0[0]": f32(1), "c#0[0]": f32(1)}),
        ran({"a#0[0]": f32(1), "c#0[0]": f32(1)}),
    )
    verdicts = {row.tap: row.verdict for row in rows}
    assert verdicts == {"a#0[0]": Verdict.OK, "b#0[0]": Verdict.MISSING, "c#0[0]": Verdict.MISSING}
    reasons = {row.tap: row.reason for row in rows}
    assert "not in the exported file" in reasons["b#0[0]"]
    assert "eager run never passed" in reasons["c#0[0]"]


def test_what_could_not_be_computed_or_recorded_is_skipped_with_its_reason() -> None:
    """The reason is carried into the row, whichever side had it."""
    rows = rows_of(
        captured({"a#0[0]": f32(1)}, {"b#0[0]": "a nested tensor has no array"}),
        ran({}, {"a#0[0]": "inside the body of Loop 'l'"}),
        ran({"b#0[0]": f32(1)}, {"a#0[0]": "inside the body of Loop 'l'"}),
    )
    assert [(row.verdict, row.reason) for row in rows] == [
        (Verdict.SKIPPED, "inside the body of Loop 'l'"),
        (Verdict.SKIPPED, "a nested tensor has no array"),
    ]


def test_seen_in_the_ordinary_run_only_is_never_called_introduced() -> None:
    """Where the segment could not be run alone, its share cannot be told from what came before."""
    introduced = ran({}, {"a#0[0]": "cannot be cut"})
    for found, verdict in ((f32(1), Verdict.OK), (f32(2), Verdict.PROPAGATED)):
        rows = rows_of(captured({"a#0[0]": f32(1)}), introduced, ran({"a#0[0]": found}))
        assert rows[0].verdict is verdict
        assert rows[0].reason


def test_an_input_that_shows_an_earlier_taps_tensor_is_not_repeated() -> None:
    """Only inputs: an output or an explicit tap of the same tensor stays a row."""
    shared = f32(1)
    names = ["a#0[0]", "b#0:in[0]", "b#0[0]", "mine"]
    trivial = frozenset(names[1:])
    found = ran(dict.fromkeys(names, shared), trivial=trivial)
    rows = rows_of(captured(dict.fromkeys(names, shared)), found, found)
    assert [row.tap for row in rows] == ["a#0[0]", "b#0[0]", "mine"]


def outputs_of(expected: Any, plain: Any, probed: Any) -> list[OutputRow]:
    found = {str(TapId(ROOT, 0, i)): value for i, value in enumerate(probed)}
    capture = captured(found, outputs=expected)
    probes = measure_candidate(capture, [ran(found)], Tolerances(), keep=list(found))
    return compare_outputs(capture, plain, probes, ["first"], NO_NOISE, Tolerances())


def test_outputs_are_named_after_the_file_and_numbered_beyond_it() -> None:
    """An output that the file does not have is missing, not left out."""
    rows = outputs_of([f32(1), f32(2)], [f32(1)], [f32(1)])
    assert [(row.name, row.verdict) for row in rows] == [("first", Verdict.OK), ("output_1", Verdict.MISSING)]


def test_a_difference_between_the_deployed_file_and_the_probe_is_the_observer_effect() -> None:
    """Taps changed the result: said of the row, and the deployed file's value is judged."""
    row = outputs_of([f32(1)], [f32(2)], [f32(1)])[0]
    assert row.observer_effect
    assert row.verdict is Verdict.PROPAGATED
    assert not outputs_of([f32(1)], [f32(1)], [f32(1)])[0].observer_effect


def test_an_output_of_another_shape_kind_or_finiteness_has_that_verdict() -> None:
    """The same verdicts as a layer's."""
    assert outputs_of([f32(1)], [f32(1, 1)], [f32(1)])[0].verdict is Verdict.SHAPE
    assert outputs_of([f32(1)], [np.array([1])], [f32(1)])[0].verdict is Verdict.DTYPE
    assert outputs_of([f32(1)], [f32(np.nan)], [f32(1)])[0].verdict is Verdict.NONFINITE


def test_a_deployed_output_of_no_tensor_falls_back_to_the_probe() -> None:
    """A sequence has no array: what the probe saw is judged."""
    row = outputs_of([f32(1)], [None], [f32(1)])[0]
    assert row.verdict is Verdict.OK
    assert row.plain is None
    assert row.probed is not None


def test_coverage_counts_every_row_once_and_says_why() -> None:
    """Compared and not compared add up to all rows."""
    rows = rows_of(
        captured({"a#0[0]": f32(1), "b#0[0]": f32(1), "c#0[0]": f32(1)}),
        ran({"a#0[0]": f32(2)}, {"b#0[0]": "no kernel"}),
        ran({"a#0[0]": f32(2)}, {"b#0[0]": "no kernel"}),
    )
    coverage = measure_coverage(rows)
    assert (coverage.compared, coverage.not_compared) == (1, 2)
    assert coverage.reasons["skipped: no kernel"] == 1
    assert sum(coverage.reasons.values()) == 2
