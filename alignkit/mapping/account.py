"""Account: what a finished search says of each tap, with the reason where it has no value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import isnan, nan, prod

from alignkit.mapping.records import How, Layout, MappedTap, Match
from alignkit.mapping.search import Found, Search
from alignkit.records import Capture, TapKind

_SURE = 1e-3
_SHOWN = 3


def describe_taps(search: Search, reference: Capture, pinned: Mapping[str, str]) -> dict[str, MappedTap]:
    """One :class:`MappedTap` for every tap of the reference, in its order."""
    described = {}
    for name in reference.taps:
        index = search.recording.of_tap.get(name)
        if index is None:
            reason = reference.untapped.get(name, "it recorded no numbers")
            described[name] = MappedTap(name, None, How.MISSING, reason=reason)
        elif index in search.found:
            described[name] = _mapped(name, index, search, pinned)
        else:
            described[name] = _unmapped(name, index, search)
    return described


def _mapped(name: str, index: int, search: Search, pinned: Mapping[str, str]) -> MappedTap:
    found = search.found[index]
    shape, value = search.recording.tensors[index].value.shape, pinned.get(name, found.match.value)
    if found.how is How.PINNED and value != found.match.value and prod(search.shapes[value]) == prod(shape):
        # Two taps of one tensor, before and behind what quantises it: each has its own pin.
        found = replace(found, match=Match(value, nan, Layout.reshape(search.shapes[value], shape)))
    elif found.how is How.PINNED and name not in pinned:
        found = replace(found, how=How.VALUE)  # another tap of the same tensor was pinned
    elif found.how is not How.PINNED:
        found = _own(name, index, search)
    match = found.match
    return MappedTap(
        name,
        match.value,
        found.how,
        _confidence(found, search.recording.tensors[index].print.simple),
        match.layout,
        _how_settled(found),
        None if isnan(match.distance) else match.distance,
    )


def _own(name: str, index: int, search: Search) -> Found:
    """The value that the tensor was passed on to, or, of several with its numbers, the one that the names put
    forward for this tap."""
    found = search.found[index]
    if (value := search.passed.get(name)) is not None:
        layout = Layout.reshape(search.shapes[value], search.recording.tensors[index].value.shape)
        return Found(Match(value, nan, layout), How.PROVENANCE, "names")
    claimed = search.proposals.claims.values.get(name, frozenset())
    own: list[Match] = [m for m in search.alike.get(index, ()) if m.value in claimed and m.layout.is_plain]
    if len(own) == 1 and own[0].value != found.match.value:
        return Found(own[0], How.BOTH, "names")
    return found


def _confidence(found: Found, simple: bool) -> str:
    if found.how in (How.PINNED, How.BOTH):
        return "high"
    if found.how is How.PROVENANCE:
        return "medium" if found.settled_by == "names" else "low"
    return "high" if found.match.distance <= _SURE and not found.settled_by and not simple else "medium"


def _how_settled(found: Found) -> str:
    if found.how is How.PROVENANCE:
        source = "names say so" if found.settled_by == "names" else "it alone lies between its neighbours"
        return f"{source}; its numbers differ"
    if found.settled_by:
        return f"several values hold its numbers; its {found.settled_by} decided"
    return ""


def _unmapped(name: str, index: int, search: Search) -> MappedTap:
    if index in search.rivals:
        values = [match.value for match in search.rivals[index]]
        shown = ", ".join(map(repr, values[:_SHOWN])) + (", …" if len(values) > _SHOWN else "")
        numbers = "constant numbers" if search.recording.tensors[index].print.simple else "its numbers"
        reason = f"{numbers} are also in {shown}, and no name tells which" if values else numbers
        return MappedTap(name, None, How.AMBIGUOUS, reason=reason)
    if fused := _fused(index, search):
        return MappedTap(name, None, How.FUSED, reason=fused)
    reason = "no value of the file holds its numbers"
    if search.graph.bodies:
        reason += f"; it may lie inside the body of {search.graph.bodies[0]}, out of reach"
    return MappedTap(name, None, How.MISSING, reason=reason)


def _fused(index: int, search: Search) -> str:
    """Which node computes the tensor and goes on; empty where none is known to."""
    for name in search.recording.tensors[index].taps:
        claimed = search.proposals.claims.values.get(name, frozenset())
        is_made = search.recording.taps[name].id.kind is TapKind.MODULE
        if is_made and len(claimed) == 1 and (tap := _tap_at(min(claimed), search)):
            return f"its node {_node(min(claimed), search)} computes {tap}"
    made = _next_found(index, search)
    if made is None:
        return ""
    value = search.found[made].match.value
    return f"merged into {_node(value, search)}, which computes {search.recording.tensors[made].taps[0]}"


def _next_found(index: int, search: Search) -> int | None:
    """The first tensor with a value that modules make of this one."""
    seen, waiting = {index}, [index]
    while waiting:
        for call in search.recording.readers(waiting.pop(0)):
            for made in search.recording.makes.get(call, ()):
                if made in search.found and search.found[made].match.value in search.graph.producer:
                    return made
                if made not in seen:
                    seen.add(made)
                    waiting.append(made)
    return None


def _tap_at(value: str, search: Search) -> str:
    held = (i for i, found in search.found.items() if found.match.value == value)
    return next((search.recording.tensors[index].taps[0] for index in held), "")


def _node(value: str, search: Search) -> str:
    base = search.views.base(value)
    node = search.graph.nodes[search.graph.producer.get(base, search.graph.producer[value])]
    return f"{node.op_type} {node.name!r}"
