"""Search: the rounds in which tensors find their values.

A round runs the graph, cut at all that is mapped and fed with the reference there, and compares what
comes out with what is still open. So an error ends at the next mapped value, and what lies behind a
fault is found in a later round.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from math import inf, nan, prod
from typing import Any

import numpy as np

from alignkit.errors import CompareError
from alignkit.mapping.choose import Choice, Views, choose, keep_nearest
from alignkit.mapping.fingerprint import distance, find_match, fingerprint, kind_of, nearest_layout
from alignkit.mapping.neighbours import Neighbours
from alignkit.mapping.proposals import Proposals
from alignkit.mapping.recorded import Recorded, Recording
from alignkit.mapping.records import How, Layout, Match, Shape
from alignkit.mapping.values import Run, ValueGraph, fetch_values, has_kind, measure_shapes
from alignkit.records import Array, TapKind

_MOST_ROUNDS = 20
_ROUNDING = 1e-6
_UNNAMED = 0.1  # beyond, numbers alone are no evidence: a quantised product without its bias comes as near


@dataclass(frozen=True, slots=True)
class Found:
    """What the search holds of one tensor; ``settled_by`` as in :class:`Choice`."""

    match: Match
    how: How
    settled_by: str = ""


class Search:
    """The state of a search: ``found`` grows and nothing in it is taken back.

    ``rivals`` are the open tensors whose numbers several values hold, with those values; ``alike``
    are the values that hold a found tensor's numbers; ``passed`` are the values of taps that stand at
    another one than the rest of their tensor; ``hidden`` is what :mod:`alignkit.mapping.refute` had to
    run the graph for, so that it need not again.
    """

    def __init__(
        self,
        graph: ValueGraph,
        recording: Recording,
        proposals: Proposals,
        feeds: Mapping[str, Array],
        run: Run,
        budget_bytes: int,
    ) -> None:
        self.graph = graph
        self.recording = recording
        self.proposals = proposals
        self.runs = 0
        self.found: dict[int, Found] = {}
        self.rivals: dict[int, list[Match]] = {}
        self.alike: dict[int, list[Match]] = {}
        self.passed: dict[str, str] = {}
        self.hidden: dict[tuple[int, str, int, int], float] = {}
        self._feeds = feeds
        self._run = run
        self._budget = budget_bytes
        self.dtypes: dict[str, np.dtype[Any]] = {}
        self.shapes: Mapping[str, Shape] = measure_shapes(graph, feeds, self._counted)
        self.views = Views(graph, self.shapes)
        self.neighbours = Neighbours(graph)

    def _counted(self, *arguments: Any) -> Mapping[str, Array]:
        self.runs += 1
        return self._run(*arguments)

    def fetch(self, names: list[str], cuts: Mapping[str, Array]) -> Iterator[Mapping[str, Array]]:
        """The named values in batches, with ``cuts`` fed in place of what the file computes."""
        return fetch_values(self.graph, names, self.shapes, self._feeds, cuts, self._counted, self._budget)

    def oversized(self) -> tuple[str, ...]:
        """A note on values that do not fit into the budget and were fetched one by one."""
        sizes = {name: self.graph.bytes_of(name, shape) for name, shape in self.shapes.items()}
        large = {name: size for name, size in sizes.items() if size > self._budget}
        if not large:
            return ()
        name = max(large, key=large.__getitem__)
        return (
            f"{len(large)} values of the file are larger than the {self._budget / 2**20:.3g} MiB that are "
            f"held at a time, up to {large[name] / 2**20:.3g} MiB ({name!r}): each was fetched alone.",
        )

    def open(self) -> list[Recorded]:
        """The tensors that have no value yet."""
        return [tensor for tensor in self.recording.tensors if tensor.index not in self.found]

    def taken(self) -> set[str]:
        """The values that hold a tensor."""
        return {found.match.value for found in self.found.values()} | set(self.passed.values())

    def settle(self, tolerances: Iterable[float], supposed: Mapping[int, str] | None = None) -> None:
        """Rounds at one tolerance after the other, at each until one finds nothing new.

        ``supposed`` values are fed as well, although their numbers are not those of their tensors.
        """
        for tolerance in tolerances:
            for _ in range(_MOST_ROUNDS):
                if not self.open() or not self._round(tolerance, supposed or {}):
                    break

    def _round(self, tolerance: float, supposed: Mapping[int, str]) -> bool:
        fed = frozenset(supposed.values())
        names = [name for name in self._candidates(self.open()) if not self._is_view_of(name, fed)]
        kept = keep_nearest(self._compare(tolerance, names, self.cuts(supposed)))
        chosen: dict[int, Choice] = {}
        for index, matches in kept.items():
            if not self._is_evidence(index, matches):
                continue
            choice = self._choose(index, matches)
            if choice is None:
                self.rivals[index] = matches
            else:
                chosen[index] = choice
        for index, choice in self._without_merged(chosen).items():
            how = How.BOTH if choice.claimed else How.VALUE
            self.found[index] = Found(choice.match, how, choice.settled_by)
            self.alike[index] = kept[index]
            self.rivals.pop(index, None)
        return bool(chosen)

    def _compare(
        self, tolerance: float, names: list[str], cuts: Mapping[str, Array]
    ) -> Iterator[tuple[int, Match]]:
        """Every pair of an open tensor and one of the named values whose numbers agree."""
        wanted: dict[int, list[Recorded]] = {}
        for tensor in self.open():
            wanted.setdefault(tensor.print.size, []).append(tensor)
        for batch in self.fetch(names, cuts):
            for name, value in batch.items():
                self.dtypes[name] = value.dtype
                if not kind_of(value.dtype):
                    continue
                found = fingerprint(value)
                for tensor in wanted.get(found.size, ()):
                    match = find_match(name, value, found, tensor.value, tensor.print, tolerance)
                    if match is not None:
                        yield tensor.index, match

    def _is_view_of(self, value: str, fed: frozenset[str]) -> bool:
        """Whether ``value`` is a view of one that is fed on supposition: its numbers come from there."""
        origin = self.graph.viewed(value)
        while origin is not None and origin not in fed:
            origin = self.graph.viewed(origin)
        return origin is not None

    def _candidates(self, wanted: Iterable[Recorded]) -> list[str]:
        """Free values that could hold a wanted tensor, by size and kind."""
        kinds = {(tensor.print.size, tensor.print.kind) for tensor in wanted}
        taken = self.taken()
        return [
            name
            for name, shape in self.shapes.items()
            if name not in taken
            and any(prod(shape) == size and has_kind(self.graph, name, kind) for size, kind in kinds)
        ]

    def cuts(
        self, supposed: Mapping[int, str], tried: Mapping[str, Recorded] | None = None
    ) -> dict[str, Array]:
        """The reference at every value that is found, in that value's layout and dtype; ``supposed`` as far
        as nothing speaks against it, what is ``tried`` in any case."""
        cuts = {}
        for index, found in self.found.items():
            tensor = self.recording.tensors[index]
            if not tensor.print.simple and tensor.print.kind == "float":
                cuts[found.match.value] = found.match.layout.undo(tensor.value)
        for tap, value in self.passed.items():
            cuts[value] = self.recording.tensors[self.recording.of_tap[tap]].value.reshape(self.shapes[value])
        for index, value in supposed.items():
            if index not in self.found and self.could_hold(index, value):  # not refuted since
                cuts[value] = self.recording.tensors[index].value.reshape(self.shapes[value])
        for value, tensor in (tried or {}).items():
            cuts[value] = tensor.value.reshape(self.shapes[value])
        return {
            name: _narrowed(array, self.dtypes[name])
            for name, array in cuts.items()
            if name in self.graph.producer and name not in self.graph.fixed
        }

    def _is_evidence(self, index: int, matches: list[Match]) -> bool:
        """Whether numbers are near enough, or a name supports them."""
        if min(match.distance for match in matches) <= _UNNAMED:
            return True
        named = {self.views.base(value) for value in self.proposals.claimed(index)}
        return any(self.views.base(match.value) in named for match in matches)

    def _choose(self, index: int, matches: list[Match]) -> Choice | None:
        claimed = self.proposals.claimed(index)
        choice = choose(matches, self.views, claimed, lambda value: self.fits(index, value))
        choice = choice or self._choose_named(index, matches) or self._choose_in_chain(index, matches)
        choice = choice or self._choose_in_module(index, matches)
        if choice is not None and self.recording.tensors[index].print.simple and not choice.claimed:
            # Constants agree by chance: nothing but a value of its own is evidence.
            is_alone = not choice.settled_by and choice.match.distance <= _ROUNDING
            return choice if is_alone else None
        return choice

    def _choose_named(self, index: int, matches: list[Match]) -> Choice | None:
        """The first value that bears a tap's own name; the tensor's other taps have theirs beside it."""
        names = self.recording.tensors[index].taps
        own = [match for match in matches if match.value in names and match.layout.is_plain]
        return Choice(min(own, key=self._place), claimed=True, settled_by="names") if own else None

    def _choose_in_chain(self, index: int, matches: list[Match]) -> Choice | None:
        """Between two ONNX files, where no module tells equal values apart, it is all the same which of
        those that are made one of the other stands for all."""
        tensor = self.recording.tensors[index]
        if any(self.recording.taps[tap].id.kind is not TapKind.EXPLICIT for tap in tensor.taps):
            return None
        last = self._last_in_chain(matches)
        return Choice(last, claimed=False, settled_by="neighbours") if last else None

    def _choose_in_module(self, index: int, matches: list[Match]) -> Choice | None:
        """The last of a module's own steps that changed nothing, such as adding a bias of zeros, where what
        it returns in the end has other numbers."""
        paths = {path for path, _ in self.recording.makers(index)}
        makers = self.proposals.claims.makers
        if any(paths.isdisjoint(makers.get(match.value, ())) for match in matches):
            return None
        last = self._last_in_chain(matches)
        return Choice(last, claimed=True, settled_by="names") if last else None

    def _last_in_chain(self, matches: list[Match]) -> Match | None:
        """Of equal values, if each is made of the one before."""
        chain = sorted((match for match in matches if match.layout.keeps_order), key=self._place)
        is_chain = all(self.neighbours.is_behind(b.value, {a.value}) for a, b in pairwise(chain))
        plain = [match for match in chain if match.layout.is_plain] or chain
        return plain[-1] if chain and is_chain else None

    def _place(self, match: Match) -> int:
        return self.graph.order[match.value]

    def _without_merged(self, chosen: Mapping[int, Choice]) -> dict[int, Choice]:
        """Where one value is the choice of tensors that differ, too little for its precision to tell,
        the last of them has it: a merged node computes the last thing."""
        last = {choice.match.value: index for index, choice in sorted(chosen.items())}
        return {
            index: choice
            for index, choice in chosen.items()
            if index == last[choice.match.value] or self._is_same(index, last[choice.match.value])
        }

    def _is_same(self, left: int, right: int) -> bool:
        one, other = self.recording.tensors[left].value, self.recording.tensors[right].value
        return one.shape != other.shape or distance(one, other) <= _ROUNDING

    def fits(self, index: int, value: str) -> bool:
        """Whether ``value`` lies behind what the tensor's maker read and before what its readers made."""
        recording = self.recording
        read = [i for call in recording.makers(index) for i in recording.reads.get(call, ())]
        made = [i for call in recording.readers(index) for i in recording.makes.get(call, ())]
        before, after = set(self.values_of(read)), set(self.values_of(made))
        return (not before or self.neighbours.is_behind(value, before)) and (
            not after or any(self.neighbours.is_behind(other, {value}) for other in after)
        )

    def values_of(self, tensors: Iterable[int]) -> Iterator[str]:
        """The values of those of the tensors that are found."""
        return (self.found[i].match.value for i in tensors if i in self.found)

    def could_hold(self, index: int, value: str) -> bool:
        """Whether ``value`` is free and of the tensor's size and kind."""
        tensor = self.recording.tensors[index]
        return (
            value in self.shapes
            and value in self.dtypes
            and value not in self.graph.fixed
            and _is_merged(self.shapes[value], tensor.value.shape)
            and kind_of(self.dtypes[value]) == tensor.print.kind == "float"
            # Last, for it looks at all that is taken, and few values come so far.
            and self.views.base(value) not in {self.views.base(other) for other in self.taken()}
        )

    def verify(self, tolerance: float) -> None:
        """Look at the numbers of what names alone had to decide, now that all before it is right."""
        doubted = {f.match.value: i for i, f in self.found.items() if f.how is How.PROVENANCE}
        for batch in self.fetch(list(doubted), self.cuts({})):
            for value, array in batch.items():
                index = doubted[value]
                found = self.found[index]
                apart = distance(found.match.layout.apply(array), self.recording.tensors[index].value)
                how = How.BOTH if apart <= tolerance else How.PROVENANCE
                self.found[index] = replace(found, match=replace(found.match, distance=apart), how=how)

    def accept(self, index: int, value: str, settled_by: str) -> None:
        """Take ``value`` for a tensor although their numbers differ, if neither is found by now."""
        if index in self.found or not self.could_hold(index, value):
            return
        layout = Layout.reshape(self.shapes[value], self.recording.tensors[index].value.shape)
        self.found[index] = Found(Match(value, float("nan"), layout), How.PROVENANCE, settled_by)

    def pin(self, pinned: Mapping[int, str]) -> None:
        """Take what the user says, in the layout that brings the numbers nearest.

        Raises :class:`CompareError` when the sizes differ.
        """
        for index, value in pinned.items():
            tensor = self.recording.tensors[index]
            shape = self.shapes.get(value)
            if shape is None or prod(shape) != tensor.print.size:
                shown = "no array" if shape is None else f"shape {list(shape)}"
                raise CompareError(
                    f"the map pins {tensor.taps[0]!r} to {value!r}, which has {shown}, while the tap has "
                    f"shape {list(tensor.value.shape)}. Pin it to another value."
                )
        for batch in self.fetch(list(dict.fromkeys(pinned.values())), {}):
            for index, value in pinned.items():
                if value in batch:
                    self.dtypes[value] = batch[value].dtype
                    recorded = self.recording.tensors[index].value
                    match = nearest_layout(value, batch[value], recorded, inf)
                    plain = Layout.reshape(batch[value].shape, recorded.shape)
                    self.found[index] = Found(match or Match(value, nan, plain), How.PINNED)


def _narrowed(array: Array, dtype: np.dtype[Any]) -> Array:
    """``array`` as ``dtype``; what is too large for float16, such as a mask, becomes its largest number."""
    with np.errstate(over="ignore"):
        narrow = array.astype(dtype)
    if dtype == np.float16:
        grown = np.isinf(narrow) & np.isfinite(array)
        narrow[grown] = np.copysign(np.finfo(np.float16).max, array[grown])
    return narrow


def _is_merged(left: Shape, right: Shape) -> bool:
    """Whether one shape merges neighbouring dimensions of the other, so that their orders agree."""
    ends = [{prod(shape[: i + 1]) for i in range(len(shape))} | {1, prod(shape)} for shape in (left, right)]
    return prod(left) == prod(right) and (ends[0] <= ends[1] or ends[1] <= ends[0])
