"""What is right, told by numbers that the mapper never saw.

On a held-out input the marked export gives the true value of every tap. A value of another file that holds
the same numbers there, in whatever order and under whatever name, is that tap's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from alignkit.graph import load_graph
from alignkit.mapping import distance, fetch_values, measure_shapes, read_values
from alignkit.mapping.values import ValueGraph
from alignkit.records import Array, TapId, TapKind
from tests.mapping.subject import Subject, feeds_of, run_graph

SAME = 1e-4
_BUDGET = 2**30


@dataclass(frozen=True, slots=True)
class Held:
    """The ``values`` of one file on the held-out input, and of those that are a tap's the ``taps``.

    ``truth`` are the taps' true values there.
    """

    graph: ValueGraph
    values: Mapping[str, Array]
    taps: Mapping[str, frozenset[str]]
    truth: Mapping[str, Array]

    def present(self) -> set[str]:
        """Module taps whose numbers are in the file."""
        found = {tap for taps in self.taps.values() for tap in taps}
        return {tap for tap in found if TapId.parse(tap).kind is TapKind.MODULE}

    def wrong(self, pairs: Mapping[str, str]) -> tuple[str, ...]:
        """The taps among ``pairs`` whose value holds other numbers than theirs."""
        return tuple(
            tap
            for tap, value in pairs.items()
            if tap in self.truth
            and not (value in self.values and _is_same(self.values[value], self.truth[tap]))
        )

    def owners(self, outputs: Iterable[str]) -> set[str]:
        """The taps that see the error of a node first: at its ``outputs``, or nearest behind them."""
        found: set[str] = set()
        waiting, seen = list(outputs), set(outputs)
        while waiting:
            value = waiting.pop()
            if own := self.taps.get(value):
                found |= own
                continue
            for index in self.graph.readers.get(value, ()):
                following = [name for name in self.graph.nodes[index].output if name and name not in seen]
                seen.update(following)
                waiting.extend(following)
        return found


def hold(subject: Subject, path: Path, truth: Mapping[str, Array]) -> Held:
    """Run the file at ``path`` on the held-out input and look for the taps' true values in it."""
    graph = read_values(load_graph(path), path.parent)
    feeds = feeds_of(subject.held_out, graph.model)
    shapes = measure_shapes(graph, feeds, run_graph)
    batches = fetch_values(graph, shapes, shapes, feeds, {}, run_graph, _BUDGET)
    values = {name: value for batch in batches for name, value in batch.items()}
    return Held(graph, values, dict(_taps_of(values, truth)), truth)


def _taps_of(values: Mapping[str, Array], truth: Mapping[str, Array]) -> Iterator[tuple[str, frozenset[str]]]:
    by_size: dict[int, list[tuple[str, Array]]] = {}
    for tap, value in truth.items():
        by_size.setdefault(value.size, []).append((tap, np.sort(value, axis=None)))
    for name, value in values.items():
        ordered = np.sort(value, axis=None)
        of_size = by_size.get(value.size, ())
        if found := frozenset(tap for tap, own in of_size if distance(ordered, own) <= SAME):
            yield name, found


def _is_same(value: Array, expected: Array) -> bool:
    """In the tensor's own order where the shapes agree; else the report's own layout was confirmed by
    number on the compared input, and its elements must be the right ones here."""
    if value.shape == expected.shape and distance(value, expected) <= SAME:
        return True
    return value.size == expected.size and distance(np.sort(value, None), np.sort(expected, None)) <= SAME
