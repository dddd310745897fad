"""Read an ONNX graph: without its weights' data, with the types and the names that matter.

Only what extraction and diagnosis ask of a graph lives here; nothing writes to the model that
was read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import NamedTuple

import onnx
import onnx.numpy_helper
from google.protobuf.message import DecodeError
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

from alignkit.errors import OnnxFileError
from alignkit.wire import read_without_weights

_SMALL = 1024  # elements: constants up to this size matter to shape inference
_PACKED = re.compile(r"(?:U?INT|FLOAT)([246])(?:E|$)")  # types of so many bits


class TensorType(NamedTuple):
    """``elem`` is a ``TensorProto.DataType``; ``rank`` is None where nothing states it."""

    elem: int
    rank: int | None


@dataclass(frozen=True, slots=True)
class Debug:
    """One ``my::Debug`` node: the value that flows in and the value that flows out."""

    tap: str
    inflow: str
    outflow: str


@dataclass(frozen=True, slots=True)
class MarkedGraph:
    """A file with its Debug nodes found and replaced by ``Identity``.

    ``inputs`` are those that a caller feeds, ``nodes`` those of the graph in topological order;
    ``made_by`` gives the place among them of the node that computes a value.
    """

    model: ModelProto
    folder: Path
    debugs: tuple[Debug, ...]
    nested: Mapping[str, str]  # taps inside a body or a function, with the reason
    types: Mapping[str, TensorType]
    inputs: Mapping[str, ValueInfoProto]
    nodes: tuple[NodeProto, ...]
    made_by: Mapping[str, int]
    weights: Mapping[str, TensorProto]


def index_graph(
    model: ModelProto,
    folder: Path,
    debugs: tuple[Debug, ...],
    nested: Mapping[str, str],
    types: Mapping[str, TensorType],
) -> MarkedGraph:
    """``model``, whose Debug nodes are replaced already, with its inputs, nodes and weights by name."""
    nodes = tuple(model.graph.node)
    made_by = {name: place for place, node in enumerate(nodes) for name in node.output if name}
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    return MarkedGraph(model, folder, debugs, nested, types, graph_inputs(model), nodes, made_by, weights)


@dataclass(frozen=True, slots=True)
class Slice:
    """What computes some values: places of nodes in topological order, and every value they read."""

    places: tuple[int, ...]
    reads: frozenset[str]


def slice_graph(marked: MarkedGraph, ends: Iterable[str], stops: Container[str]) -> Slice:
    """The nodes behind ``ends``, going backwards up to the values in ``stops``."""
    places: set[int] = set()
    reads: set[str] = set()
    waiting = list(ends)
    while waiting:
        value = waiting.pop()
        if value in reads:
            continue
        reads.add(value)
        place = marked.made_by.get(value)
        if value not in stops and place is not None and place not in places:
            places.add(place)
            waiting.extend(inputs_of(marked.nodes[place]))
    return Slice(tuple(sorted(places)), frozenset(reads))


def load_graph(path: Path, folder: Path | None = None) -> ModelProto:
    """The model at ``path`` with external data left on disk, in ``folder`` (None: beside it).

    Raises :class:`OnnxFileError` when the file is not there, empty, truncated or no ONNX model.
    """
    return _load(path, folder or path.parent, partial(onnx.load, load_external_data=False))


def load_without_weights(path: Path) -> ModelProto:
    """:func:`load_graph`, with large weights left on disk as well: they become external data of the file."""
    return _load(path, path.parent, read_without_weights)


def _load(path: Path, folder: Path, read: Callable[[Path], ModelProto]) -> ModelProto:
    if not path.is_file():
        raise OnnxFileError(f"no ONNX file at {path}. Check the path.")
    try:
        model = read(path)
    except (DecodeError, ValueError) as error:
        raise OnnxFileError(
            f"{path} is not an ONNX model, or it is truncated ({error}). Export it again."
        ) from error
    if not model.graph.node and not model.graph.output:
        raise OnnxFileError(f"{path} is not an ONNX model: it holds no graph. Export it again.")
    _require_external_data(model, path, folder)
    return model


def _require_external_data(model: ModelProto, path: Path, folder: Path) -> None:
    for tensor in model.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            _require_data(tensor, path, folder)


def _require_data(tensor: TensorProto, path: Path, folder: Path) -> None:
    try:
        place = {entry.key: entry.value for entry in tensor.external_data}
        data, start = folder / place["location"], int(place.get("offset", 0))
        needed = weight_size(tensor)
        length = int(place.get("length", needed))
        damaged = start < 0 or needed < 0 or length < needed
    except (KeyError, ValueError):  # no place, no number, or no type
        damaged = True
    if damaged:
        raise OnnxFileError(
            f"{path} is damaged: its weight {tensor.name!r} is not stored as its shape and its type say. "
            "Copy or export it again."
        )
    if not data.is_file():
        raise OnnxFileError(
            f"{path} keeps its weights in {place['location']}, which is not beside it. "
            "Copy that file to the same folder."
        )
    size = data.stat().st_size
    if size < start + length:
        raise OnnxFileError(
            f"{data} is too short to hold the weight {tensor.name!r}. Copy or export it again."
        )
    if not place.keys() & {"offset", "length"} and size != length:
        # The TorchScript exporter names such files by a count, which another model's export has as well.
        raise OnnxFileError(
            f"{data} holds {size:,} bytes, and the weight {tensor.name!r} has {length:,}: another export has "
            "written there. Export each model to a folder of its own."
        )


def weight_size(tensor: TensorProto) -> int:
    """Bytes of a weight's data. Raises ``KeyError`` or ``ValueError`` for a type that is none."""
    bits = 8 * int(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
    packed = _PACKED.match(TensorProto.DataType.Name(tensor.data_type))
    elements: int = prod(tensor.dims)
    return -(-elements * (int(packed[1]) if packed else bits) // 8)


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """The bodies of a control-flow node."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == AttributeProto.GRAPHS:
            yield from attribute.graphs


def captured_names(node: NodeProto) -> set[str]:
    """Values of the enclosing graph that the bodies of ``node`` read."""
    names: set[str] = set()
    for body in subgraphs(node):
        inner = {i.name for i in body.input} | {i.name for i in body.initializer}
        for child in body.node:
            names |= {name for name in child.input if name and name not in inner}
            names |= captured_names(child) - inner
            inner |= set(child.output)
        names |= {o.name for o in body.output if o.name not in inner}
    return names


def inputs_of(node: NodeProto) -> set[str]:
    """Every value a node reads, those captured by its bodies included."""
    return {name for name in node.input if name} | captured_names(node)


def graph_inputs(model: ModelProto) -> dict[str, ValueInfoProto]:
    """The inputs a caller must feed: graph inputs that are not initializers."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return {value.name: value for value in model.graph.input if value.name not in weights}


def known_types(model: ModelProto) -> dict[str, TensorType]:
    """Element type and rank per value, as far as the file states them."""
    graph = model.graph
    types = {
        value.name: _tensor_type(value)
        for value in (*graph.value_info, *graph.input, *graph.output)
        if value.type.tensor_type.elem_type
    }
    types.update({t.name: TensorType(t.data_type, len(t.dims)) for t in graph.initializer})
    return types


def _tensor_type(value: ValueInfoProto) -> TensorType:
    tensor = value.type.tensor_type
    return TensorType(tensor.elem_type, len(tensor.shape.dim) if tensor.HasField("shape") else None)


def infer_types(model: ModelProto) -> dict[str, TensorType]:
    """Types by ONNX shape inference, on a copy of the graph without large weights."""
    light = ModelProto(ir_version=model.ir_version)
    light.opset_import.extend(model.opset_import)
    light.functions.extend(model.functions)
    for field in ("node", "input", "output", "value_info"):
        getattr(light.graph, field).extend(getattr(model.graph, field))
    light.graph.name = model.graph.name
    light.graph.initializer.extend(without_data(tensor) for tensor in model.graph.initializer)
    return known_types(onnx.shape_inference.infer_shapes(light))


def without_data(tensor: TensorProto) -> TensorProto:
    """``tensor``, or a shell of its name and type where it is large or lies outside."""
    if prod(tensor.dims) <= _SMALL and tensor.data_location != TensorProto.EXTERNAL:
        return tensor
    shell = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    shell.data_location = TensorProto.EXTERNAL
    shell.external_data.add(key="location", value="omitted")
    return shell
