"""Where rounding is magnified: a step that is exact on the reference's values and yet differs.

A decision (the larger of two near-equal values, a threshold, rounding to an integer) or an
ill-conditioned operation turns a difference in the last digits into a visible one. That is no
layer's fault, but worth a note.
"""

from __future__ import annotations

from collections.abc import Sequence

from alignkit.diagnose.segment import find_segment, telling_nodes
from alignkit.graph import MarkedGraph
from alignkit.records import LayerRow, Verdict

_MOST_NOTES = 3
_DECISIONS = {
    *("ArgMax", "ArgMin", "TopK", "Round", "Floor", "Ceil", "Greater", "GreaterOrEqual", "Less"),
    *("LessOrEqual", "Equal", "Where", "Sign", "NonZero", "NonMaxSuppression", "Mod", "Unique", "Not"),
    *("QuantizeLinear", "DynamicQuantizeLinear", "MaxPool", "Max", "Min", "Clip", "Cast"),
}
_ILL_CONDITIONED = {
    *("Div", "Reciprocal", "Log", "Sqrt", "Pow", "Exp", "Softmax", "LogSoftmax", "Tan", "Acos", "Asin"),
    *("Sub", "Det", "ReduceLogSumExp", "LayerNormalization", "InstanceNormalization", "LpNormalization"),
}
_CERTAIN = _DECISIONS - {"MaxPool", "Max", "Min", "Clip", "Cast", "Where"}


def find_flips(rows: Sequence[LayerRow], marked: MarkedGraph, known: Sequence[str]) -> list[str]:
    """One note for each place where a difference starts although nothing introduces it."""
    by_tap = {row.tap: row for row in rows}
    notes = []
    for row in rows:
        if row.verdict is not Verdict.PROPAGATED or row.introduced is None:
            continue
        segment = find_segment(marked, row.tap, known)
        before = [by_tap[source] for source in segment.borders.values() if source in by_tap]
        if not segment.nodes or any(not one.verdict.is_ok for one in before):
            continue
        operators = [node.op_type for node in telling_nodes(segment)]
        notes.append(_note(row, before, operators))
        if len(notes) == _MOST_NOTES:
            break
    return notes


def _note(row: LayerRow, before: Sequence[LayerRow], operators: Sequence[str]) -> str:
    deciding = [op for op in operators if op in _CERTAIN] or [op for op in operators if op in _DECISIONS]
    kind = "decision flip" if deciding else "ill-conditioned step"
    named = deciding or [op for op in operators if op in _ILL_CONDITIONED] or list(operators)
    incoming = max((one.propagated.max_abs or 0.0 for one in before if one.propagated), default=0.0)
    result = row.propagated.max_abs if row.propagated and row.propagated.max_abs is not None else None
    figure = f"differs by up to {result:.3g}" if result is not None else "differs in shape or finiteness"
    return (
        f"{kind} at {row.tap} ({', '.join(dict.fromkeys(named))}): its inputs differ by rounding alone "
        f"({incoming:.3g}) and its result {figure}; on the reference's own values it is right."
    )
