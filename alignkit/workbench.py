"""The workbench: sets up the bench of one culprit after another, and runs again what its experiments ask for.

What was run for one culprit serves all others.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np

from alignkit.backends import OnnxRuntime
from alignkit.backends.reference import Reference
from alignkit.capture import capture_reference, capture_replayed
from alignkit.diagnose import Bench, Segment, distance, in_full_precision
from alignkit.metrics import dtype_kind, ulp
from alignkit.records import Array, Capture, LayerRow
from alignkit.settings import Files, Sample, Settings, same_inputs
from alignkit.standin import StandIn
from alignkit.tensors import tensor_leaves, to_numpy
from alignkit.tolerance import FACTOR
from alignkit.trial import Trial, bind_feeds


class Workbench:
    """Benches for the culprits of ``trial``; ``questioned`` are the taps that will be asked about."""

    def __init__(self, trial: Trial, files: Files, settings: Settings) -> None:
        self.questioned: Collection[str] = ()
        self._trial = trial
        self._files = files
        self._exporter = settings.exporter
        self._backend = settings.run
        self._budget = settings.budget
        self._weights: Mapping[str, Array] | None = None
        self._replays: dict[str, Mapping[str, Array]] = {}
        self._example: Trial | None = None

    def set_up(
        self, trial: Trial, row: LayerRow, segment: Segment, training: tuple[str, ...]
    ) -> Bench | None:
        """The bench of one row; ``trial`` may be the one with operations tapped. None where there is no value
        to hold anything against."""
        expected, run = trial.reference.values.get(row.tap), self._backend
        if expected is None:
            return None
        bench = Bench(
            tap=row.tap,
            segment=segment,
            marked=trial.marked,
            reference=trial.reference,
            feeds=trial.feeds,
            candidate=trial.introduced(row.tap),
            allowed=allowed_error(row, expected),
            optimization=run.optimization if isinstance(run, OnnxRuntime) else "",
            run=self.run,
            run_without=self._run_without,
            state=self._state,
            eager=lambda way, tap: self._replayed(way).get(tap),
            on_example=self._on_example,
            exporter=self._exporter,
            precision=row.precision,
            fixed=self._fixed,
            training=training,
            module=owner_of(self._trial.reference, row.tap) or "",
            baked=self._baked(),
            product=run.title,
            elsewhere=None if isinstance(run, OnnxRuntime) and run.is_on_cpu else run_plainly,
            is_evaluator=isinstance(run, Reference),
        )
        if row.precision is None:
            return bench
        try:
            return replace(bench, full=in_full_precision(bench))
        except ValueError:  # its scales are computed, not constants
            return bench

    def run(self, model: bytes, feeds: Mapping[str, Array], level: str) -> Mapping[str, Array]:
        """On the product's runtime, at that level where it has levels."""
        run = self._backend
        return (run.at_level(level) if isinstance(run, OnnxRuntime) else run).open(model).run(feeds)

    def _run_without(
        self, model: bytes, feeds: Mapping[str, Array], names: Sequence[str]
    ) -> Mapping[str, Array]:
        run = self._backend
        return (run.without(names) if isinstance(run, OnnxRuntime) else run).open(model).run(feeds)

    @property
    def _fixed(self) -> str:
        model = self._trial.model
        return model.fixed if isinstance(model, StandIn) else ""

    def _state(self) -> Mapping[str, Array]:
        if self._weights is None:
            state = self._trial.model.state_dict()
            self._weights = {key: to_numpy(value, copy=False) for key, value in state.items()}
        return self._weights

    def _replayed(self, way: str) -> Mapping[str, Array]:
        """One eager run in ``way`` answers for all culprits."""
        if way not in self._replays:
            trial, sample = self._trial, self._trial.sample
            where = (trial.model, sample.args, sample.kwargs, trial.selection, trial.reference)
            self._replays[way] = capture_replayed(*where, way, self.questioned, budget=self._budget)
        return self._replays[way]

    def _on_example(self, tap: str) -> float | None:
        example, trial = self._files.example, self._trial
        sample = trial.sample
        if example is None or same_inputs(example, sample):
            return None
        if self._example is None:
            where = (trial.model, example.args, example.kwargs, trial.selection)
            reference = capture_reference(*where, budget=self._budget)
            feeds, _ = bind_feeds(trial.model, example, trial.marked)
            self._example = replace(trial, sample=example, reference=reference, feeds=feeds)
        found, expected = self._example.introduced(tap), self._example.reference.values.get(tap)
        return None if found is None or expected is None else distance(expected, found)

    def _baked(self) -> tuple[int, ...]:
        """Sizes that the export's inputs have and the compared ones have not."""
        if self._files.example is None:
            return ()
        theirs, ours = (_sizes(sample) for sample in (self._files.example, self._trial.sample))
        return tuple(sorted(theirs - ours))


def run_plainly(model: bytes, feeds: Mapping[str, Array], level: str) -> Mapping[str, Array]:
    """In ONNX Runtime on the CPU, whatever the product runs on."""
    return OnnxRuntime(optimization=level).open(model).run(feeds)


def allowed_error(row: LayerRow, expected: Array) -> float:
    """The largest error that counts as rounding at this row, also where it could not be measured."""
    if row.noise_floor is not None:
        return FACTOR * row.noise_floor
    if dtype_kind(expected.dtype) != "float":
        return 0.0
    finite = np.abs(expected.astype(np.float64))
    scale = float(np.max(finite, where=np.isfinite(finite), initial=0.0))
    return FACTOR * ulp(scale, expected.dtype)


def owner_of(reference: Capture, tap: str) -> str | None:
    """The module whose own code makes the value at ``tap``; None for a tap that was not captured."""
    found = reference.taps.get(tap)
    return None if found is None else found.owner


def _sizes(sample: Sample) -> set[int]:
    return {size for leaf in tensor_leaves((sample.args, dict(sample.kwargs))) for size in leaf.shape}
