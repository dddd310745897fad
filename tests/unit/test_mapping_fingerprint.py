"""Fingerprints never lose a true pair, and layouts are found and undone exactly."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignkit.mapping.fingerprint import distance, find_match, fingerprint, is_simple, scales_channels
from alignkit.mapping.records import Layout

RNG = np.random.default_rng(7)


def match(value: np.ndarray, tensor: np.ndarray, tolerance: float = 1e-3) -> object:
    return find_match("v", value, fingerprint(value), tensor, fingerprint(tensor), tolerance)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 6000), st.integers(0, 2**32 - 1), st.floats(0.0, 0.2))
def test_the_signature_never_moves_more_than_the_tensors(size: int, seed: int, noise: float) -> None:
    """Cauchy-Schwarz: a pair within the tolerance passes the signature, whatever the order."""
    rng = np.random.default_rng(seed)
    tensor = rng.standard_normal(size)
    value = tensor + noise * rng.standard_normal(size)
    apart = np.linalg.norm(value - tensor)
    moved = np.abs(fingerprint(rng.permutation(value)).signature - fingerprint(tensor).signature)
    assert moved.max() <= apart * (1 + 1e-9) + 1e-9


@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_every_permutation_of_axes_is_found_and_undone(order: tuple[int, ...]) -> None:
    """``apply`` gives the tensor, ``undo`` gives the value back, bit for bit."""
    tensor = RNG.standard_normal((2, 3, 5, 4)).astype(np.float32)
    value = np.ascontiguousarray(tensor.transpose(order))
    found = find_match("v", value, fingerprint(value), tensor, fingerprint(tensor), 1e-6)
    assert found is not None
    assert found.distance == 0.0
    np.testing.assert_array_equal(found.layout.apply(value), tensor)
    np.testing.assert_array_equal(found.layout.undo(tensor), value)


def test_merged_and_permuted_dimensions_are_found() -> None:
    """Heads merged into the batch, tokens first: as attention is often exported."""
    tensor = RNG.standard_normal((2, 4, 7, 5)).astype(np.float32)
    value = np.ascontiguousarray(tensor.transpose(2, 0, 1, 3)).reshape(7, 8, 5)
    found = find_match("v", value, fingerprint(value), tensor, fingerprint(tensor), 1e-6)
    assert found is not None
    np.testing.assert_array_equal(found.layout.apply(value), tensor)
    np.testing.assert_array_equal(found.layout.undo(tensor), value)
    assert "transpose" in str(found.layout)


def test_other_numbers_of_the_same_kind_do_not_match() -> None:
    """Same shape and distribution is not the same tensor, not even with a loose tolerance."""
    one, other = RNG.standard_normal((2, 1000)).astype(np.float32)
    assert match(one, other, 0.25) is None


def test_half_precision_is_within_its_tolerance_only() -> None:
    """float16 rounding is a few 1e-4."""
    tensor = RNG.standard_normal(500).astype(np.float32)
    assert match(tensor.astype(np.float16), tensor, 1e-3) is not None
    assert match(tensor.astype(np.float16), tensor, 1e-6) is None


def test_integers_match_exactly_or_not_at_all() -> None:
    """And never a float."""
    tensor = np.arange(12)
    assert match(tensor.astype(np.int32), tensor) is not None
    assert match(tensor + (tensor == 5), tensor, 0.25) is None
    assert match(tensor.astype(np.float32), tensor) is None


def test_mask_values_do_not_drown_the_rest() -> None:
    """A score of -3.4e38 would make all masked scores look equal."""
    scores = RNG.standard_normal(64)
    masked = np.where(np.arange(64) % 4 == 0, np.finfo(np.float32).min, scores)
    other = np.where(np.arange(64) % 4 == 0, np.finfo(np.float32).min, -scores)
    assert distance(masked, masked) == 0.0
    assert distance(other, masked) > 1.0
    assert distance(np.where(masked < -1e30, -np.inf, masked), masked) == 0.0
    assert distance(np.where(masked < -1e30, np.inf, masked), masked) == np.inf


def test_nan_at_other_places_is_another_tensor() -> None:
    """NaN compares false with everything, so it must not compare as near."""
    tensor = RNG.standard_normal(16)
    spoilt = tensor.copy()
    spoilt[3] = np.nan
    assert distance(spoilt, tensor) == np.inf
    assert distance(tensor, spoilt) == np.inf
    assert match(spoilt, tensor, 0.25) is None


def test_two_valued_tensors_are_simple() -> None:
    """They identify nothing: masks, zeros, constants, scalars."""
    assert is_simple(np.zeros(9))
    assert is_simple(np.array([1.0]))
    assert is_simple(np.array([0, 1, 1, 0]))
    assert not is_simple(np.array([0.0, 1.0, 0.5]))


def test_a_layout_says_what_it_does() -> None:
    """In the words of numpy."""
    assert str(Layout.reshape((2, 3), (2, 3))) == "same"
    assert str(Layout.reshape((6, 4), (2, 3, 4))) == "reshape [2, 3, 4]"
    assert str(Layout((2, 4, 4, 3), (2, 4, 4, 3), (0, 3, 1, 2), (2, 3, 4, 4))) == "transpose [0, 3, 1, 2]"


@pytest.mark.parametrize("axis", [1, -1])
def test_a_scaling_of_channels_is_told_from_a_curve(axis: int) -> None:
    random = np.random.default_rng(0)
    before = random.standard_normal((2, 3, 4, 5)).astype(np.float32)
    factors = np.expand_dims(
        random.standard_normal(before.shape[axis]), [a for a in range(4) if a != axis % 4]
    )
    scaled = before * factors + 2
    assert scales_channels(before, scaled) is True
    assert scales_channels(before, np.maximum(before, 0)) is False
    assert scales_channels(before, scaled.reshape(2, -1)) is False


def test_channels_of_few_elements_tell_nothing() -> None:
    before = np.random.default_rng(0).standard_normal((3, 8))
    assert scales_channels(before, np.tanh(before)) is None
