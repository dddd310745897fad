"""Parts: a run of bounded size at a time.

The taps of a file are put into parts, in the order of the file, so that the values of one part
need no more memory than asked for (but a single value may). A part depends on earlier ones only.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from alignkit.budget import PART_TAPS
from alignkit.graph import MarkedGraph, slice_graph, weight_size
from alignkit.records import Array


def plan_parts(
    marked: MarkedGraph,
    values: Mapping[str, Array],
    limit: int,
    taps: Collection[str] | None = None,
    *,
    weights: Mapping[str, int] | None = None,
    weight_limit: int = 0,
) -> list[tuple[str, ...]]:
    """Taps (those in ``taps``, None: all) in parts whose values take at most ``limit`` bytes each.

    ``values`` tells how large a tap's value is; with ``weights``, the bytes that its segment reads, those of
    a part take at most ``weight_limit``. No part has more than ``PART_TAPS`` taps. There is always a part, if
    an empty one.
    """
    parts: list[list[str]] = [[]]
    seen: set[str] = set()
    size = read = 0
    for debug in marked.debugs:
        if taps is not None and debug.tap not in taps:
            continue
        value = values.get(debug.tap)
        more = value.nbytes if value is not None and debug.inflow not in seen else 0
        heavier = (weights or {}).get(debug.tap, 0)
        too_large = (more and size + more > limit) or (heavier and read + heavier > weight_limit)
        if parts[-1] and (too_large or len(parts[-1]) == PART_TAPS):
            parts.append([])
            size = read = 0
        seen |= {debug.inflow, debug.outflow}
        size, read = size + more, read + heavier
        parts[-1].append(debug.tap)
    return [tuple(part) for part in parts]


def weights_by_tap(marked: MarkedGraph) -> dict[str, int]:
    """Tap -> bytes of the weights that its segment reads, each weight at the first tap that does."""
    sizes = {name: weight_size(tensor) for name, tensor in marked.weights.items()}
    stops = {debug.outflow for debug in marked.debugs} | marked.inputs.keys()
    found = {}
    for debug in marked.debugs:
        reads = slice_graph(marked, [debug.inflow], stops).reads
        found[debug.tap] = sum(sizes.pop(name, 0) for name in reads)
    return found


def last_uses(marked: MarkedGraph, parts: Sequence[Collection[str]]) -> dict[str, int]:
    """Tap -> the last part of an ordinary run that goes on from its value; only taps that are needed."""
    of_part = {tap: place for place, part in enumerate(parts) for tap in part}
    inflow = {debug.tap: debug.inflow for debug in marked.debugs}
    needed: dict[str, int] = {}
    given = marked.inputs.keys()
    for place in range(1, len(parts)):
        cuts = {d.outflow: d.tap for d in marked.debugs if of_part.get(d.tap, place) < place}
        reads = slice_graph(marked, (inflow[tap] for tap in parts[place]), cuts.keys() | given).reads
        needed.update(dict.fromkeys(_among(cuts, reads), place))
    return needed


def _among(cuts: Mapping[str, str], reads: Iterable[str]) -> list[str]:
    return [cuts[value] for value in reads if value in cuts]
