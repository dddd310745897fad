"""Where rounding is magnified: a step that is exact on the reference's values and yet differs.

A decision (the larger of two near-equal values, a threshold, rounding to an integer) or an
ill-conditioned operation turns a difference in the last digits into a visible one. That is no
layer's fault, but worth a note.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from alignkit.diagnose.segment import Segment, find_segment, telling_nodes
from alignkit.graph import MarkedGraph
from alignkit.records import Capture, LayerRow, Verdict

_MOST_NOTES = 3
_VISIBLE = 1e-3  # of a tensor's scale
_MAGNIFIED = 1000.0  # times the inputs' difference, each relative to its scale
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


@dataclass(frozen=True, slots=True)
class Start:
    """A tap that differs in the ordinary run, is right on the reference's own values, and has only
    right values ``before`` it.

    Its verdict may be OK: where float64 decides otherwise as well, any decision is within the noise.
    """

    row: LayerRow
    segment: Segment
    before: tuple[LayerRow, ...]


def find_starts(rows: Sequence[LayerRow], marked: MarkedGraph, reference: Capture) -> list[Start]:
    """Where differences start although nothing introduces them, in execution order; the first few."""
    by_tap = {row.tap: row for row in rows}
    by_tensor: dict[str, LayerRow] = {}
    starts: list[Start] = []
    for row in rows:
        if _may_start(row):
            segment = find_segment(marked, row.tap, reference.values.keys())
            sources = [source for source in segment.borders.values() if source not in marked.inputs]
            # An input tap that repeats an earlier one has no row: the one's before it speaks for it.
            before = [by_tap.get(source) or by_tensor.get(reference.first(source)) for source in sources]
            right = tuple(one for one in before if one is not None and one.verdict.is_ok)
            magnifies = row.verdict is Verdict.PROPAGATED or _is_magnified(row, right)
            if segment.nodes and len(right) == len(before) and magnifies:
                starts.append(Start(row, segment, right))
        if row.verdict.was_compared and row.tap in reference.values:
            by_tensor[reference.first(row.tap)] = row
    return starts[:_MOST_NOTES]


def _may_start(row: LayerRow) -> bool:
    """Whether a row's values differ visibly, and its segment's alone could be told from what came in."""
    if row.introduced is None:
        return False
    is_within_noise = row.verdict is Verdict.OK and _difference(row) > _VISIBLE
    return row.verdict is Verdict.PROPAGATED or is_within_noise


def _is_magnified(row: LayerRow, before: Sequence[LayerRow]) -> bool:
    """Whether what differs visibly here came in as next to nothing, and not out of the segment itself."""
    own = row.introduced.max_abs or 0.0 if row.introduced else 0.0
    came = row.propagated.max_abs or 0.0 if row.propagated else 0.0
    return own < came / 2 and 0 < _MAGNIFIED * max(map(_difference, before), default=0.0) < _difference(row)


def _difference(row: LayerRow) -> float:
    """max |error| of the ordinary run, relative to the tensor's scale."""
    error = row.propagated
    if error is None or not error.max_abs:
        return 0.0
    return error.max_abs / error.scale if error.scale else math.inf


def describe_flip(start: Start) -> str:
    """A note on a difference that rounding was magnified to."""
    operators = [node.op_type for node in telling_nodes(start.segment)]
    deciding = [op for op in operators if op in _CERTAIN] or [op for op in operators if op in _DECISIONS]
    kind = "decision flip" if deciding else "ill-conditioned step"
    named = deciding or [op for op in operators if op in _ILL_CONDITIONED] or operators
    incoming = max((one.propagated.max_abs or 0.0 for one in start.before if one.propagated), default=0.0)
    result = start.row.propagated.max_abs if start.row.propagated else None
    figure = f"differs by up to {result:.3g}" if result is not None else "differs in shape or finiteness"
    return (
        f"{kind} at {start.row.tap} ({', '.join(dict.fromkeys(named))}): its inputs differ by rounding alone "
        f"({incoming:.3g}) and its result {figure}; on the reference's own values it is right."
    )
