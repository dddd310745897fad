"""Passed on: a tensor that a module hands on in eager, and that the file has at two places.

Where a module returns the very tensor that it was given, its two sides are one by their numbers. The file
may compute something else between them: a branch that is taken while exporting, or a limit that the
reference never reaches. Names tell where the module's own node stands.
"""

from __future__ import annotations

from alignkit.mapping.recorded import Recorded
from alignkit.mapping.search import Search
from alignkit.records import TapKind


def pass_on(search: Search) -> int:
    """Give the taps behind such modules the value that is theirs; how many got one."""
    before = len(search.passed)
    for tensor in search.recording.tensors:
        if tensor.index in search.alike:  # found by its numbers
            _follow(search, tensor)
    return len(search.passed) - before


def _follow(search: Search, tensor: Recorded) -> None:
    """Along the taps that saw ``tensor``, in execution order."""
    start = current = search.found[tensor.index].match.value
    for tap in tensor.taps:
        own = search.passed.get(tap) or _own_value(search, tensor, tap, current)
        current = own or current
        if current != start and start not in search.proposals.claims.values.get(tap, ()):
            search.passed[tap] = current


def _own_value(search: Search, tensor: Recorded, tap: str, current: str) -> str | None:
    """What the names say that a module made of ``current``, which in eager it handed on."""
    seen = search.recording.taps[tap].id
    if seen.kind is not TapKind.MODULE or (seen.path, seen.call) not in search.recording.readers(
        tensor.index
    ):
        return None
    same = {match.value for match in search.alike[tensor.index]}
    made = [
        value
        for value in search.proposals.claims.values.get(tap, ())
        if value not in same
        and search.could_hold(tensor.index, value)
        and search.proposals.allows(tensor.index, value)
        and search.neighbours.is_behind(value, {current})
    ]
    if len({search.views.base(value) for value in made}) != 1:
        return None
    return min(
        made, key=lambda value: (search.shapes[value] != tensor.value.shape, search.graph.order[value])
    )
