"""Choose: from all pairs whose numbers agree to one value per tensor, or to none.

A value belongs to the tensor it is nearest to, a tensor to its nearest values. Where several values
remain, those that are only views of each other are one; one in the tensor's own order goes before a
permuted one; then the file's names decide, then the neighbours. What still leaves a choice is
ambiguous and stays so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from alignkit.mapping.records import Match, Shape
from alignkit.mapping.values import ValueGraph

_NEARER = 4.0  # a distance this many times the smallest is another value's
_ROUNDING = 1e-6  # distances below are all the same


@dataclass(frozen=True, slots=True)
class Views:
    """Which values are only other views (reshaped, transposed, cast) of one and the same."""

    graph: ValueGraph
    shapes: Mapping[str, Shape]

    def base(self, value: str) -> str:
        """The first value of which ``value`` is a view."""
        while (origin := self.graph.viewed(value)) in self.shapes and origin is not None:
            if _size(self.shapes[origin]) != _size(self.shapes[value]):
                break
            value = origin
        return value


def _size(shape: Shape) -> int:
    size = 1
    for dim in shape:
        size *= dim
    return size


def keep_nearest(pairs: Iterable[tuple[int, Match]]) -> dict[int, list[Match]]:
    """The pairs that are near to the best of both their value and their tensor."""
    pairs = list(pairs)
    of_value: dict[str, float] = {}
    of_tensor: dict[int, float] = {}
    for _, match in pairs:
        of_value[match.value] = min(match.distance, of_value.get(match.value, match.distance))
    own = [(t, m) for t, m in pairs if _is_near(m.distance, of_value[m.value])]
    for tensor, match in own:
        of_tensor[tensor] = min(match.distance, of_tensor.get(tensor, match.distance))
    kept: dict[int, list[Match]] = {}
    for tensor, match in own:
        if _is_near(match.distance, of_tensor[tensor]):
            kept.setdefault(tensor, []).append(match)
    return kept


def _is_near(distance: float, best: float) -> bool:
    return distance <= max(_NEARER * best, _ROUNDING)


@dataclass(frozen=True, slots=True)
class Choice:
    """One tensor's value, whether names put it forward, and whether it had to be told from others."""

    match: Match
    claimed: bool
    settled_by: str = ""  # "names" or "neighbours" where the numbers left a choice


def choose(
    matches: Sequence[Match],
    views: Views,
    claimed: frozenset[str],
    fits: Callable[[str], bool],
) -> Choice | None:
    """The one value among ``matches``; None where nothing tells them apart.

    ``claimed`` are values that names put forward, ``fits`` says whether the neighbours that are
    mapped already leave room for a value.
    """
    plain = [m for m in matches if m.layout.keeps_order]
    bases = _by_base(plain or matches, views)
    named = {views.base(value) for value in claimed}
    by = ""
    if len(bases) > 1 and len(bases.keys() & named) == 1:
        bases, by = {base: found for base, found in bases.items() if base in named}, "names"
    if len(bases) > 1:
        bases, by = {b: m for b, m in bases.items() if any(fits(n.value) for n in m)}, "neighbours"
    if len(bases) != 1:
        return None
    ((base, found),) = bases.items()

    def rank(match: Match) -> tuple[bool, bool, int]:
        return not match.layout.is_plain, match.value not in claimed, views.graph.order[match.value]

    return Choice(min(found, key=rank), base in named, by)


def _by_base(matches: Iterable[Match], views: Views) -> dict[str, list[Match]]:
    bases: dict[str, list[Match]] = {}
    for match in matches:
        bases.setdefault(views.base(match.value), []).append(match)
    return bases
