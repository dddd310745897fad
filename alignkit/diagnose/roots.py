"""Roots: the taps where error is introduced, and whether the whole is aligned.

A tap is a culprit only when its own segment computes something else from exactly the reference's
values. What merely passes an error on, or magnifies rounding, is not accused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from onnx import NodeProto

from alignkit.diagnose.culprits import (
    MOST_EXAMINED,
    Surroundings,
    Suspect,
    accuse_in_context,
    accuse_output,
    accuse_suspect,
    list_suspect,
)
from alignkit.diagnose.flips import describe_flip, find_starts
from alignkit.diagnose.segment import find_segment
from alignkit.records import Culprit, LayerRow, OutputRow, Verdict
from alignkit.tolerance import FACTOR

_HEALED = 0.1  # share of an output's error that may be left when its root has been replaced


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
    accused = [row for row in rows if row.verdict.introduces]
    if not accused:
        accused = _hidden_roots(rows, outputs, around)
    suspects = _merge(accused, around)
    examined, others = suspects[:MOST_EXAMINED], suspects[MOST_EXAMINED:]
    around.prepare(examined)
    culprits = [accuse_suspect(suspect, outputs, around) for suspect in examined]
    culprits += [list_suspect(suspect, around) for suspect in others]
    notes: list[str] = []
    for start in find_starts(rows, around.marked, around.reference):
        experiment = None if culprits or start.row.verdict.is_ok else around.in_context(start)
        if experiment is not None:
            culprits.append(accuse_in_context(start, experiment, outputs, around))
        elif not culprits:
            notes.append(describe_flip(start))
    if not culprits:
        further, amplified = _wrong_outputs(rows, outputs, around)
        culprits, notes = further, [*notes, *amplified]
    return Diagnosis(not culprits, tuple(culprits), tuple(notes))


def is_certain(rows: Sequence[LayerRow], outputs: Sequence[OutputRow]) -> bool:
    """Whether :func:`find_culprits` will find some, whatever its experiments say."""
    complete = _is_complete(rows)
    return any(row.verdict.introduces for row in rows) or any(_accuses(row, complete) for row in outputs)


def _is_complete(rows: Sequence[LayerRow]) -> bool:
    return not any(row.verdict is Verdict.SKIPPED for row in rows)


def _accuses(row: OutputRow, complete: bool) -> bool:
    """A wrong output that no rounding explains, however magnified."""
    if row.verdict in (Verdict.OK, Verdict.SKIPPED):
        return False
    return row.observer_effect or not complete or row.verdict.introduces or row.verdict is Verdict.MISSING


def _wrong_outputs(
    rows: Sequence[LayerRow], outputs: Sequence[OutputRow], around: Surroundings
) -> tuple[list[Culprit], list[str]]:
    """Outputs that are wrong although no tap is to blame: accused themselves, or explained by a note."""
    culprits, notes = [], []
    complete = _is_complete(rows)
    for row in outputs:
        if row.verdict in (Verdict.OK, Verdict.SKIPPED):
            continue
        if _accuses(row, complete):
            culprits.append(accuse_output(row, around, complete))
        else:
            notes.append(_amplification_note(row))
    return culprits, notes


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


def _merge(rows: Sequence[LayerRow], around: Surroundings) -> list[Suspect]:
    """One suspect per root: taps whose segments share a node are two views of one fault."""
    found: list[Suspect] = []
    for row in rows:
        segment = find_segment(around.marked, row.tap, around.reference.values.keys())
        first = next((seen for seen in found if _share(seen.segment.nodes, segment.nodes)), None)
        if first is None:
            found.append(Suspect(row, segment, []))
        else:
            first.also.append(row.tap)
    return found


def _share(left: Sequence[NodeProto], right: Sequence[NodeProto]) -> bool:
    outputs = {name for node in left for name in node.output if name}
    return any(name in outputs for node in right for name in node.output)


def _amplification_note(row: OutputRow) -> str:
    return (
        f"Output {row.name!r} differs beyond its noise floor although every segment is exact on its own: "
        "the model magnifies float rounding (a near-tie decided the other way, or an ill-conditioned step)."
    )
