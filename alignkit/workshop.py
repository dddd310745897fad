"""What a diagnosis may run again, for one sample: the stages' side of the experiments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor, nn

from alignkit.binding import NamedArray, bind_inputs
from alignkit.candidate import ProbeRunner
from alignkit.capture import capture_reference, capture_under_export
from alignkit.diagnose import Bench, Diagnosis, Segment, Surroundings, distance, find_culprits
from alignkit.extract import extract_introduced
from alignkit.graph import MarkedGraph, graph_inputs
from alignkit.instrument import named_arguments
from alignkit.records import ROOT, Array, Capture, LayerRow, OutputRow, TapId, TapKind
from alignkit.run import Session
from alignkit.settings import Sample, Settings
from alignkit.tensors import to_numpy
from alignkit.tolerance import FACTOR


def candidate_leaves(model: nn.Module, sample: Sample) -> list[NamedArray]:
    """The tensors that the deployed side is fed, by name."""
    args, kwargs = sample.candidate or (sample.args, sample.kwargs)
    arguments = named_arguments(model, args, kwargs)
    tensors = [NamedArray(name, to_numpy(value)) for name, value in arguments if isinstance(value, Tensor)]
    numbers = [
        NamedArray(name, np.asarray(value), optional=True)
        for name, value in arguments
        if not isinstance(value, Tensor)
    ]
    return [*tensors, *numbers]  # in this order: input taps count the tensors alone


def inputs_by_tap(marked: MarkedGraph) -> dict[str, int]:
    """Graph input -> index of the argument that the root's input tap saw there."""
    found = {}
    for debug in marked.debugs:
        tap = TapId.parse(debug.tap)
        if tap.path == ROOT and tap.kind is TapKind.INPUT and tap.call == 0:
            found[debug.inflow] = tap.index
    return found


@dataclass(frozen=True, slots=True)
class Workshop:
    """What a diagnosis may run again, for one sample."""

    model: nn.Module
    sample: Sample
    example: Sample | None
    reference: Capture
    feeds: Mapping[str, Array]
    marked: MarkedGraph
    runner: ProbeRunner
    settings: Settings
    given_file: bool

    def diagnose(self, rows: list[LayerRow], outputs: list[OutputRow]) -> Diagnosis:
        """Every culprit with its cause."""
        training = frozenset(path or ROOT for path, m in self.model.named_modules() if m.training)
        around = Surroundings(
            self.marked,
            self.reference,
            training,
            not self.reference.stable,
            self.given_file,
            self.bench,
            self._error_left,
        )
        return find_culprits(rows, outputs, around)

    def bench(self, row: LayerRow, segment: Segment) -> Bench | None:
        """The experiments' bench for one culprit; None where there is nothing to experiment on."""
        if row.introduced is None or row.noise_floor is None or (row.noise_ratio or 0.0) <= FACTOR:
            return None
        candidate = self._introduced(row.tap, self.feeds, self.reference)
        if candidate is None:
            return None
        return Bench(
            tap=row.tap,
            segment=segment,
            marked=self.marked,
            reference=self.reference,
            feeds=self.feeds,
            candidate=candidate,
            allowed=FACTOR * row.noise_floor,
            optimization=self.settings.run.optimization,
            run=self._run,
            state=self._state,
            under_export=self._under_export,
            on_example=self._on_example,
        )

    def _error_left(self, tap: str, output: str) -> float | None:
        """max |error| of an output when the reference is fed in at ``tap`` alone."""
        probe = extract_introduced(self.marked, [tap])
        if output not in probe.outputs:
            return None
        feeds = {**self.feeds, **dict.fromkeys(probe.feeds, self.reference.values[tap])}
        session = Session(probe.model.SerializeToString(), self.settings.run, probe.folder)
        found = session.run(feeds, [probe.outputs[output]])[probe.outputs[output]]
        return distance(self.reference.values[output], found)

    def _run(self, model: bytes, feeds: Mapping[str, Array], level: str) -> Mapping[str, Array]:
        settings = replace(self.settings.run, optimization=level, session_options=None)
        return Session(model, settings).run(feeds)

    def _state(self) -> Mapping[str, Array]:
        return {name: to_numpy(value) for name, value in self.model.state_dict().items()}

    def _under_export(self, tap: str) -> Array | None:
        arguments = (self.model, self.sample.args, self.sample.kwargs, self.settings.selection)
        values = capture_under_export(*arguments, self.reference, self.settings.exporter)
        return values.get(tap)

    def _on_example(self, tap: str) -> float | None:
        if self.example is None or self.example.args is self.sample.args:
            return None
        example, selection = self.example, self.settings.selection
        reference = capture_reference(self.model, example.args, example.kwargs, selection)
        leaves = candidate_leaves(self.model, example)
        feeds, _ = bind_inputs(graph_inputs(self.marked.model), leaves, inputs_by_tap(self.marked))
        found = self._introduced(tap, feeds, reference)
        expected = reference.values.get(tap)
        return None if found is None or expected is None else distance(expected, found)

    def _introduced(self, tap: str, feeds: Mapping[str, Array], reference: Capture) -> Array | None:
        """What the segment that ends at ``tap`` makes of the reference, in memory of its own."""
        for part in self.runner.introduced(feeds, reference, [tap]):
            if tap in part.values:
                return part.values[tap].copy()
        return None
