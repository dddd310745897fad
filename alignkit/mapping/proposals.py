"""Proposals: which open tensor a named value would hold, were its numbers right.

Asked only where numbers cannot answer: several values hold them, or a fault has changed them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from alignkit.mapping.recorded import Recording
from alignkit.mapping.records import Claims
from alignkit.records import ROOT, TapKind


@dataclass(frozen=True, slots=True)
class Proposals:
    """The claims of a file, read against the flow of the reference."""

    claims: Claims
    recording: Recording

    def claimed(self, index: int) -> frozenset[str]:
        """Every value that names put forward for a tensor."""
        return frozenset().union(*(self.claims.values.get(t, ()) for t in self.recording.tensors[index].taps))

    def end_of_fold(self, index: int) -> int:
        """The tensor that the node behind this one really computes; ``index`` where nothing was folded.

        A module that has no node of its own, though its input's maker has one and all that reads that
        is known, was folded into that node, which therefore computes what the module returns. Where
        names are lost a scaled weight tells as much.
        """
        if any(path in self.claims.folded for path, _ in self.recording.makers(index)):
            following = self._folded(index)
            return index if following is None else following
        named = self._named(index, TapKind.MODULE)
        if not named or not named.isdisjoint(self.claims.unclear):
            return index
        while (following := self._folded(index)) is not None:
            index = following
        return index

    def _folded(self, index: int) -> int | None:
        """What modules without a node make of a tensor, where that is one thing."""
        readers = [call for call in self.recording.readers(index) if call[0] not in self.claims.owned]
        made = {made for call in readers for made in self.recording.makes.get(call, ()) if made > index}
        return made.pop() if len(made) == 1 else None

    def suppose(
        self, wanted: Collection[int], is_possible: Callable[[int, str], bool], base: Callable[[str], str]
    ) -> dict[int, str]:
        """One value per tensor of ``wanted`` for which the names leave no choice.

        What a module's nodes hand out counts before what they read; of two tensors that claim one
        value the later owns it, for a merged node computes the last thing.
        """
        supposed: dict[int, str] = {}
        for kind in (TapKind.MODULE, TapKind.INPUT):
            for index in sorted(wanted):
                target = self.end_of_fold(index) if kind is TapKind.MODULE else index
                values = {v for v in self._named(index, kind) if is_possible(target, v)}
                if target in wanted and target not in supposed and len({base(v) for v in values}) == 1:
                    self._give(supposed, target, min(values), kind)
        return supposed

    def _named(self, index: int, kind: TapKind) -> frozenset[str]:
        """What names put forward for the taps of one kind that saw a tensor."""
        named: set[str] = set()
        for name in self.recording.tensors[index].taps:
            tap = self.recording.taps[name].id
            if tap.kind is kind:
                values = self.claims.values.get(name, frozenset())
                # A node of no known module may be the parent's own code, whose result comes after.
                is_whole = tap.path == ROOT or self.recording.is_leaf((tap.path, tap.call))
                named |= values if is_whole else values - self.claims.unclear
        return frozenset(named)

    @staticmethod
    def _give(supposed: dict[int, str], target: int, value: str, kind: TapKind) -> None:
        owner = next((other for other, held in supposed.items() if held == value), None)
        if owner is not None and (kind is TapKind.INPUT or owner > target):
            return
        if owner is not None:
            del supposed[owner]
        supposed[target] = value
