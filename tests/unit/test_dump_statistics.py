"""Statistics bound and estimate the error of tensors that are not there, and never claim more."""

from __future__ import annotations

import math
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from alignkit.dump.estimate import estimate_error
from alignkit.dump.statistics import (
    SIZE,
    Statistics,
    from_vector,
    mix,
    sampled_places,
    signs,
    summarise,
    to_vector,
)
from alignkit.records import Array

pairs = arrays.array_shapes(min_dims=1, max_dims=2, max_side=30).flatmap(
    lambda shape: st.tuples(*[arrays.arrays(np.float32, shape, elements=st.floats(-100, 100, width=32))] * 2)
)


def naive_sign(index: int, bit: int) -> int:
    """SplitMix64 in Python's own integers, as the README states it."""
    mask = 2**64 - 1
    z = (index + 1) * 0x9E3779B97F4A7C15 & mask
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & mask
    z = (z ^ z >> 27) * 0x94D049BB133111EB & mask
    z ^= z >> 31
    return 1 if z >> (63 - bit) & 1 else -1


def test_signs_are_those_of_the_documented_mixer() -> None:
    """Another program gets the same from integers alone: on them rests that two machines agree."""
    expected = [[naive_sign(index, bit) for index in range(70_000, 70_050)] for bit in range(8)]
    np.testing.assert_array_equal(signs(70_000, 70_050), expected)
    # the first output of SplitMix64 with seed 0, as its authors' code gives it
    assert int(mix(np.zeros(1, np.uint64))[0]) == 0xE220A8397B1DCDAF


def test_signs_are_balanced_and_independent() -> None:
    """Projections would not estimate a distance otherwise."""
    table = signs(0, 100_000)
    correlation = table @ table.T / 100_000
    assert np.abs(correlation - np.eye(8)).max() < 0.02
    assert np.abs(table.mean(axis=1)).max() < 0.02


@pytest.mark.parametrize("size", [0, 1, 8, 9, 1_000_003])
def test_sampled_places_lie_in_the_tensor(size: int) -> None:
    """All of a small tensor, eight of a large one."""
    places = sampled_places(size)
    assert len(places) == min(size, 8)
    assert all(0 <= place < size for place in places)
    assert size > 8 or list(places) == list(range(size))


def test_figures_are_what_numpy_says() -> None:
    """Over more than one chunk, with what is not finite left out and counted."""
    values = np.random.default_rng(0).normal(3, 2, 200_001)
    values[[5, 70_000, 150_000, 200_000]] = np.nan, np.inf, -np.inf, np.nan
    finite = values[np.isfinite(values)]
    found = summarise(values)
    assert (found.nan, found.positive_inf, found.negative_inf) == (2, 1, 1)
    assert (found.low, found.high) == (finite.min(), finite.max())
    assert found.mean == pytest.approx(finite.mean(), rel=1e-12)
    assert found.std == pytest.approx(finite.std(), rel=1e-12)
    assert found.norm == pytest.approx(np.linalg.norm(finite), rel=1e-12)
    usable = np.where(np.isfinite(values), values, 0)
    np.testing.assert_allclose(found.projections, signs(0, values.size) @ usable, rtol=1e-9)
    np.testing.assert_array_equal(found.samples, values[sampled_places(values.size)])


@pytest.mark.parametrize(
    "array",
    [
        np.empty((0, 2), np.float32),
        np.full(3, np.nan),
        np.full(4, 1e200),
        np.array([True, False]),
        np.array([1 + 2j, -3j], np.complex64),
        np.array([1, 2], ml_dtypes.bfloat16),
        np.array(2**62),
    ],
    ids=lambda array: f"{array.dtype.name}-{array.size}",
)
def test_odd_tensors_have_statistics(array: Array) -> None:
    """Also without a finite element, and where squares would overflow; and they equal themselves."""
    found = summarise(array)
    assert all(map(math.isfinite, (found.low, found.high, found.mean, found.std, found.norm)))
    assert (found.shape, found.dtype) == (array.shape, array.dtype)
    again = from_vector(to_vector(found), found.kept)
    assert to_vector(again).tobytes() == to_vector(found).tobytes()
    assert to_vector(found).shape == (SIZE,)
    assert estimate_error(found, again, 0.0, 0.0).identical


def test_memory_layout_does_not_matter() -> None:
    """The digest and the projections are those of the elements in order."""
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    for other in (np.asfortranarray(array), array.astype(">f4")):
        assert summarise(other).kept.sha256 == summarise(array).kept.sha256
        assert to_vector(summarise(other)).tobytes() == to_vector(summarise(array)).tobytes()


@given(pairs)
def test_what_is_known_is_true(pair: tuple[Array, Array]) -> None:
    """Nothing but the rms error is guessed: the other bounds hold for every pair of tensors."""
    left, right = pair
    error = np.abs(right.astype(np.float64) - left)
    estimate = estimate_error(summarise(left), summarise(right), 0.0, 1e-3)
    found = estimate.metrics
    if estimate.identical:
        assert error.max() == 0.0
        return
    assert found.rmse is not None
    assert found.max_abs is not None
    slack = 1e-9 * (1 + np.abs(left).max() + np.abs(right).max())
    assert found.max_abs <= max(error.max(), found.rmse) + slack
    assert found.nonfinite_mismatches == 0


def test_rms_error_is_estimated_within_the_slack() -> None:
    """Over many seeds, whether the error is spread or sits in one element; half of them within a third."""
    ratios = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        left = rng.normal(size=5000)
        right = left.copy()
        if seed % 2:
            right += rng.normal(size=5000) * 1e-3
        else:
            right[rng.integers(5000)] += 1.0
        true = np.sqrt(np.mean((right - left) ** 2))
        estimate = estimate_error(summarise(left), summarise(right), 0.0, 0.0)
        assert estimate.metrics.rmse is not None
        assert estimate.ceiling is not None
        assert np.abs(right - left).max() <= estimate.ceiling
        ratios.append(estimate.metrics.rmse / true)
    assert max(ratios) < 2
    assert min(ratios) > 1 / 3
    assert np.median(np.abs(np.log(ratios))) < np.log(4 / 3)


def test_whole_numbers_that_differ_are_told_by_their_digest() -> None:
    """One wrong label among a million, at a place that is not sampled."""
    left = np.zeros(10**6, np.int64)
    right = left.copy()
    right[12345] = right[54321] = 1
    right[54321] = -1
    found = estimate_error(summarise(left), summarise(right), 0.0, 0.0).metrics
    assert found.max_abs is not None
    assert found.max_abs >= 1.0
    assert found.mismatched >= 1e-6


def test_a_dump_without_digests_is_judged_by_the_rest() -> None:
    """Its writer may leave them out: that proves no difference."""
    found = summarise(np.arange(100))
    bare = replace(found, kept=replace(found.kept, sha256=""))
    for pair in ((found, bare), (bare, bare)):
        estimate = estimate_error(*pair, 0.0, 0.0)
        assert (estimate.identical, estimate.metrics.max_abs, estimate.metrics.mismatched) == (
            False,
            0.0,
            0.0,
        )


def test_nan_on_one_side_is_counted() -> None:
    """And no error is estimated from sums over different elements."""
    left = np.ones(1000, np.float32)
    right = left.copy()
    right[[1, 2]] = np.nan, np.inf
    estimate = estimate_error(summarise(left), summarise(right), 0.0, 0.0)
    assert estimate.metrics.nonfinite_mismatches == 2
    assert (estimate.metrics.rmse, estimate.ceiling) == (None, None)
    assert (estimate.metrics.candidate_nan, estimate.metrics.candidate_inf) == (1, 1)


def test_another_precision_is_compared_too() -> None:
    """float64 against float32: no digest agrees, the rest does to rounding."""
    wide = np.random.default_rng(1).normal(size=400)
    found = estimate_error(summarise(wide), summarise(wide.astype(np.float32)), 1.3e-6, 1e-5).metrics
    assert found.max_abs is not None
    assert 0 < found.max_abs < 1e-6
    assert found.mismatched == 0.0


def test_statistics_are_small() -> None:
    """A few hundred bytes for a tensor of any size."""
    assert to_vector(summarise(np.zeros(10**6, np.float32))).nbytes == 192


def test_counts_that_are_no_numbers_are_refused() -> None:
    """A damaged vector does not become statistics."""
    good: Statistics = summarise(np.ones(3))
    vector = to_vector(good)
    vector[5] = np.nan
    with pytest.raises(ValueError, match="counts of NaN and infinities are no numbers"):
        from_vector(vector, good.kept)
