"""Roots: the taps where error is introduced, and whether the whole is aligned.

A tap is a culprit only when its own segment computes something else from exactly the reference's
values. What merely passes an error on, or magnifies rounding, is not accused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from onnx import NodeProto

from alignkit.diagnose.advice import ADVICE, GIVEN_FILE, UNLOCATED
from alignkit.diagnose.causes import Cause, find_cause
from alignkit.diagnose.experiments import Bench
from alignkit.diagnose.segment import Segment, describe_node, find_segment, telling_nodes
from alignkit.graph import MarkedGraph
from alignkit.records import (
    ROOT,
    Capture,
    Culprit,
    Experiment,
    LayerRow,
    OutputRow,
    TapId,
    TapKind,
    Verdict,
)
from alignkit.tolerance import FACTOR

_INTRODUCED = (Verdict.INTRODUCED, Verdict.NONFINITE, Verdict.SHAPE, Verdict.DTYPE)
_LISTED_NODES = 64
_HEALED = 0.1  # share of an output's error that may be left when its root has been replaced


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the diagnosis may look at besides the rows."""

    marked: MarkedGraph
    reference: Capture
    training: frozenset[str]  # paths of modules in training mode
    random: bool  # two eager runs on the same input differ
    given_file: bool = False  # the deployed file was given, not exported here
    bench: Callable[[LayerRow, Segment], Bench | None] = lambda row, segment: None
    # how much of an output's error is left once the reference is fed in at one tap: (tap, output tap)
    error_left: Callable[[str, str], float | None] = lambda tap, output: None


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Whether the whole is aligned, who is to blame if not, and what else is worth a note."""

    aligned: bool
    culprits: tuple[Culprit, ...]
    notes: tuple[str, ...] = ()


def find_culprits(rows: Sequence[LayerRow], outputs: Sequence[OutputRow], around: Surroundings) -> Diagnosis:
    """Every root of divergence, the first in execution order first.

    Where no tap introduces error but an output of the deployed file is wrong, the output itself
    is the culprit; an output that differs only because rounding was magnified is a note.
    """
    accused = [row for row in rows if row.verdict in _INTRODUCED]
    if not accused:
        accused = _hidden_roots(rows, outputs, around)
    culprits = _layer_culprits(accused, around)
    notes: list[str] = []
    if not culprits:
        wrong = [row for row in outputs if row.verdict not in (Verdict.OK, Verdict.SKIPPED)]
        complete = not any(row.verdict is Verdict.SKIPPED for row in rows)
        for row in wrong:
            if row.observer_effect or not complete or row.verdict in (*_INTRODUCED, Verdict.MISSING):
                culprits.append(_output_culprit(row, around, complete))
            else:
                notes.append(_amplification_note(row))
    return Diagnosis(not culprits, tuple(culprits), tuple(notes))


def _hidden_roots(
    rows: Sequence[LayerRow], outputs: Sequence[OutputRow], around: Surroundings
) -> list[LayerRow]:
    """The tap whose error is lost beside its large elements, yet ruins an output.

    A wrong relative error of small elements alone accuses nobody: kernels differ there without
    harm. It takes a wrong output, and that the reference fed in at this one tap heals it.
    """
    wrong = [row for row in outputs if row.verdict in (Verdict.PROPAGATED, Verdict.NONFINITE)]
    suspects = [row for row in rows if row.introduced and (row.relative_ratio or 0.0) > FACTOR]
    for output in wrong:
        before = output.probed.max_abs if output.probed else None
        for row in suspects:
            left = around.error_left(row.tap, output.tap) if before else None
            if left is not None and before and left < _HEALED * before:
                reason = "its small elements are lost, which a later layer cannot do without"
                return [replace(row, verdict=Verdict.INTRODUCED, reason=reason)]
    return []


def _layer_culprits(rows: Sequence[LayerRow], around: Surroundings) -> list[Culprit]:
    """One culprit per root: taps whose segments share a node are two views of one fault."""
    found: list[tuple[LayerRow, Segment, list[str]]] = []
    for row in rows:
        segment = find_segment(around.marked, row.tap, around.reference.values.keys())
        first = next((seen for seen in found if _share(seen[1].nodes, segment.nodes)), None)
        if first is None:
            found.append((row, segment, []))
        else:
            first[2].append(row.tap)
    return [_layer_culprit(row, segment, also, around) for row, segment, also in found]


def _share(left: Sequence[NodeProto], right: Sequence[NodeProto]) -> bool:
    outputs = {name for node in left for name in node.output if name}
    return any(name in outputs for node in right for name in node.output)


def _layer_culprit(row: LayerRow, segment: Segment, also: Sequence[str], around: Surroundings) -> Culprit:
    tap = around.reference.taps.get(row.tap)
    module = tap.owner if tap is not None else row.module
    nodes = telling_nodes(segment)
    cause = _cause(row, module, segment, around)
    evidence = [*_evidence(row)]
    if also:
        evidence.append(f"seen through the same nodes at {', '.join(also)}")
    return Culprit(
        tap=row.tap,
        module=module,
        op=nodes[-1].op_type if nodes else "",
        cause=cause.name,
        confidence=cause.confidence,
        evidence=tuple(evidence),
        advice=ADVICE[cause.name],
        onnx_nodes=tuple(describe_node(node) for node in nodes[-_LISTED_NODES:]),
        source=tap.source.location if tap is not None and tap.source else None,
        source_line=tap.source.text if tap is not None and tap.source else None,
        experiments=cause.experiments,
    )


def _cause(row: LayerRow, module: str, segment: Segment, around: Surroundings) -> Cause:
    """What is known without an experiment comes first; ``unknown`` where nothing decides."""
    if _is_model_input(row):
        return _told("input", "high", "this is the model's own input: the two sides are fed different values")
    inside = [path for path in around.training if _contains(module, path)]
    if inside:
        return _told("train-mode", "medium", f"in training mode: {', '.join(sorted(inside)[:3])}")
    if around.random:
        return _told("nondeterministic", "medium", "two eager runs on the same input and seed differ")
    bench = around.bench(row, segment) if segment.nodes else None
    return Cause("unknown", "low", ()) if bench is None else find_cause(bench)


def _is_model_input(row: LayerRow) -> bool:
    return row.kind is TapKind.INPUT and TapId.parse(row.tap).path == ROOT


def _told(cause: str, confidence: str, reason: str) -> Cause:
    return Cause(cause, confidence, (Experiment("model", None, reason),))


def _contains(module: str, path: str) -> bool:
    """Whether ``path`` is ``module`` or inside it."""
    return module == path or (module != ROOT and path.startswith(module + "."))


def _evidence(row: LayerRow) -> tuple[str, ...]:
    if row.introduced is None or row.verdict in (Verdict.SHAPE, Verdict.DTYPE):
        return (row.reason,)
    error = row.introduced
    if _is_model_input(row):
        return (
            f"what the deployed side is fed is off by at most {error.max_abs:.3g} "
            f"(values reach {error.scale:.3g})",
        )
    lines = [
        f"fed with exactly the reference's values, this segment is off by at most {error.max_abs:.3g} "
        f"(values reach {error.scale:.3g})"
    ]
    if row.noise_ratio is not None and row.noise_floor is not None:
        lines.append(f"that is {row.noise_ratio:.3g} times its noise floor of {row.noise_floor:.3g}")
    if row.relative_ratio is not None and (row.noise_ratio or 0.0) <= FACTOR:
        lines.append(
            f"relative to small elements it is off by {error.max_rel:.3g}, {row.relative_ratio:.3g} times "
            "the reference's own rounding; with the reference in its place the model's output is right"
        )
    if error.nonfinite_mismatches:
        lines.append(row.reason)
    if error.worst_index is not None:
        lines.append(
            f"worst element {list(error.worst_index)}: PyTorch {_number(error.worst_reference)}, "
            f"ONNX {_number(error.worst_candidate)}"
        )
    return tuple(lines)


def _number(value: object) -> str:
    return f"{value:.7g}" if isinstance(value, float) else str(value)


def _output_culprit(row: OutputRow, around: Surroundings, complete: bool) -> Culprit:
    if row.observer_effect:
        cause, confidence = ("unknown", "low") if around.given_file else ("optimizer", "medium")
        reason = (
            "the file as deployed and the same model with taps disagree, and every tap is right"
            if not around.given_file
            else "a fresh export of this model is right at every tap, the given file is not"
        )
    else:
        cause, confidence = "unknown", "low"
        reason = row.reason or (
            "no compared layer introduces it" if complete else "a layer that could not be compared may"
        )
    figures = [f"off by at most {row.plain.max_abs:.3g}"] if row.plain and row.plain.max_abs else []
    return Culprit(
        tap=row.tap,
        module=ROOT,
        op="",
        cause=cause,
        confidence=confidence,
        evidence=(f"model output {row.name!r}: {reason}", *figures),
        advice=GIVEN_FILE if around.given_file else UNLOCATED if cause == "unknown" else ADVICE[cause],
        onnx_nodes=(),
    )


def _amplification_note(row: OutputRow) -> str:
    return (
        f"Output {row.name!r} differs beyond its noise floor although every segment is exact on its own: "
        "the model magnifies float rounding (a near-tie decided the other way, or an ill-conditioned step)."
    )
