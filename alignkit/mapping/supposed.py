"""Suppositions: values taken for open tensors although their numbers differ, as at a fault they must.

Names say which, or the neighbours: where the file has, between what is known, just as many values as
tensors are left, and in one line. Form, the value's own name, right values behind it and numbers that are
nearer to another tensor can refute it. What is refuted stays without a value: a wrong pair would blame
the wrong layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from alignkit.mapping.fingerprint import distance
from alignkit.mapping.refute import FAR, is_weighted, may_be
from alignkit.mapping.search import Search
from alignkit.records import Array

_LONGEST_RUN = 3  # tensors: in longer ones a value too many and one too few may cancel
_CLEARLY = 0.5  # a distance below this share of another is told from it


def suppose(search: Search) -> dict[int, str]:
    """What names put forward for open tensors, as far as nothing refutes it."""
    wanted = {tensor.index for tensor in search.open()}
    supposed = search.proposals.suppose(
        wanted,
        lambda i, value: may_be(search, i, value),
        lambda i, value: is_weighted(search, i, value),
        search.views.base,
    )
    plainest = {index: _plainest(search, index, value) for index, value in supposed.items()}
    return _without_strays(search, plainest)


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
    if far <= FAR:
        return []
    others = [i for i in search.proposals.namesakes(index, value) if i not in search.found]
    return [i for i in others if search.could_hold(i, value) and apart(i) < _CLEARLY * far]


def accept_between(search: Search) -> int:
    """Take the values that lie between the neighbours of open tensors, as many as there are tensors; how
    many were taken."""
    accepted = 0
    for tensor in search.open():
        for index, value in _between(search, _run_up_to(search, tensor.index)).items():
            search.accept(index, value, "neighbours")
            accepted += 1
    return accepted


def _run_up_to(search: Search, index: int) -> list[int]:
    """Open tensors that modules make one of the other, the last of them ``index``; the first is made of what
    is found, or by code between the modules. None where that is not known."""
    run: list[int] = []
    while index not in search.rivals and index not in search.found and len(run) < _LONGEST_RUN:
        run.insert(0, index)
        read = search.recording.made_of(index)
        if not read or any(search.values_of(read)):
            return run
        if len(read) > 1:
            break
        index = read[0]
    return []


def _between(search: Search, run: list[int]) -> dict[int, str]:
    """A value for each tensor of a run where the file has just so many, in one line, before what is found."""
    recording = search.recording
    readers = [call for index in run[-1:] for call in recording.readers(index) if recording.is_leaf(call)]
    after = {v for call in readers for v in search.values_of(recording.makes.get(call, ()))}
    if not after:
        return {}
    before = set(search.values_of(recording.made_of(run[0])))
    lying = [
        value
        for value in search.dtypes
        if all(search.neighbours.is_behind(end, {value}) for end in after)
        and (not before or search.neighbours.is_behind(value, before))
    ]
    free = {value for index in run for value in lying if may_be(search, index, value)}
    line = sorted({search.views.base(value) for value in free}, key=search.graph.order.__getitem__)
    is_line = all(search.neighbours.is_behind(later, {earlier}) for earlier, later in pairwise(line))
    if len(line) != len(run) or not is_line:
        return {}
    return {
        index: min((v for v in free if search.views.base(v) == base), key=search.graph.order.__getitem__)
        for index, base in zip(run, line, strict=True)
    }
