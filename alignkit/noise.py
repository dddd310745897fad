"""Noise: the floors that errors are judged by, measured from float64 runs of the model."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from torch import nn

from alignkit.comparison import NoiseFloors
from alignkit.errors import ModelError
from alignkit.instrument import Selection
from alignkit.records import Capture, Noise
from alignkit.settings import Sample
from alignkit.storage import Without
from alignkit.twin import measure_noise

_PERTURBATIONS = (1.0, 64.0)  # ULP
_GROWTH = 8.0  # a smooth segment's error grows 64-fold between them, a flipped decision's hardly


def without_taps(reference: Capture, taps: Collection[str]) -> Capture:
    """``reference`` without the values of ``taps``: where a file has no value for a tap, its segment
    goes on to the next one, and rounds what both do."""
    return replace(reference, values=Without(reference.values, taps))


@dataclass(frozen=True, slots=True)
class EagerRun:
    """What is run in float64, and the reference that it is held against; ``tight``: memory is short."""

    model: nn.Module
    sample: Sample
    selection: Selection
    reference: Capture
    tight: bool = False

    def measure(self, *, substitute: bool, perturb: float = 0.0) -> dict[str, Noise]:
        """See :func:`alignkit.twin.measure_noise`."""
        where = (self.model, self.sample.args, self.sample.kwargs, self.selection, self.reference)
        return measure_noise(*where, substitute=substitute, perturb=perturb, tight=self.tight)


def measure_floors(run: EagerRun) -> NoiseFloors:
    """Each segment's own rounding, and what has accumulated up to each tap; or why there is none."""
    noise = with_own(NoiseFloors({}, {}), run)
    return noise if noise.missing else with_accumulated(noise, run)


def with_own(noise: NoiseFloors, run: EagerRun) -> NoiseFloors:
    """``noise`` with each segment's own rounding measured; or why there is no float64 run."""
    try:
        own = run.measure(substitute=True)
    except ModelError as error:
        return replace(noise, own={}, accumulated={}, missing=str(error))
    # The twin draws other numbers: its distance to the reference is no rounding there.
    return replace(noise, own={tap: one for tap, one in own.items() if tap not in run.reference.random})


def with_accumulated(noise: NoiseFloors, run: EagerRun) -> NoiseFloors:
    """``noise`` with what has accumulated up to each tap measured; or why there is no float64 run."""
    if run.reference.random:
        return replace(noise, accumulated={})
    try:
        accumulated = run.measure(substitute=False)
    except ModelError as error:
        return replace(noise, own={}, accumulated={}, missing=str(error))
    return replace(noise, accumulated=accumulated)


def with_condition(noise: NoiseFloors, run: EagerRun) -> NoiseFloors:
    """Before a segment is accused: how far does rounding of its inputs alone move its result?

    The float64 segments are run on the reference changed by one unit in the last place. Where the
    effect grows with the change, it is how well the segment is conditioned, and counts as noise; a
    decision that flips does not grow, and is no excuse on exactly equal inputs.
    """
    small, large = (run.measure(substitute=True, perturb=ulps) for ulps in _PERTURBATIONS)
    own = dict(noise.own)
    for tap, base in noise.own.items():
        moved = small.get(tap, base)
        if large.get(tap, base).max_abs > _GROWTH * moved.max_abs:
            own[tap] = Noise(max(base.max_abs, moved.max_abs), max(base.max_rel, moved.max_rel))
    return replace(noise, own=own)
