"""Tolerance: rounding passes however many digits differ, an error does not however small it looks."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from alignkit.metrics import measure_error, ulp
from alignkit.records import Array, Noise
from alignkit.tolerance import FACTOR, TORCH_TESTING, Judgement, Tolerances, judge_error, noise_floor

TAP = "layer1.0.conv1#0[0]"


def judged(
    reference: Any,
    candidate: Any,
    noise: Noise | None = None,
    tolerances: Tolerances | None = None,
    dtype: Any = np.float32,
) -> Judgement:
    """The judgement of two arrays, measured with the pair that the tolerances give."""
    tolerances = tolerances or Tolerances()
    left, right = np.asarray(reference, dtype), np.asarray(candidate, dtype)
    rtol, atol = tolerances.mismatch_pair(TAP, np.dtype(dtype).name)
    return judge_error(measure_error(left, right, rtol=rtol, atol=atol), noise, tolerances, TAP, dtype)


def test_the_first_matching_tap_pattern_wins_over_dtype_and_global() -> None:
    """From the narrowest to the widest: tap pattern, dtype, global pair."""
    both = {"layer1.*": (1e-3, 1e-4), "layer*": (1.0, 1.0), "float32": (1e-2, 1e-3)}
    tolerances = Tolerances(1e-1, 1e-1, both)
    assert tolerances.user_pair(TAP, "float32") == (1e-3, 1e-4)
    assert tolerances.user_pair("head#0[0]", "float32") == (1e-2, 1e-3)
    assert tolerances.user_pair("head#0[0]", "float16") == (1e-1, 1e-1)


def test_a_tap_may_be_named_as_the_report_shows_it() -> None:
    """The name of a tap holds brackets, which a glob reads as a set of characters."""
    assert Tolerances(by_name={TAP: (0.5, 0.25)}).user_pair(TAP, "float32") == (0.5, 0.25)


def test_one_of_rtol_and_atol_is_enough() -> None:
    """The one not given is zero, and zero is a tolerance: exact equality was asked for."""
    assert Tolerances(rtol=0.1).user_pair(TAP, "float32") == (0.1, 0.0)
    assert Tolerances(atol=0.1).user_pair(TAP, "float32") == (0.0, 0.1)
    assert Tolerances(rtol=0.0).user_pair(TAP, "float32") == (0.0, 0.0)
    assert Tolerances().user_pair(TAP, "float32") is None


def test_without_tolerances_mismatches_are_counted_by_torch_testing() -> None:
    """The share of mismatched elements has a documented default; integers must be equal."""
    assert Tolerances().mismatch_pair(TAP, "bfloat16") == TORCH_TESTING["bfloat16"]
    assert Tolerances().mismatch_pair(TAP, "int64") == (0.0, 0.0)


def test_the_defaults_are_those_of_torch_testing() -> None:
    """The table repeats torch's documented numbers."""
    import torch
    from torch.testing._comparison import default_tolerances

    for name, pair in TORCH_TESTING.items():
        assert default_tolerances(getattr(torch, name)) == pair


def test_an_error_within_the_noise_is_rounding() -> None:
    """Up to FACTOR noise floors is rounding, more is not."""
    noise = Noise(1e-3, 1e-3)
    assert judged([1.0, 2.0], [1.0, 2.0 + 0.9 * FACTOR * 1e-3], noise).within
    assert not judged([1.0, 2.0], [1.0, 2.0 + 1.1 * FACTOR * 1e-3], noise).within


def test_a_small_number_is_no_excuse() -> None:
    """An error of 1e-10 in a tensor of 1e-8 is a fault: the floor follows the tensor's scale."""
    reference = np.full(4, 1e-8)
    assert not judged(reference, reference + 1e-10, Noise(1e-16, 1e-8)).within


def test_flushing_small_elements_to_zero_is_seen_beside_large_ones() -> None:
    """1e-12 turned into 0 is invisible beside 1.0 in absolute terms, and ruins a later log.

    By itself it accuses nobody, for kernels differ there without harm; the ratio is what the
    diagnosis looks at when an output is wrong.
    """
    found = judged([1.0, 1e-12], [1.0, 0.0], Noise(6e-8, 6e-8))
    assert found.within
    assert found.relative_ratio is not None
    assert found.relative_ratio > 1e6


def test_relative_error_of_cancellation_on_both_sides_is_noise() -> None:
    """Where the reference itself is that far from float64 in relative terms, so may the candidate be."""
    assert judged([1.0, 1e-7], [1.0, 0.5e-7], Noise(6e-8, 0.4)).within


def test_the_floor_is_at_least_one_ulp_of_the_scale() -> None:
    """Zero noise does not turn one rounding into a fault."""
    assert noise_floor(1.0, Noise(0.0, 0.0), np.float32) == ulp(1.0, np.float32)
    assert judged([1.0], [np.nextafter(np.float32(1.0), np.float32(2.0))], Noise(0.0, 0.0)).within


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.bool_])
def test_integers_and_booleans_are_exact(dtype: Any) -> None:
    """No noise excuses an integer that is off by one."""
    assert noise_floor(100.0, None, dtype) is None
    assert judged([0, 1], [0, 1], dtype=dtype).within
    assert not judged([0, 1], [0, 0], dtype=dtype).within


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64, np.complex64])
def test_every_floating_dtype_has_a_floor(dtype: Any) -> None:
    """One unit in the last place of the dtype itself."""
    real = np.float32 if dtype is np.complex64 else dtype
    assert noise_floor(1.0, None, dtype) == float(ml_dtypes.finfo(real).eps)


def test_nan_on_one_side_is_never_within_the_noise() -> None:
    """NaN compares false with everything: it must not pass an inequality by accident."""
    assert not judged([1.0, 2.0], [1.0, np.nan], Noise(1e9, 1e9)).within
    assert not judged([1.0, np.nan], [1.0, 2.0], tolerances=Tolerances(rtol=1e9, atol=1e9)).within
    assert judged([1.0, np.nan], [1.0, np.nan], Noise(0.0, 0.0)).within


def test_a_user_tolerance_replaces_the_noise_floor() -> None:
    """Both ways: it may forgive what the floor would not, and demand what the floor would not."""
    exact, loose = Tolerances(rtol=0.0, atol=0.0), Tolerances(atol=1.0)
    assert judged([1.0], [1.5], Noise(0.0, 0.0), loose).within
    assert not judged([1.0], [1.0 + 1e-6], Noise(1.0, 1.0), exact).within


def test_without_noise_the_documented_tolerances_judge() -> None:
    """No float64 run: the defaults of torch.testing at the tensor's scale, and the rule says so."""
    judgement = judged([10.0], [10.0 + 2e-6])
    assert judgement.within
    assert "torch.testing" in judgement.rule
    assert not judged([10.0], [10.1]).within


def test_a_tensor_of_zeros_has_no_negative_or_infinite_ratio() -> None:
    """A scale of zero leaves a floor that can be divided by, or no ratio."""
    judgement = judged([0.0, 0.0], [0.0, 0.0], Noise(0.0, 0.0))
    assert judgement.within
    assert judgement.ratio in (None, 0.0)


def test_an_empty_tensor_is_within() -> None:
    """Nothing differs in a tensor of no elements."""
    empty: Array = np.zeros((0, 3), np.float32)
    assert judged(empty, empty, Noise(0.0, 0.0)).within
