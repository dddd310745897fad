"""Zoom: the operation inside a suspected module at which its error starts."""

from __future__ import annotations

from collections.abc import Sequence

from alignkit.diagnose import Closer, Suspect, find_segment
from alignkit.graph import slice_graph
from alignkit.records import TapKind, Verdict
from alignkit.settings import Settings
from alignkit.trial import Trial, judge_introduced

_WRONG = (Verdict.INTRODUCED, Verdict.NONFINITE, Verdict.SHAPE, Verdict.DTYPE)


def find_closer(
    trial: Trial, zoomed: Trial, suspects: Sequence[Suspect], settings: Settings
) -> dict[str, Closer]:
    """Suspect's tap -> the first operation in its segment that is wrong on the reference's own values.

    ``zoomed`` is the trial made again with operations tapped inside the suspects' modules.
    """
    operations = {name: tap for name, tap in zoomed.reference.taps.items() if tap.id.kind is TapKind.OP}
    rows = {row.tap: row for row in judge_introduced(zoomed, operations.keys(), settings)}
    coarse = {debug.outflow for debug in zoomed.marked.debugs if debug.tap in trial.reference.taps}
    ends = {debug.tap: debug.inflow for debug in zoomed.marked.debugs}
    found = {}
    for suspect in suspects:
        if suspect.row.tap not in ends:
            continue
        inside = slice_graph(zoomed.marked, [ends[suspect.row.tap]], coarse).reads
        for name, tap in operations.items():
            row = rows.get(name)
            if row is not None and row.verdict in _WRONG and ends.get(name) in inside:
                segment = find_segment(zoomed.marked, name, zoomed.reference.values.keys())
                found[suspect.row.tap] = Closer(row, tap, segment)
                break
    return found
