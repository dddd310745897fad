"""Proposals: which open tensor a named value would hold, were its numbers right.

Asked only where numbers cannot answer: several values hold them, or a fault has changed them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from alignkit.mapping.fingerprint import scales_channels
from alignkit.mapping.recorded import Recording
from alignkit.mapping.records import Claims
from alignkit.records import ROOT, TapKind


@dataclass(frozen=True, slots=True)
class Proposals:
    """The claims of a file, read against the flow of the reference."""

    claims: Claims
    recording: Recording
    _made: dict[str, set[int]] = field(default_factory=dict, repr=False)  # kept once computed
    _scales: dict[tuple[int, int], bool] = field(default_factory=dict, repr=False)  # as well

    def claimed(self, index: int) -> frozenset[str]:
        """Every value that names put forward for a tensor."""
        return frozenset().union(*(self.claims.values.get(t, ()) for t in self.recording.tensors[index].taps))

    def end_of_fold(self, index: int) -> int:
        """The tensor that the node behind this one really computes; ``index`` where nothing was folded.

        A module that has no node of its own, though its input's maker has one and all that reads that
        is known, was folded into that node, which therefore computes what the module returns. Where
        names are lost a scaled weight tells as much.
        """
        if (scaled := self._scaled_into(index)) is not None:
            return scaled
        folded = self._folded(index)
        named = self._named(index, TapKind.MODULE)
        if not named or not named.isdisjoint(self.claims.unclear):
            return index
        return (folded or [index])[-1]

    def _scaled_into(self, index: int) -> int | None:
        """What follows, where a weight is scaled and that scales channels: only that folds into a weight."""
        if not any(path in self.claims.folded for path, _ in self.recording.makers(index)):
            return None
        after = self._next_unowned(index)
        after = self._first_inside(index) if after is None else after
        return after if after is not None and self._is_scale(index, after) else None

    def _is_scale(self, index: int, after: int) -> bool:
        if (index, after) not in self._scales:
            before, made = self.recording.tensors[index], self.recording.tensors[after]
            told = scales_channels(before.value, made.value)
            kinds = (self.recording.taps[tap].module_type for tap in made.taps)
            self._scales[index, after] = (
                any("norm" in kind.lower() for kind in kinds) if told is None else told
            )
        return self._scales[index, after]

    def _folded(self, index: int) -> list[int]:
        """What modules without a node make of a tensor, and of that, while it is one thing.

        Where that ends at a tensor whose names give it a value of its own, those modules do have nodes
        which nobody named, and were not folded; a scaled weight alone vouches for the first of them.
        """
        start, scaled = self._returned(index), self._scaled_into(index)
        vouched = [] if scaled is None else [scaled]
        folded: list[int] = []
        while (after := self._next_unowned(index)) is not None:
            index = after
            own = self._returned(index)
            if own and own.isdisjoint(start):
                return [first for first in vouched if first in folded]
            folded.append(index)
        return folded or vouched

    def _next_unowned(self, index: int) -> int | None:
        """What modules without a node make of a tensor, where that is one thing."""
        readers = [call for call in self.recording.readers(index) if call[0] not in self.claims.owned]
        made = {made for call in readers for made in self.recording.makes.get(call, ()) if made > index}
        return made.pop() if len(made) == 1 else None

    def _first_inside(self, index: int) -> int | None:
        """What a module with modules inside makes of a tensor by its own code, before it calls the first of
        them: some norms have their activation inside."""
        calls = (call for call in self.recording.readers(index) if not self.recording.is_leaf(call))
        if not (readers := tuple(f"{path}." for path, _ in calls)):
            return None
        seen = (tap for tap in self.recording.of_tap if self.recording.taps[tap].id.kind is TapKind.INPUT)
        inside = (
            self.recording.of_tap[tap] for tap in seen if self.recording.taps[tap].id.path.startswith(readers)
        )
        return min((other for other in inside if other > index), default=None)

    def _returned(self, index: int) -> frozenset[str]:
        """What the modules that returned a tensor hand out, by their names."""
        taps = self.recording.tensors[index].taps
        returned = (t for t in taps if self.recording.taps[t].id.kind is TapKind.MODULE)
        return frozenset().union(*(self.claims.values.get(t, ()) for t in returned))

    def allows(self, index: int, value: str) -> bool:
        """Whether the module that the value's own name says has made it can have made the tensor.

        It has made what it returned and, where it has modules inside, what they saw; and what was
        folded into its node. Any other tensor belongs to another module, however well it would fit.
        """
        makers = self.claims.makers.get(value)
        return not makers or any(index in self._made_by(path) for path in makers)

    def _made_by(self, path: str) -> set[int]:
        if path not in self._made:
            seen = ((self.recording.taps[tap].id, i) for tap, i in self.recording.of_tap.items())
            own = {
                index
                for tap, index in seen
                if tap.path.startswith(f"{path}.") or (tap.path == path and tap.kind is not TapKind.INPUT)
            }
            self._made[path] = own.union(*(self._folded(index) for index in own))
        return self._made[path]

    def namesakes(self, index: int, value: str) -> list[int]:
        """The other tensors whose own module hands out ``value``, by its name."""
        others = (other.index for other in self.recording.tensors if other.index != index)
        return [other for other in others if value in self._returned(other)]

    def suppose(
        self,
        wanted: Collection[int],
        is_possible: Callable[[int, str], bool],
        is_weighted: Callable[[int, str], bool],
        base: Callable[[str], str],
    ) -> dict[int, str]:
        """One value per tensor of ``wanted`` for which the names leave no choice.

        A value's own name counts first, what a module's nodes hand out before what they read; of two
        tensors that claim one value the later owns it, for a merged node computes the last thing. That
        node ``is_weighted``: it reads the weights of the modules that made the tensor, or lies behind.
        """
        supposed: dict[int, str] = {}
        for kind in (TapKind.EXPLICIT, TapKind.MODULE, TapKind.INPUT):
            for index in sorted(wanted):
                target = self._named_for(index, kind)
                values = {v for v in self._named(index, kind) if is_possible(target, v)}
                if kind is TapKind.MODULE and target != index:
                    values = {v for v in values if is_weighted(index, v)}
                if kind is TapKind.INPUT and target == index:
                    values -= {v for v in values if self._may_be_read_for(index, v, is_possible)}
                if target in wanted and target not in supposed and len({base(v) for v in values}) == 1:
                    self._give(supposed, target, min(values), kind)
        return supposed

    def _named_for(self, index: int, kind: TapKind) -> int:
        """The tensor that a value really holds which names put forward for ``index``."""
        if kind is TapKind.MODULE:
            return self.end_of_fold(index)
        return self._start_of_fold(index) if kind is TapKind.INPUT else index

    def _named(self, index: int, kind: TapKind) -> frozenset[str]:
        """What names put forward for the taps of one kind that saw a tensor."""
        named: set[str] = set()
        for name in self.recording.tensors[index].taps:
            tap = self.recording.taps[name].id
            if tap.kind is kind:
                values = self.claims.values.get(name, frozenset())
                # A node of no known module may be the parent's own code, whose result comes after.
                is_whole = (
                    tap.path == ROOT
                    or kind is TapKind.EXPLICIT
                    or self.recording.is_leaf((tap.path, tap.call))
                )
                named |= values if is_whole else values - self.claims.unclear
        return frozenset(named)

    def _is_folded_away(self, index: int) -> bool:
        """Whether no module that returned a tensor has a node: its readers' may compute it themselves."""
        makers = [path for path, _ in self.recording.makers(index)]
        return bool(makers) and self.claims.owned.isdisjoint(makers)

    def _start_of_fold(self, index: int) -> int:
        """The tensor that modules without a node made this one of, where the file holds their weights: the
        nodes behind read that, for there the weights are; ``index`` where they are not."""
        if not self._is_folded_away(index):
            return index
        are_stored = all(path in self.claims.weighted for path, _ in self.recording.makers(index))
        reads = self.recording.made_of(index)
        return reads[0] if are_stored and len(reads) == 1 else index

    def _may_be_read_for(self, index: int, value: str, is_possible: Callable[[int, str], bool]) -> bool:
        """Whether ``value`` may as well be what a tensor was made of: where its module is folded away, that
        is what its readers' nodes read."""
        is_folded = self._is_folded_away(index)
        return is_folded and any(is_possible(read, value) for read in self.recording.made_of(index))

    @staticmethod
    def _give(supposed: dict[int, str], target: int, value: str, kind: TapKind) -> None:
        owner = next((other for other, held in supposed.items() if held == value), None)
        if owner is not None and (kind is TapKind.INPUT or owner > target):
            return
        if owner is not None:
            del supposed[owner]
        supposed[target] = value
