"""Experiments on a segment: other readers, other levels, fewer transformers; none of them ever raises."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator

from alignkit.diagnose import experiments
from alignkit.diagnose.experiments import (
    AGREES,
    DIFFERS,
    TRANSFORMERS,
    baked_constants,
    countdown,
    find_transformers,
    run_at_levels,
    run_in_double,
    run_independently,
    run_unoptimised,
    smallest_healing,
)
from alignkit.records import Array
from tests.diagnosis import X, wrong_bench
from tests.repro_bench import Run, run_onnxruntime

NEG = "g (float[3, 4] x) => (float[3, 4] y) { y = Neg(x) }"
NEG_HALF = "g (float16[3, 4] x) => (float16[3, 4] y) { y = Neg(x) }"


def wrong_from(level: str) -> Run:
    """A runtime whose optimiser spoils results from ``level`` on."""
    levels = ("disable", "basic", "extended", "all")

    def run(model: bytes, feeds: Mapping[str, Array], at: str) -> Mapping[str, Array]:
        values = run_onnxruntime(model, feeds, "disable")
        spoilt = levels.index(at) >= levels.index(level)
        return {name: value + spoilt for name, value in values.items()}

    return run


def wrong_unless(heals: Callable[[set[str]], bool]) -> Any:
    """A runtime that is right only without the transformers that ``heals`` asks for."""

    def run(model: bytes, feeds: Mapping[str, Array], names: Sequence[str]) -> Mapping[str, Array]:
        values = run_onnxruntime(model, feeds, "disable")
        return {name: value + (not heals(set(names))) for name, value in values.items()}

    return run


@pytest.mark.parametrize("level", ["basic", "extended", "all"])
def test_the_level_that_spoils_a_segment_is_the_last_one_tried(level: str) -> None:
    """Levels below it agree, and none above it is run."""
    bench = wrong_bench(NEG, -X, candidate=-X + 1, run=wrong_from(level))
    assert run_unoptimised(bench).reading == AGREES
    *below, last = run_at_levels(bench)
    assert {one.reading for one in below} <= {AGREES}
    assert (last.name, last.reading) == (f"ONNX Runtime, optimisation {level!r}", DIFFERS)


def test_no_level_above_the_products_own_is_tried() -> None:
    """What the product does not run at cannot have spoilt it."""
    bench = wrong_bench(NEG, -X, run=wrong_from("all"), optimization="extended")
    assert [one.reading for one in run_at_levels(bench)] == [AGREES, AGREES]


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_the_responsible_transformer_is_named_alone(name: str) -> None:
    """Wherever it stands in the list."""
    bench = wrong_bench(NEG, -X, run_without=wrong_unless(lambda names: name in names))
    found = find_transformers(bench)
    assert found is not None
    assert (found.name, found.reading) == (f"ONNX Runtime without {name}", AGREES)


@pytest.mark.parametrize(
    "pair", [("ConstantFolding", "Level2_RuleBasedTransformer"), ("GeluFusionL1", "GeluFusionL2")]
)
def test_two_transformers_that_spoil_it_either_way_are_both_named(pair: tuple[str, str]) -> None:
    """Near or far from one another in the list."""
    bench = wrong_bench(NEG, -X, run_without=wrong_unless(lambda names: set(pair) <= names))
    found = find_transformers(bench)
    assert found is not None
    assert found.name == f"ONNX Runtime without {', '.join(pair)}"


def test_one_of_two_transformers_that_must_meet_is_enough() -> None:
    """Without either of them it is right: one is named, not both and no third."""
    pair = {"MatMulAddFusion", "GemmActivationFusion"}
    bench = wrong_bench(NEG, -X, run_without=wrong_unless(lambda names: bool(pair & names)))
    found = find_transformers(bench)
    assert found is not None
    assert found.name.removeprefix("ONNX Runtime without ") in pair


def test_where_no_transformer_is_responsible_none_is_named() -> None:
    """Disabling all that are known heals nothing."""
    assert find_transformers(wrong_bench(NEG, -X, run_without=wrong_unless(lambda names: False))) is None


def test_a_search_out_of_time_still_names_transformers_whose_absence_heals() -> None:
    """More than it takes, but never a wrong answer."""
    asked: list[Sequence[str]] = []

    def heals(names: Sequence[str]) -> bool:
        asked.append(names)
        return "c" in names

    assert smallest_healing("abcdefgh", heals, lambda: 3.5 - len(asked)) == tuple("cd")
    assert smallest_healing("abcdefgh", heals, lambda: -1.0) == tuple("abcdefgh")


def test_a_countdown_counts_from_when_it_was_made() -> None:
    """Also with a clock that does not begin at zero."""
    now = [100.0]
    left = countdown(5.0, lambda: now[0])
    now[0] = 103.0
    assert left() == 2.0
    now[0] = 107.0
    assert left() == -2.0


def test_the_reference_evaluator_sides_with_pytorch_the_runtime_or_nobody() -> None:
    """Three readings, told apart by the values and not by the mere fact of an error."""
    assert run_independently(wrong_bench(NEG, -X, candidate=-X + 1)).reading == AGREES
    assert run_independently(wrong_bench(NEG, X)).reading == "computes what ONNX Runtime does"
    assert run_independently(wrong_bench(NEG, X, candidate=X + 1)).reading == DIFFERS


def test_the_reference_evaluator_is_fed_what_the_graph_declares() -> None:
    """A file that was made float16 after marking is asked about in float16, as the runtime does it."""
    experiment = run_independently(wrong_bench(NEG_HALF, -X, candidate=-X + 1, allowed=1e-2))
    assert experiment.reading == AGREES
    assert 0 < (experiment.error or 0.0) < 1e-2


def test_numpys_own_warnings_do_not_end_the_evaluation() -> None:
    """The logarithm of -1 is NaN on both sides, also where warnings are errors."""
    expected = np.array([-np.inf, np.nan], np.float32)
    feeds = {"x": np.array([0, -1], np.float32)}
    bench = wrong_bench("g (float[2] x) => (float[2] y) { y = Log(x) }", expected, feeds=feeds)
    assert run_independently(bench).reading == AGREES
    assert run_independently(bench, 60.0).reading == AGREES


def test_an_evaluation_that_takes_too_long_is_abandoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs in a process of its own that is ended; the reading says after how long."""
    monkeypatch.setattr(experiments, "_evaluate", lambda model, feeds: time.sleep(60))
    begun = time.monotonic()
    experiment = run_independently(wrong_bench(NEG, X), 0.2)
    assert time.monotonic() - begun < 30
    assert (experiment.error, experiment.reading) == (None, "not run: not finished within 0.2 s")


def test_a_segment_too_large_for_python_is_not_begun() -> None:
    """By an estimate of its multiplications."""
    weights = {"w": np.ones((256, 256, 3, 3), np.float32)}
    text = "g (float[1, 256, 34, 34] x) => (float[1, 256, 32, 32] y) { y = Conv(x, w) }"
    x, y = np.ones((1, 256, 34, 34), np.float32), np.ones((1, 256, 32, 32), np.float32)
    bench = wrong_bench(text, y, feeds={"x": x}, candidate=y, weights=weights)
    assert "too large" in run_independently(bench).reading


def test_float64_agrees_where_only_the_float32_kernel_is_wrong() -> None:
    """The digits that the float32 sum loses are there."""
    text = "g (float[3] x) => (float[1] y) { y = ReduceSum(x) }"
    x = np.array([2.0**25, 1.0, -(2.0**25)], np.float32)
    bench = wrong_bench(text, np.array([1], np.float32), feeds={"x": x})
    assert bench.candidate is not None
    assert bench.candidate.tolist() == [0]
    assert run_unoptimised(bench).reading == DIFFERS
    assert run_in_double(bench).reading == AGREES


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_types_are_widened_as_well(dtype: Any) -> None:
    """Otherwise the same kernels would be asked twice, and call it a second opinion."""
    name = np.dtype(dtype).name
    x = X.astype(dtype)
    bench = wrong_bench(NEG.replace("float", name), -x, feeds={"x": x}, candidate=x)
    asked: list[str] = []

    def run(model: bytes, feeds: Mapping[str, Array], level: str) -> Mapping[str, Array]:
        asked.extend(value.dtype.name for value in feeds.values())
        return run_onnxruntime(model, feeds, level)

    assert run_in_double(replace(bench, run=run)).reading == AGREES
    assert asked == ["float64"]


def test_a_segment_without_narrow_numbers_has_no_second_reader_in_float64() -> None:
    """Integers: the very same model would run again."""
    text = "g (int64[2] x) => (int64[2] y) { y = Neg(x) }"
    x = np.array([1, 2])
    experiment = run_in_double(wrong_bench(text, x, feeds={"x": x}))
    assert experiment.error is None
    assert "not run" in experiment.reading


def broken(*args: Any) -> Any:
    raise RuntimeError("the library\n  gave up")


@pytest.mark.parametrize("experiment", [run_unoptimised, run_in_double])
def test_a_runtime_that_raises_anything_is_a_reading(experiment: Any) -> None:
    """One line, with the kind of error."""
    found = experiment(wrong_bench(NEG, X, run=broken))
    assert found.error is None
    assert found.reading == "could not run: RuntimeError: the library gave up"


def test_an_evaluator_that_raises_is_a_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its operators raise whatever their numpy code meets, here and in a process of its own."""
    monkeypatch.setattr(ReferenceEvaluator, "run", broken)
    for seconds in (float("inf"), 60.0):
        found = run_independently(wrong_bench(NEG, X), seconds)
        assert found.reading == "could not run: RuntimeError: the library gave up"


def test_an_operator_without_a_kernel_is_a_reading() -> None:
    """The runtime's own words."""
    text = "g (float[3, 4] x) => (float[3, 4] y) { y = Odd(x) }"
    bench = wrong_bench(text, X, candidate=X)
    assert "Odd" in run_unoptimised(bench).reading
    assert run_independently(bench).reading.startswith("could not run: ")


def test_sizes_of_the_exports_inputs_are_found_among_the_constants() -> None:
    """In Constant nodes and in small integer weights; floats and other numbers are none."""
    text = """g (float[6] x) => (float[3, 2] y) {
        s = Constant<value: tensor = int64[2] {3, 2}>() y = Reshape(x, s) }"""
    x = np.arange(6, dtype=np.float32)
    bench = wrong_bench(text, x.reshape(3, 2), feeds={"x": x}, candidate=x, baked=(3, 7))
    assert baked_constants(bench) == (3,)
    text = "g (float[6] x) => (float[3, 2] y) { y = Reshape(x, s) }"
    shape = {"s": np.array([3, 2])}
    bench = wrong_bench(text, x.reshape(3, 2), feeds={"x": x}, candidate=x, baked=(2, 3), weights=shape)
    assert baked_constants(bench) == (2, 3)
