"""The values of an ONNX file's run, as a dump.

A file with taps is seen at its taps, any other at every value that depends on its inputs. A plain
file is run as it is for its outputs; the values between are fetched from copies of its graph, in
batches, since to show a value can change how the graph is optimised.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alignkit.backends import Backend
from alignkit.dump.files import input_key, tap_key
from alignkit.dump.records import About, DumpedTap
from alignkit.environment import describe_environment
from alignkit.extract import read_marked
from alignkit.graph import graph_inputs, inputs_of, load_graph
from alignkit.mapping import fetch_values, measure_shapes, read_values
from alignkit.marker import DOMAIN, OP_TYPE
from alignkit.records import ROOT, Array, TapId

if TYPE_CHECKING:
    from onnx import ModelProto

    from alignkit.mapping.values import ValueGraph

BUDGET_BYTES = 256 * 2**20

_MAP_VALUES: Mapping[int, Any] = {1: np.float32, 7: np.int64, 11: np.float64}
"""TensorProto's element types that the values of a map can have; strings are no numbers."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """``values``: tap -> the ONNX value that it sees, in order. ``found``: arrays that are there already.

    ``absent``: tap -> why it has no value. ``outputs`` are the taps that the model returns.
    """

    graph: ValueGraph
    values: Mapping[str, str]
    outputs: tuple[str, ...]
    found: Mapping[str, Array] = field(default_factory=dict)
    absent: Mapping[str, str] = field(default_factory=dict)
    stops: Mapping[str, str] = field(default_factory=dict)


def capture_graph(
    path: Path,
    feeds: Mapping[str, Array],
    backend: Backend,
    *,
    tier: str,
    budget_bytes: int = BUDGET_BYTES,
) -> tuple[About, Iterator[tuple[str, Array]]]:
    """What a dump says of the run of the file at ``path``, and its tensors, about ``budget_bytes`` at a time.

    Raises :class:`OnnxFileError`, :class:`InputError` or :class:`BackendError` where the file, the
    feeds or the runtime are to blame; the last also while the tensors are taken.
    """
    model = load_graph(path)
    plan = _plan_marked(path) if _is_marked(model) else _plan_plain(path, model, feeds, backend)
    first: dict[str, str] = {}
    for tap, value in plan.values.items():
        if tap not in plan.found:
            first.setdefault(value, tap)
    about = About(
        tier,
        backend.title,
        path.name,
        {name: str(version) for name, version in describe_environment().items()},
        tuple(_describe_tap(tap, first, plan) for tap in (*plan.values, *plan.absent)),
        tuple(DumpedTap(name) for name in graph_inputs(model)),
        plan.outputs,
    )
    return about, _tensors(plan, first, feeds, backend, budget_bytes)


def values_by_tap(path: Path) -> tuple[ModelProto, Path, Mapping[str, tuple[str, ...]]]:
    """The graph at ``path``, where its external data lie, and which taps each of its values has.

    Those are the file's own taps or, where it holds none, every value by its name.
    """
    model = load_graph(path)
    if not _is_marked(model):
        graph = read_values(model, path.parent)
        names = (name for name in graph.producer if name not in graph.fixed)
        return model, path.parent, {name: (name,) for name in names}
    plan = _plan_marked(path)
    taps: dict[str, tuple[str, ...]] = {}
    for tap, value in plan.values.items():
        taps[value] = (*taps.get(value, ()), tap)
    return plan.graph.model, path.parent, taps


def _is_marked(model: ModelProto) -> bool:
    return any(node.op_type == OP_TYPE and node.domain == DOMAIN for node in model.graph.node)


def _plan_marked(path: Path) -> _Plan:
    marked = read_marked(path)
    inflow = {debug.outflow: debug.inflow for debug in marked.debugs}
    stops: dict[str, str] = {}
    values = {}
    for debug in marked.debugs:
        value = debug.inflow
        while value in inflow:  # taps in a row see one value
            value = inflow[value]
        values[debug.tap] = value
        for name in (value, debug.inflow, debug.outflow):
            stops.setdefault(name, debug.tap)
    root = (str(TapId(ROOT, 0, index)) for index in range(len(values)))
    outputs = tuple(tap for tap in root if tap in values)
    graph = read_values(marked.model, marked.folder)
    return _Plan(graph, values, outputs, absent=dict(marked.nested), stops=stops)


def _plan_plain(path: Path, model: ModelProto, feeds: Mapping[str, Array], backend: Backend) -> _Plan:
    graph = read_values(model, path.parent)
    returned = backend.open(path).run(feeds)
    element = {value.name: _map_element(value.type) for value in model.graph.output}
    flat = {name: dict(flatten_value(name, value, element[name])) for name, value in returned.items()}
    values: dict[str, str] = {}
    for name in (*graph.producer, *(n for n in flat if n not in graph.producer)):
        if name in flat:
            values.update(dict.fromkeys(flat[name], name))
        elif name not in graph.fixed:
            values[name] = name
    found = {tap: array for arrays in flat.values() for tap, array in arrays.items()}
    stops = {value: tap for tap, value in values.items()}
    return _Plan(graph, values, tuple(found), found, stops=stops)


def flatten_value(name: str, value: Any, element: int = 0) -> Iterator[tuple[str, Array]]:
    """The tensors in an output: ``name[key]`` in a map, ``name[0]`` in a sequence.

    A sequence of maps with the same keys, one per sample as ZipMap makes it, becomes one tensor per
    key over the samples. ``element`` is the ONNX element type of a map's numbers.
    """
    if isinstance(value, np.ndarray):
        yield name, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from flatten_value(f"{name}[{key}]", np.asarray(item, _MAP_VALUES.get(element)))
    elif isinstance(value, list):
        if value and all(isinstance(v, Mapping) and v.keys() == value[0].keys() for v in value):
            by_key = {key: [sample[key] for sample in value] for key in value[0]}
            yield from flatten_value(name, by_key, element)
        else:
            for index, item in enumerate(value):
                yield from flatten_value(f"{name}[{index}]", item, element)


def _map_element(kind: Any) -> int:
    """The element type of the numbers in a map, or in a sequence of maps; 0 for other types."""
    inner = kind.sequence_type.elem_type if kind.HasField("sequence_type") else kind
    return int(inner.map_type.value_type.tensor_type.elem_type) if inner.HasField("map_type") else 0


def _describe_tap(tap: str, first: Mapping[str, str], plan: _Plan) -> DumpedTap:
    if tap in plan.absent:
        return DumpedTap(tap, absent=plan.absent[tap])
    value, graph = plan.values[tap], plan.graph
    shared = first.get(value, tap) if tap not in plan.found else tap
    made = graph.producer.get(value)
    node = None if made is None else graph.nodes[made]
    return DumpedTap(
        tap,
        tensor="" if shared == tap else tap_key(shared),
        op="" if node is None else node.op_type,
        onnx_node="" if node is None else node.name,
        onnx_value=value,
        reads=_reads(value, graph, plan.stops),
    )


def _reads(value: str, graph: ValueGraph, stops: Mapping[str, str]) -> tuple[str, ...]:
    """The nearest taps that ``value`` is computed from; none where it hangs on the inputs alone."""
    found: dict[str, None] = {}
    seen: set[str] = {value}
    waiting = [value]
    while waiting:
        made = graph.producer.get(waiting.pop())
        for name in sorted(inputs_of(graph.nodes[made])) if made is not None else ():
            if name in stops:
                found[stops[name]] = None
            elif name not in seen:
                waiting.append(name)
            seen.add(name)
    return tuple(found)


def _tensors(
    plan: _Plan,
    first: Mapping[str, str],
    feeds: Mapping[str, Array],
    backend: Backend,
    budget_bytes: int,
) -> Iterator[tuple[str, Array]]:
    yield from ((input_key(name), array) for name, array in feeds.items())
    yield from ((tap_key(tap), array) for tap, array in plan.found.items())
    graph = plan.graph
    names = [name for name in first if name in feeds or (name in graph.producer and graph.can_fetch(name))]
    if not names:
        return

    def run(part: ModelProto, folder: Path, fed: Mapping[str, Array]) -> Mapping[str, Array]:
        return backend.open(part.SerializeToString(), folder).run(fed)

    shapes = measure_shapes(graph, feeds, run)
    for batch in fetch_values(graph, names, shapes, feeds, {}, run, budget_bytes):
        yield from ((tap_key(first[name]), value) for name, value in batch.items())
