"""Neighbours: what lies before and behind a value in the file's graph."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from alignkit.graph import inputs_of
from alignkit.mapping.values import ValueGraph


class Neighbours:
    """Walks over one value graph, with what was found kept."""

    def __init__(self, graph: ValueGraph) -> None:
        self._graph = graph
        self._sources: dict[str, frozenset[str]] = {}

    def sources(self, value: str) -> frozenset[str]:
        """Every value that ``value`` is computed from."""
        if value not in self._sources:
            self._sources[value] = frozenset(_walk(value, self._read_by, ()))
        return self._sources[value]

    def is_behind(self, value: str, others: Collection[str]) -> bool:
        """Whether ``value`` is one of ``others`` or is computed from one of them."""
        return value in others or not self.sources(value).isdisjoint(others)

    def led_to(self, value: str, ends: Collection[str], stops: Collection[str]) -> frozenset[str]:
        """Those of ``ends`` that are computed from ``value`` with none of ``stops`` between."""
        return frozenset(ends) & _walk(value, self._made_from, stops)

    def _read_by(self, value: str) -> Iterable[str]:
        index = self._graph.producer.get(value)
        return () if index is None else inputs_of(self._graph.nodes[index])

    def _made_from(self, value: str) -> Iterable[str]:
        return (o for i in self._graph.readers.get(value, ()) for o in self._graph.nodes[i].output if o)


def _walk(start: str, following: Callable[[str], Iterable[str]], stops: Collection[str]) -> set[str]:
    """What can be reached from ``start``, without going on from ``stops``."""
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        for other in following(waiting.pop()):
            if other not in seen:
                seen.add(other)
                if other not in stops:
                    waiting.append(other)
    return seen
