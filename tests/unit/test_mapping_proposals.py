"""Names propose a value for a tensor of the module that they name, and for no other module's."""

from __future__ import annotations

import numpy as np
import pytest

from alignkit.mapping.proposals import Proposals
from alignkit.mapping.recorded import read_recording
from alignkit.mapping.records import Claims
from alignkit.records import Capture, Tap, TapId, TapKind


def two_layers(**claimed: str) -> Proposals:
    """``first``, then ``second`` of two modules inside of which the file knows no node."""
    first, middle, last = np.random.default_rng(0).standard_normal((3, 2, 8)).astype(np.float32)
    seen = {
        TapId("first"): first,
        TapId("second.0", kind=TapKind.INPUT): first,
        TapId("second.0"): middle,
        TapId("second.1", kind=TapKind.INPUT): middle,
        TapId("second.1"): last,
        TapId("second"): last,
    }
    taps = {str(tap): Tap(tap, "Module") for tap in seen}
    recording = read_recording(Capture(taps, {str(tap): value for tap, value in seen.items()}, {}, ()))
    values = {str(TapId(path)): frozenset({value}) for path, value in claimed.items()}
    makers = {value: frozenset({path}) for path, value in claimed.items()}
    return Proposals(Claims(values, owned=frozenset(claimed), makers=makers), recording)


def supposed(proposals: Proposals) -> dict[int, str]:
    return proposals.suppose({0, 1, 2}, proposals.allows, lambda index, value: True, lambda value: value)


def test_a_layer_with_a_value_of_its_own_is_not_folded_into_the_one_before() -> None:
    """Its modules have no known node, but what it hands out is known: each keeps its own value."""
    proposals = two_layers(first="a", second="b")
    assert proposals.end_of_fold(0) == 0
    assert [index for index in range(3) if proposals.allows(index, "a")] == [0]
    assert supposed(proposals) == {0: "a", 2: "b"}


def test_a_layer_without_a_value_is_folded_into_the_one_before() -> None:
    """Nothing of it is in the file: the node before it computes what it returns."""
    proposals = two_layers(first="a")
    assert proposals.end_of_fold(0) == 2
    assert proposals.allows(2, "a")
    assert supposed(proposals) == {2: "a"}


@pytest.mark.parametrize(("kind", "is_scale"), [("GELU", False), ("BatchNorm1d", True)])
def test_a_scaled_weight_is_folded_into_what_scales_channels_alone(kind: str, is_scale: bool) -> None:
    """A stale weight may be the model's times a factor: an activation behind it was not folded into it."""
    before = np.random.default_rng(0).standard_normal((64, 8)).astype(np.float32)
    after = before * np.arange(1, 9, dtype=np.float32) + 3 if is_scale else np.tanh(before)
    seen = {TapId("fc"): before, TapId("next", kind=TapKind.INPUT): before, TapId("next"): after}
    taps = {str(tap): Tap(tap, kind if tap.path == "next" else "Linear") for tap in seen}
    recording = read_recording(Capture(taps, {str(tap): value for tap, value in seen.items()}, {}, ()))
    assert Proposals(Claims(folded=frozenset({"fc"})), recording).end_of_fold(0) == int(is_scale)
