"""Where two runs part: the first tap that differs, and whether what it is computed from agrees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import takewhile

from alignkit.dump.records import DumpedTap
from alignkit.records import Culprit, LayerRow

_NAMED = 4  # predecessors told by name

_ADVICE = (
    "Look at what is computed between these taps. What this place itself does to right inputs needs a run: "
    "alignkit compare, where the model and the file are at hand."
)


@dataclass(frozen=True, slots=True)
class Start:
    """The culprit, where its inputs are known to agree; a note, where the first difference is not one."""

    culprits: tuple[Culprit, ...] = ()
    notes: tuple[str, ...] = ()


def find_start(rows: Mapping[str, LayerRow], taps: Mapping[str, DumpedTap], *, inputs_agree: bool) -> Start:
    """The start of the divergence among ``rows``, in execution order.

    A dump cannot tell what a tap's own segment does, so that the cause stays unknown and the
    confidence low. ``inputs_agree``: both runs were fed the same, as far as the dumps show.
    """
    wrong = (row for row in rows.values() if row.verdict.was_compared and not row.verdict.is_ok)
    first = next(wrong, None)
    if first is None:
        return Start()
    before = [row.tap for row in takewhile(lambda row: row is not first, rows.values())]
    evidence = _inputs_that_agree(first.tap, before, rows, taps, inputs_agree)
    if evidence:
        return Start((_culprit(first, taps[first.tap], evidence),))
    unseen = sum(not rows[tap].verdict.was_compared for tap in before)
    reason = (
        f"{unseen} of the {len(before)} taps before it were not compared"
        if unseen
        else ("there is no tap before it, and the inputs were not compared")
    )
    return Start(notes=(f"The first tap that differs is {first.tap}; {reason}, so it may start earlier.",))


def _inputs_that_agree(
    tap: str,
    before: list[str],
    rows: Mapping[str, LayerRow],
    taps: Mapping[str, DumpedTap],
    inputs_agree: bool,
) -> str:
    """In what sense the inputs of ``tap``, the first that differs, agree; empty where that is not known."""
    nearest = _nearest_compared(tap, rows, taps)
    if nearest:
        more = f" and {len(nearest) - _NAMED} more" if len(nearest) > _NAMED else ""
        return f"its inputs agree ({', '.join(nearest[:_NAMED])}{more})"
    if nearest is not None and inputs_agree:
        return "it is computed from the model's inputs alone, which agree"
    if before and all(rows[name].verdict.was_compared for name in before):
        return f"all {len(before)} taps before it agree"
    return "no tap lies before it, and the model's inputs agree" if inputs_agree and not before else ""


def _nearest_compared(
    tap: str, rows: Mapping[str, LayerRow], taps: Mapping[str, DumpedTap]
) -> list[str] | None:
    """The compared taps nearest before ``tap``, going past those that were not; None where one of these
    does not say what it reads."""
    found: dict[str, None] = {}
    seen = {tap}
    waiting = [tap]
    while waiting:
        reads = taps[waiting.pop()].reads
        if reads is None or not rows.keys() >= set(reads):
            return None
        for name in reads:
            if rows[name].verdict.was_compared:
                found[name] = None
            elif name not in seen:
                waiting.append(name)
            seen.add(name)
    return list(found)


def _culprit(row: LayerRow, tap: DumpedTap, inputs: str) -> Culprit:
    return Culprit(
        tap=row.tap,
        module=tap.owner or row.module,
        op=tap.op,
        cause="unknown",
        confidence="low",
        evidence=(f"first tap in order that differs beyond tolerance; {inputs}",),
        advice=_ADVICE,
        onnx_nodes=(tap.onnx_node,) if tap.onnx_node else (),
        source=tap.source.location if tap.source else None,
        source_line=tap.source.text if tap.source else None,
    )
