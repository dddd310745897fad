"""Culprits: from a suspected row to a named module, operation, source line, cause and cost."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Protocol

from alignkit.diagnose.advice import ADVICE, CONVERTED, GIVEN_FILE, UNLOCATED, advice_on
from alignkit.diagnose.bench import Bench
from alignkit.diagnose.causes import Cause, find_cause
from alignkit.diagnose.flips import Start
from alignkit.diagnose.inputs import explain_input, heals
from alignkit.diagnose.lacking import blame_lacking_step
from alignkit.diagnose.segment import Segment, describe_node, main_operator, origin_notes, telling_nodes
from alignkit.graph import MarkedGraph
from alignkit.records import (
    ROOT,
    Array,
    Capture,
    Culprit,
    Experiment,
    LayerRow,
    OutputRow,
    Sides,
    Tap,
    TapId,
    TapKind,
    Verdict,
)
from alignkit.tolerance import FACTOR

MOST_EXAMINED = 16
"""Culprits that experiments are made on; where everything is wrong the others say no more."""

_LISTED_NODES = 64


@dataclass(frozen=True, slots=True)
class Suspect:
    """A tap whose own segment is wrong; ``also`` are taps that see the same nodes."""

    row: LayerRow
    segment: Segment
    also: list[str]


@dataclass(frozen=True, slots=True)
class Closer:
    """The operation inside a suspect's module at which its error starts."""

    row: LayerRow
    tap: Tap
    segment: Segment


@dataclass(frozen=True, slots=True)
class Fusion:
    """A deployed file that is wrong although every tap is right.

    ``experiments`` ran that file in other ways; ``heals`` says that one without graph optimisation is
    right, ``rounds`` that the file computes in a lower precision than the model. ``tap`` is the tap whose
    presence alone turns the result right, where one was found.
    """

    experiments: tuple[Experiment, ...]
    heals: bool
    tap: str | None = None
    rounds: bool = False


class Surroundings(Protocol):
    """What a diagnosis may look at and run again."""

    @property
    def marked(self) -> MarkedGraph:
        """The file with taps."""

    @property
    def reference(self) -> Capture:
        """What eager PyTorch computes."""

    @property
    def training(self) -> Collection[str]:
        """Paths of the modules in training mode."""

    @property
    def given_file(self) -> bool:
        """Whether the deployed file was given, not exported here."""

    def prepare(self, suspects: Sequence[Suspect]) -> None:
        """Take note of who will be asked about."""

    def look_closer(self, suspect: Suspect) -> Closer | None:
        """The operation where the suspect's error starts; None where there is no closer view."""

    def bench(self, suspect: Suspect, closer: Closer | None, training: tuple[str, ...]) -> Bench | None:
        """The experiments' bench; None where there is nothing to experiment on."""

    def error_left(self, tap: str, output: str) -> float | None:
        """max |error| of an output when the reference is fed in at ``tap`` alone."""

    def fused_with(self, tap: str) -> Sequence[str]:
        """Modules whose results the file does not hold, computed by the nodes of ``tap``'s segment."""

    def fed(self, tap: str) -> Array | None:
        """What the deployed side was fed at an input tap of the model."""

    def in_context(self, start: Start) -> Experiment | None:
        """The ordinary run against the same segment on its own, unoptimised, on that run's own values;
        None where they agree: then rounding was magnified, and nobody is to blame."""

    def bundle(self, culprit: Culprit, bench: Bench) -> Culprit:
        """The culprit with its repro bundle, or with the reason why there is none as evidence."""

    def runs_on_example(self) -> bool:
        """Whether the deployed file runs on the inputs of the export, where those are other ones."""

    def question_fusion(self, output: OutputRow) -> Fusion:
        """Run the deployed file in other ways."""

    @property
    def seconds(self) -> float:
        """How long the experiments on one culprit may take."""

    def stage(self, question: str) -> AbstractContextManager[None]:
        """Entered while an experiment is running, to say which."""


def accuse_suspect(suspect: Suspect, outputs: Sequence[OutputRow], around: Surroundings) -> Culprit:
    """One culprit, as closely as it can be named."""
    closer = around.look_closer(suspect)
    segment = closer.segment if closer else suspect.segment
    bench = None
    if segment.value and not _is_model_input(suspect.row):
        bench = around.bench(suspect, closer, _in_training(_module(suspect.row, around), around))
    cause = _find_cause(suspect.row, bench, around)
    share = _output_share(suspect.row, outputs, around)
    culprit = replace(_describe(suspect, closer, cause, around), output_share=share)
    if bench is None:
        return culprit
    return around.bundle(blame_lacking_step(culprit, bench.whole or bench), bench)


def list_suspect(suspect: Suspect, around: Surroundings) -> Culprit:
    """A culprit beyond :data:`MOST_EXAMINED`: named, without a closer look or an experiment."""
    culprit = _describe(suspect, None, _find_cause(suspect.row, None, around), around)
    line = f"not examined: the first {MOST_EXAMINED} culprits were"
    return replace(culprit, evidence=(*culprit.evidence, line))


def _module(row: LayerRow, around: Surroundings) -> str:
    """The module whose own code the row's segment is."""
    tap = around.reference.taps.get(row.tap)
    return tap.owner if tap is not None else row.module


def _describe(suspect: Suspect, closer: Closer | None, cause: Cause, around: Surroundings) -> Culprit:
    """The culprit in words: where it is, what computes it there, and what was found."""
    row = suspect.row
    segment = closer.segment if closer else suspect.segment
    nodes = telling_nodes(segment)
    place = closer.tap if closer else around.reference.taps.get(row.tap)
    measured = *_evidence(row, around.reference.sides), *_evidence_inside(row, closer)
    evidence = [*measured, *cause.evidence, *origin_notes(nodes)]
    if fused := around.fused_with(row.tap):
        others = ", ".join(fused)
        evidence.append(f"the same nodes compute {others}, of which the file holds no value of its own")
    if suspect.also:
        evidence.append(f"seen through the same nodes at {', '.join(suspect.also)}")
    return Culprit(
        tap=row.tap,
        module=_module(row, around),
        op=main_operator(segment, of_shape=row.verdict is Verdict.SHAPE),
        cause=cause.name,
        confidence=cause.confidence,
        evidence=tuple(evidence),
        advice=cause.advice or advice_on(cause.name, around.reference.sides),
        onnx_nodes=tuple(describe_node(node) for node in nodes[-_LISTED_NODES:]),
        source=place.source.location if place is not None and place.source else None,
        source_line=place.source.text if place is not None and place.source else None,
        operation=closer.tap.id.op if closer else "",
        experiments=cause.experiments,
    )


def accuse_in_context(
    start: Start, experiment: Experiment, outputs: Sequence[OutputRow], around: Surroundings
) -> Culprit:
    """A segment that is right on its own and wrong within the optimised whole."""
    tap = around.reference.taps.get(start.row.tap)
    nodes = telling_nodes(start.segment)
    return Culprit(
        tap=start.row.tap,
        module=tap.owner if tap is not None else start.row.module,
        op=main_operator(start.segment),
        cause="optimizer",
        confidence="high",
        evidence=(
            "on its own this segment is right; within the whole model, optimised together with its "
            "neighbours, it computes something else from the same values",
        ),
        advice=ADVICE["optimizer"],
        onnx_nodes=tuple(describe_node(node) for node in nodes[-_LISTED_NODES:]),
        source=tap.source.location if tap is not None and tap.source else None,
        source_line=tap.source.text if tap is not None and tap.source else None,
        experiments=(experiment,),
        output_share=_output_share(start.row, outputs, around),
    )


def _find_cause(row: LayerRow, bench: Bench | None, around: Surroundings) -> Cause:
    """What is known without an experiment comes first; ``unknown`` where nothing decides."""
    if _is_model_input(row):
        found = around.fed(row.tap)
        tried = explain_input(around.reference.values[row.tap], found) if found is not None else []
        said = tuple(f"{one.name} {one.reading}" for one in tried if heals(one))
        return Cause("input", "high", tuple(tried), said)
    is_rounding = row.noise_ratio is not None and row.noise_ratio <= FACTOR
    if is_rounding and (row.relative_ratio or 0.0) <= FACTOR and row.verdict is Verdict.INTRODUCED:
        reason = "beyond your tolerance, but no more than float rounding makes of this layer"
        return Cause("precision", "high", (Experiment("noise floor", None, reason),))
    return Cause("unknown", "low") if bench is None else find_cause(bench, around.stage, around.seconds)


def _in_training(module: str, around: Surroundings) -> tuple[str, ...]:
    return tuple(sorted(path for path in around.training if _contains(module, path)))


def _is_model_input(row: LayerRow) -> bool:
    return row.kind is TapKind.INPUT and TapId.parse(row.tap).path == ROOT


def _contains(module: str, path: str) -> bool:
    """Whether ``path`` is ``module`` or inside it."""
    return module in (path, ROOT) or path.startswith(module + ".")


def _output_share(row: LayerRow, outputs: Sequence[OutputRow], around: Surroundings) -> float | None:
    """The share of the worst output's error that disappears when this tap alone is made right."""
    wrong = [(o.probed.max_abs or 0.0, o) for o in outputs if o.probed is not None and not o.verdict.is_ok]
    before, output = max(wrong, key=lambda item: item[0], default=(0.0, None))
    if output is None or not before:
        return None
    left = around.error_left(row.tap, output.tap)
    return None if left is None else min(1.0, max(0.0, 1.0 - left / before))


def _evidence(row: LayerRow, sides: Sides) -> tuple[str, ...]:
    if row.introduced is None or row.verdict in (Verdict.SHAPE, Verdict.DTYPE):
        return (row.reason,)
    error = row.introduced
    if _is_model_input(row):
        return (
            f"what the deployed side is fed is off by at most {_figure(error.max_abs)} "
            f"(values reach {error.scale:.3g})",
        )
    lines = [
        f"fed with exactly the reference's values, this segment is off by at most {_figure(error.max_abs)} "
        f"(values reach {error.scale:.3g})"
    ]
    if row.noise_ratio is not None and row.noise_floor is not None:
        lines.append(f"that is {row.noise_ratio:.3g} times its noise floor of {row.noise_floor:.3g}")
    if row.relative_ratio is not None and (row.noise_ratio or 0.0) <= FACTOR < row.relative_ratio:
        lines.append(
            f"relative to small elements it is off by {error.max_rel:.3g}, {row.relative_ratio:.3g} times "
            "the reference's own rounding; with the reference in its place the model's output is right"
        )
    if error.nonfinite_mismatches:
        lines.append(row.reason)
    if error.worst_index is not None:
        lines.append(
            f"worst element {list(error.worst_index)}: {sides.reference} "
            f"{_number(error.worst_reference)}, {sides.candidate} {_number(error.worst_candidate)}"
        )
    return tuple(lines)


def _evidence_inside(row: LayerRow, closer: Closer | None) -> tuple[str, ...]:
    """What the operation at which the error starts is off by, where that differs from its module: the
    experiments measure it."""
    error = closer.row.introduced if closer is not None else None
    if closer is None or error is None or row.introduced is None or error.max_abs == row.introduced.max_abs:
        return ()
    return (
        f"inside it, {closer.tap.id.op} is off by at most {_figure(error.max_abs)} "
        f"(values reach {error.scale:.3g}); the experiments are about that",
    )


def _figure(value: float | None) -> str:
    return "an unknown amount" if value is None else f"{value:.3g}"


def _number(value: object) -> str:
    return f"{value:.7g}" if isinstance(value, float) else str(value)


def accuse_output(row: OutputRow, around: Surroundings, complete: bool) -> Culprit:
    """An output that is wrong in the deployed file although no compared tap introduces it."""
    fusion = around.question_fusion(row) if row.observer_effect else Fusion((), False)
    reason = _output_reason(row, around, complete)
    figures = [f"off by at most {row.plain.max_abs:.3g}"] if row.plain and row.plain.max_abs else []
    optimised = fusion.heals or (row.observer_effect and not around.given_file)
    cause = "optimizer" if optimised else "unknown"
    advice = ADVICE[cause] if optimised else GIVEN_FILE if around.given_file else UNLOCATED
    if row.verdict is Verdict.MISSING and around.runs_on_example():
        # It fails on these inputs alone: something of the export's own was frozen into it.
        cause, advice = "trace-constant", ADVICE["trace-constant"]
        figures.append("the same file runs on the inputs that it was exported with")
    if fusion.rounds:
        cause, advice, optimised = "precision", CONVERTED, True
        figures.append("every layer is within the rounding of the file's own precision, which adds up")
    culprit = Culprit(
        tap=row.tap,
        module=ROOT,
        op="",
        cause=cause,
        confidence="high" if fusion.heals and not fusion.rounds else "medium" if optimised else "low",
        evidence=(f"model output {row.name!r}: {reason}", *figures),
        advice=advice,
        onnx_nodes=(),
        experiments=fusion.experiments,
    )
    return _inside_fusion(culprit, fusion, around) if fusion.tap else culprit


def _output_reason(row: OutputRow, around: Surroundings, complete: bool) -> str:
    if row.observer_effect and around.given_file:
        return "a fresh export of this model is right at every tap, the given file is not"
    if row.observer_effect:
        return "the file as deployed and the same model with taps disagree, and every tap is right"
    without = "no compared layer introduces it" if complete else "a layer that could not be compared may"
    return row.reason or without


def _inside_fusion(culprit: Culprit, fusion: Fusion, around: Surroundings) -> Culprit:
    """The culprit moved to the tap whose presence splits the fusion that spoils the output."""
    tap = around.reference.taps[str(fusion.tap)]
    line = f"a tap at {fusion.tap} alone turns it right: the fusion that spoils it spans that value"
    return replace(
        culprit,
        tap=str(fusion.tap),
        module=tap.owner,
        evidence=(*culprit.evidence, line),
        source=tap.source.location if tap.source else None,
        source_line=tap.source.text if tap.source else None,
    )
