"""Schedule: how a comparison of a file would run. It is cut into parts as a comparison cuts it, by the
same function; what each part's sessions compute follows from the graph between the taps."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from onnx import TensorProto

from alignkit.budget import Budget, too_small
from alignkit.errors import InputError
from alignkit.graph import MarkedGraph, inputs_of, slice_graph
from alignkit.load.shapes import InputShape
from alignkit.parts import last_uses, plan_parts, weights_by_tap
from alignkit.plan.costs import predict_stages, side_by_side
from alignkit.plan.flops import node_work
from alignkit.plan.records import GraphPlan, Load, Memory, Part, Rates, TapSize, Work
from alignkit.plan.shapes import ValueShape, bind_shapes, infer_shapes
from alignkit.plan.taps import Subject, read_subject
from alignkit.records import Array

_UNBOUNDED = 2**60


@dataclass(frozen=True, slots=True)
class File:
    """A file that was read, and the dimensions of its inputs."""

    path: Path
    subject: Subject
    inputs: Mapping[str, tuple[int, ...]]


def read_file(path: Path, shapes: Sequence[InputShape] = ()) -> File:
    """The file at ``path`` with its free dimensions bound by ``shapes``; no weights outside it are read.

    Raises :class:`OnnxFileError` for what is no ONNX file and :class:`InputError` for a dimension that no
    shape binds.
    """
    subject = read_subject(path)
    return File(path, subject, bind_shapes(subject.marked.model, shapes, path.name))


def plan_graph(
    file: File, rates: Rates, *, budget: Budget | None = None, threads: int | None = None
) -> GraphPlan:
    """How ``file`` would be compared within ``budget`` (None: all that it needs), measured in ``threads``
    (None: as many as the machine has).

    Raises :class:`InputError` for a budget that the largest tap does not fit.
    """
    marked = file.subject.marked
    graph = _Graph(marked, infer_shapes(marked.model, file.inputs))
    if budget is not None:
        _require_room(graph.largest, budget.total)
    budget = budget or Budget(_UNBOUNDED)
    limit = budget.part_bytes
    parts, operators = graph.parts(budget), graph.operators()
    distinct = [tap.nbytes or 0 for tap in graph.taps if not tap.repeats]
    stages = predict_stages(
        sum(operators.values(), Work()),
        [part.propagated for part in parts],
        [part.introduced for part in parts],
        distinct,
        rates,
        budget,
        threads or os.cpu_count() or 1,
    )
    return GraphPlan(
        str(file.path),
        file.inputs,
        file.subject.taps_are,
        graph.taps,
        limit,
        parts,
        operators,
        graph.memory(parts, sum(distinct), file.subject.stored, budget),
        rates,
        stages,
        _notes(file.subject, graph.taps, graph.largest, limit),
    )


def _require_room(largest: TapSize | None, budget: int) -> None:
    if largest is not None and (largest.nbytes or 0) > budget:
        raise InputError(too_small(budget, largest.nbytes or 0, largest.name))


def _notes(subject: Subject, taps: Sequence[TapSize], largest: TapSize | None, limit: int) -> tuple[str, ...]:
    notes = [
        f"{body} is counted as nothing but what it reads and writes: its insides run as often as data say."
        for body in subject.bodies
    ]
    if unknown := [tap.name for tap in taps if tap.nbytes is None]:
        notes.append(
            f"{len(unknown)} taps have a shape that the graph alone does not tell, and count as nothing: "
            f"{', '.join(unknown[:3])}{', …' if len(unknown) > 3 else ''}."
        )
    notes += [
        f"The tap {tap!r} is {reason}: no comparison sees it."
        for tap, reason in subject.marked.nested.items()
    ]
    if not taps:
        notes.append("No tap is within reach: a comparison would have nothing to compare.")
    if largest is not None and (largest.nbytes or 0) > limit:
        notes.append(f"{largest.name!r} alone takes more than a part: its part is that large.")
    return tuple(notes)


class _Graph:
    """A marked graph with the shapes of its values."""

    def __init__(self, marked: MarkedGraph, shapes: Mapping[str, ValueShape]) -> None:
        self._marked = marked
        self._shapes = shapes
        self._inputs = marked.inputs.keys()
        self._works = [node_work(node, shapes) for node in marked.nodes]
        self._inflow = {debug.outflow: debug.inflow for debug in marked.debugs}

    @cached_property
    def taps(self) -> tuple[TapSize, ...]:
        """In the order of the file."""
        seen: set[str] = set()
        found = []
        for debug in self._marked.debugs:
            shape = self._shapes.get(debug.inflow) or ValueShape(TensorProto.UNDEFINED, None)
            size = shape.nbytes
            dtype = "unknown" if size is None else shape.dtype.name
            found.append(TapSize(debug.tap, debug.inflow, dtype, shape.dims, size, debug.inflow in seen))
            seen |= {debug.inflow, debug.outflow}
        return tuple(found)

    @cached_property
    def _values(self) -> dict[str, Array]:
        """Arrays of the taps' shapes that take no memory: all that cutting into parts asks of them."""
        return {
            tap.name: np.broadcast_to(np.empty((), self._shapes[tap.value].dtype), tap.dims)
            for tap in self.taps
            if tap.nbytes is not None and tap.dims is not None
        }

    @cached_property
    def largest(self) -> TapSize | None:
        """The tap that needs most memory."""
        return max((tap for tap in self.taps if tap.nbytes), key=lambda tap: tap.nbytes or 0, default=None)

    def parts(self, budget: Budget) -> tuple[Part, ...]:
        """As :class:`alignkit.candidate.ProbeRunner` would cut it."""
        heavy = self._weight_bytes(self._marked.weights) > budget.weight_bytes
        cut = plan_parts(
            self._marked,
            self._values,
            budget.part_bytes,
            weights=weights_by_tap(self._marked) if heavy else None,
            weight_limit=budget.weight_bytes,
        )
        last = last_uses(self._marked, cut)
        of_part = {tap: place for place, taps in enumerate(cut) for tap in taps}
        size = {tap.name: tap.nbytes or 0 for tap in self.taps}
        new = {tap.name for tap in self.taps if not tap.repeats}
        everywhere = {debug.outflow for debug in self._marked.debugs}
        behind = {debug.tap: debug.outflow for debug in self._marked.debugs}
        found = []
        for place, taps in enumerate(cut):
            carried = [tap for tap in last if of_part[tap] < place <= last[tap]]
            found.append(
                Part(
                    len(taps),
                    sum(size[tap] for tap in taps if tap in new),
                    sum(size[tap] for tap in carried),
                    self._load(taps, {behind[tap] for tap in carried}, ()),
                    self._load(taps, everywhere, self._inputs),
                )
            )
        return tuple(found)

    def _load(self, taps: Collection[str], cuts: Collection[str], shown: Collection[str]) -> Load | None:
        """Of the session that computes ``taps`` when it is fed the values ``cuts``; None where all of them
        are among those, or among the inputs ``shown``, whose values are known without a session."""
        ends = [self._origin(d.inflow, cuts) for d in self._marked.debugs if d.tap in taps]
        ends = [value for value in ends if value not in cuts and value not in shown]
        if not ends:
            return None
        needed = slice_graph(self._marked, ends, {*cuts, *self._inputs})
        work = sum((self._works[place] for place in needed.places), Work())
        packed: dict[str, set[str]] = {}
        for place in needed.places:
            for kind in self._works[place].flops:
                packed.setdefault(kind, set()).update(self._marked.nodes[place].input)
        by_kind = {kind: self._weight_bytes(names) for kind, names in packed.items()}
        return Load(work, self._weight_bytes(needed.reads), by_kind)

    def _origin(self, value: str, cuts: Collection[str]) -> str:
        while value in self._inflow and value not in cuts:
            value = self._inflow[value]
        return value

    def _weight_bytes(self, names: Iterable[str]) -> int:
        weights = self._marked.weights
        return sum(self._shapes[name].nbytes or 0 for name in names if name in weights)

    def operators(self) -> dict[str, Work]:
        """The work of one forward by operator, what does nothing left out."""
        found: dict[str, Work] = {}
        for node, work in zip(self._marked.nodes, self._works, strict=True):
            if work.nodes:
                found[node.op_type] = found.get(node.op_type, Work()) + work
        return found

    def memory(self, parts: Sequence[Part], reference: int, stored: int, budget: Budget) -> Memory:
        """``reference`` are the bytes of all taps, ``stored`` those of weights in the file."""
        outputs = side_by_side([part.nbytes for part in parts], budget)
        carried = max(part.carried for part in parts)
        weights = self._weight_bytes(self._marked.weights)
        held = min(reference, budget.held_bytes)
        return Memory(weights, stored, held, outputs, carried, self._working_set(), reference - held)

    def _working_set(self) -> int:
        """The most that is alive at a time in one forward, each value from its node to its last reader;
        a value that only renames another shares its memory."""
        holder: dict[str, str] = {}
        last: dict[str, int] = {}
        for place, (node, work) in enumerate(zip(self._marked.nodes, self._works, strict=True)):
            if not work.nodes and node.input:
                origin = holder.get(node.input[0], node.input[0])
                holder.update(dict.fromkeys(node.output, origin))
            last.update({holder.get(name, name): place for name in inputs_of(node)})
        ending: dict[int, int] = {}
        alive = most = 0
        for place, (node, work) in enumerate(zip(self._marked.nodes, self._works, strict=True)):
            for name in filter(None, node.output if work.nodes else ()):
                size = self._shapes[name].nbytes or 0
                alive += size
                end = last.get(name, place)
                ending[end] = ending.get(end, 0) + size
            most = max(most, alive)
            alive -= ending.pop(place, 0)
        return most
