"""Refutations: what speaks against taking a value for a tensor although their numbers differ.

A wrong pair would blame the wrong layer, so that one thing is enough: its form, its name, what it was made
without, or that its own numbers are right.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf

from alignkit.mapping.fingerprint import distance
from alignkit.mapping.recorded import Recorded
from alignkit.mapping.search import Search

FAR = 0.5
"""Of the norm: few faults in one layer move its numbers so far."""
_AGREED = 1e-5  # nearer than a fault that shows comes


def may_be(search: Search, index: int, value: str, *, within: float = FAR) -> bool:
    """Whether nothing that is known so far speaks against a value, whose numbers are expected ``within`` that
    distance, in L2 norm, where they are all that could tell."""
    return (
        search.could_hold(index, value)
        and search.proposals.allows(index, value)
        and is_weighted(search, index, value)
        and not _is_right(search, index, value, within)
    )


def is_weighted(search: Search, index: int, value: str) -> bool:
    """Whether the weights of the modules that made a tensor are behind ``value``, as far as the file has
    them: what lies before a layer's node cannot be what the layer returned."""
    weighted = search.proposals.claims.weighted
    made = [weighted[path] for path, _ in search.recording.makers(index) if path in weighted]
    return all(search.neighbours.is_behind(value, values) for values in made)


def _is_right(search: Search, index: int, value: str, within: float) -> bool:
    """Whether what agrees but for rounding is computed from ``value``, and would not agree if it were
    computed from the tensor: then the numbers of ``value`` are right, and it cannot be a tensor with others.
    What was decided by them, such as the index of the largest, may agree all the same."""
    tensors = search.recording.tensors
    agreed = {
        found.match.value: i
        for i, found in search.found.items()
        if found.match.distance <= _AGREED
        and tensors[i].print.kind == "float"
        and not tensors[i].print.simple
    }
    ends = search.neighbours.led_to(value, agreed, search.taken())
    if not ends:
        return False
    return _hidden_within(search, tensors[index], value, {end: agreed[end] for end in ends}) >= within


def _hidden_within(search: Search, tensor: Recorded, value: str, ends: Mapping[str, int]) -> float:
    """How far a tensor is from ``value``, if all ``ends`` hold their tensors, be they computed from the one
    or from the other; infinite if they do not.

    Behind a layer norm all scales are one, behind a layer scale of 1e-6 hardly anything is left.
    """
    key = tensor.index, value, len(search.found), len(search.passed)  # what is fed decides, and only grows
    if key not in search.hidden:
        (own,) = (array for batch in search.fetch([value], search.cuts({})) for array in batch.values())
        apart = distance(own.reshape(tensor.value.shape), tensor.value)
        is_hidden = apart > _AGREED and _hold_with(search, {value: tensor}, ends)
        search.hidden[key] = apart if is_hidden else inf
    return search.hidden[key]


def _hold_with(search: Search, tried: Mapping[str, Recorded], ends: Mapping[str, int]) -> bool:
    """Whether found values agree with their tensors as well where others are computed from what is tried."""
    return all(
        distance(search.found[ends[end]].match.layout.apply(array), search.recording.tensors[ends[end]].value)
        <= _AGREED
        for batch in search.fetch(list(ends), search.cuts({}, tried))
        for end, array in batch.items()
    )
