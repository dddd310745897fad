"""A trial: one sample on both sides, with everything at hand that a diagnosis may run again."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from alignkit.binding import bind_inputs
from alignkit.candidate import ProbeRunner
from alignkit.capture import capture_reference
from alignkit.comparison import NoiseFloors, compare_captures
from alignkit.deployed import candidate_leaves, inputs_by_tap
from alignkit.extract import read_marked
from alignkit.graph import MarkedGraph
from alignkit.instrument import Selection
from alignkit.measuring import measure_candidate
from alignkit.noise import EagerRun, measure_floors, with_condition
from alignkit.records import Array, Capture, LayerRow, Verdict
from alignkit.settings import Sample, Settings


@dataclass(frozen=True, slots=True)
class Trial:
    """``selection`` chose the taps of ``marked`` and of ``reference``; ``feeds`` are the graph's inputs."""

    model: nn.Module
    sample: Sample
    selection: Selection
    marked: MarkedGraph
    reference: Capture
    feeds: Mapping[str, Array]
    runner: ProbeRunner

    def introduced(self, tap: str) -> Array | None:
        """What the segment that ends at ``tap`` makes of the reference, in memory of its own."""
        for part in self.runner.introduced(self.feeds, self.reference, [tap]):
            if tap in part.values:
                return part.values[tap].copy()
        return None


def bind_feeds(model: nn.Module, sample: Sample, marked: MarkedGraph) -> tuple[dict[str, Array], list[str]]:
    """The feeds of ``marked``'s inputs, and the names of inputs that the graph does not have."""
    leaves = candidate_leaves(model, sample)
    return bind_inputs(marked.inputs, leaves, inputs_by_tap(marked))


def capture_sample(model: nn.Module, settings: Settings, sample: Sample) -> Capture:
    """The reference of ``sample``, not yet confirmed, within the budget."""
    where = (model, sample.args, sample.kwargs, settings.selection)
    return capture_reference(*where, confirm=False, budget=settings.budget)


def open_runner(marked: MarkedGraph, settings: Settings, *, reuse: bool = False) -> ProbeRunner:
    """What runs the probes of ``marked``, within the budget."""
    budget = settings.budget
    return ProbeRunner(marked, settings.run, reuse, budget.part_bytes, budget.overlaps, budget.weight_bytes)


def open_trial(
    model: nn.Module,
    sample: Sample,
    selection: Selection,
    reference: Capture,
    marked: Path,
    settings: Settings,
) -> Trial:
    """Read the file at ``marked`` and bind one sample to it."""
    graph = read_marked(marked)
    feeds, _ = bind_feeds(model, sample, graph)
    return Trial(model, sample, selection, graph, reference, feeds, open_runner(graph, settings))


def judge_introduced(trial: Trial, taps: Collection[str], settings: Settings) -> list[LayerRow]:
    """The rows of ``taps`` alone, judged by what their own segments introduce."""
    measured = measure_candidate(
        trial.reference,
        trial.runner.introduced(trial.feeds, trial.reference, taps),
        settings.tolerances,
        overlap=trial.runner.overlaps,
    )
    tight = not trial.runner.overlaps
    run = EagerRun(trial.model, trial.sample, trial.selection, trial.reference, tight)
    noise = measure_floors(run) if settings.noise_floor else NoiseFloors({}, {}, "switched off")

    def judge() -> list[LayerRow]:
        rows = compare_captures(trial.reference, measured, measured, noise, settings.tolerances)
        return [row for row in rows if row.tap in taps]

    rows = judge()
    if not noise.missing and any(row.verdict is Verdict.INTRODUCED for row in rows):
        noise = with_condition(noise, run)
        rows = judge()
    return rows
