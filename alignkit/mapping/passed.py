"""Passed on: one tensor of the reference that the file has at two places.

By their numbers the two sides of a module are one where it hands on the very tensor that it was given, and
so are those of a step inside it that changes nothing, such as adding a bias of zeros. The file may compute
something else there: a branch that is taken while exporting, a limit that the reference never reaches, a
wrong operator. Names tell where the module's own result stands.
"""

from __future__ import annotations

from math import inf

from alignkit.mapping.recorded import Recorded
from alignkit.mapping.refute import may_be
from alignkit.mapping.search import Search
from alignkit.records import TapKind


def pass_on(search: Search) -> int:
    """Give the taps behind such a step the value that is theirs; how many got one."""
    before = len(search.passed)
    for tensor in search.recording.tensors:
        # Found by its numbers, and not a constant one: those agree by chance.
        if tensor.index in search.alike and not tensor.print.simple:
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
    """What the names say that a module made of ``current``, and that has other numbers."""
    if search.recording.taps[tap].id.kind is not TapKind.MODULE:
        return None
    claimed = search.proposals.claims.values.get(tap, frozenset())
    same = {search.views.base(value) for value in (current, *(m.value for m in search.alike[tensor.index]))}
    if any(search.views.base(value) in same for value in claimed):
        return None
    made = [
        value
        for value in claimed
        if may_be(search, tensor.index, value, within=inf) and search.neighbours.is_behind(value, {current})
    ]
    if len({search.views.base(value) for value in made}) != 1:
        return None
    return min(
        made, key=lambda value: (search.shapes[value] != tensor.value.shape, search.graph.order[value])
    )
