"""Suppositions: values taken for open tensors although their numbers differ, as at a fault they must.

Names say which, or the neighbours; form, the value's own name, right values behind it and numbers that
are nearer to another tensor can refute it. What is refuted stays without a value: a wrong pair would
blame the wrong layer.
"""

from __future__ import annotations

from collections.abc import Mapping

from alignkit.mapping.fingerprint import distance
from alignkit.mapping.search import Search
from alignkit.records import Array

_FAR = 0.5  # few faults in one layer move its numbers by half their norm
_CLEARLY = 0.5  # a distance below this share of another is told from it


def suppose(search: Search) -> dict[int, str]:
    """What names put forward for open tensors, as far as nothing refutes it."""
    wanted = {tensor.index for tensor in search.open()}
    supposed = search.proposals.suppose(wanted, lambda i, value: _may_be(search, i, value), search.views.base)
    plainest = {index: _plainest(search, index, value) for index, value in supposed.items()}
    return _without_strays(search, plainest)


def _may_be(search: Search, index: int, value: str) -> bool:
    """Whether neither its form, nor its name, nor what is found already speaks against a value."""
    return (
        search.could_hold(index, value)
        and search.proposals.allows(index, value)
        and not search.is_right(value)
    )


def _plainest(search: Search, index: int, value: str) -> str:
    """The view of ``value`` that has the tensor's own shape, where there is one."""
    shape, base = search.recording.tensors[index].value.shape, search.views.base(value)
    views = [v for v in search.dtypes if search.shapes[v] == shape and search.views.base(v) == base]
    return value if search.shapes[value] == shape or not views else views[0]


def _without_strays(search: Search, supposed: Mapping[int, str]) -> dict[int, str]:
    """``supposed`` but for values whose numbers are far off and nearer to another tensor of their name.

    Looked at with all that is found or supposed being fed, so that no earlier fault counts.
    """
    holders = {value: index for index, value in supposed.items() if search.proposals.namesakes(index, value)}
    kept = dict(supposed)
    for batch in search.fetch(list(holders), search.cuts(supposed)):
        for value, array in batch.items():
            index = holders[value]
            nearer = _nearer(search, index, value, array)
            if nearer:
                del kept[index]
            if len(nearer) == 1 and nearer[0] not in supposed:
                kept[nearer[0]] = value
    return kept


def _nearer(search: Search, index: int, value: str, array: Array) -> list[int]:
    """The open tensors that a far-off value is clearly nearer to, among those of its name."""

    def apart(other: int) -> float:
        recorded = search.recording.tensors[other].value
        return distance(array.reshape(recorded.shape), recorded)

    far = apart(index)
    if far <= _FAR:
        return []
    others = [i for i in search.proposals.namesakes(index, value) if i not in search.found]
    return [i for i in others if search.could_hold(i, value) and apart(i) < _CLEARLY * far]


def accept_between(search: Search) -> int:
    """Take the one value that lies between the neighbours of an open tensor; how many were taken."""
    accepted = 0
    for tensor in search.open():
        if tensor.index not in search.rivals and (value := _between(search, tensor.index)):
            search.accept(tensor.index, value, "neighbours")
            accepted += 1
    return accepted


def _between(search: Search, index: int) -> str | None:
    recording = search.recording
    makers = filter(recording.is_leaf, recording.makers(index))
    readers = filter(recording.is_leaf, recording.readers(index))
    around = (
        [v for call in makers for v in search.values_of(recording.reads.get(call, ()))],
        [v for call in readers for v in search.values_of(recording.makes.get(call, ()))],
    )
    if not all(around):
        return None
    room = [v for v in search.dtypes if search.could_hold(index, v) and search.fits(index, v)]
    free = [value for value in room if _may_be(search, index, value)]
    return free[0] if len({search.views.base(value) for value in free}) == 1 else None
