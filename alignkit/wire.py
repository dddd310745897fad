"""Read an ONNX file without its weights, whose place in the file becomes a reference to external data.

An ONNX file is one protobuf message, and to parse it is to hold all of it in memory, twice where a weight
is then looked at. Its wire format (https://protobuf.dev/programming-guides/encoding/) tells the length
of every field before the field, so that weights can be passed over.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from google.protobuf.message import DecodeError
from onnx import GraphProto, ModelProto, TensorProto

_GRAPH = ModelProto.DESCRIPTOR.fields_by_name["graph"].number
_INITIALIZER = GraphProto.DESCRIPTOR.fields_by_name["initializer"].number
_RAW_DATA = TensorProto.DESCRIPTOR.fields_by_name["raw_data"].number
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_LEAST = 1 << 16  # bytes of a weight that is left in the file: no constant that shapes depend on


class _Field(NamedTuple):
    """One field of a message: ``start`` to ``end`` with its tag, its payload from ``content`` on.

    ``number`` is 0 for fields that are no messages or bytes, which are none of those looked for.
    """

    number: int
    start: int
    content: int
    end: int


def read_without_weights(path: Path) -> ModelProto:
    """The model at ``path``; weights of 64 KiB or more that lie in the file are external data of that file.

    Raises :class:`google.protobuf.message.DecodeError` for what is no such message.
    """
    with path.open("rb") as file:
        if not file.read(1):
            return ModelProto()
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _read_model(data, path.name)


def _read_model(data: mmap.mmap, name: str) -> ModelProto:
    rest, graphs = bytearray(), list[_Field]()
    for field in _fields(data, 0, len(data)):
        if field.number == _GRAPH:
            graphs.append(field)
        else:
            rest += data[field.start : field.end]
    model: ModelProto = ModelProto.FromString(bytes(rest))
    for field in graphs:
        model.graph.MergeFrom(_read_graph(data, field, name))
    return model


def _read_graph(data: mmap.mmap, graph: _Field, name: str) -> GraphProto:
    rest, weights = bytearray(), list[TensorProto]()
    for field in _fields(data, graph.content, graph.end):
        if field.number == _INITIALIZER:
            weights.append(_read_weight(data, field, name))
        else:
            rest += data[field.start : field.end]
    found: GraphProto = GraphProto.FromString(bytes(rest))
    found.initializer.extend(weights)
    return found


def _read_weight(data: mmap.mmap, weight: _Field, name: str) -> TensorProto:
    rest, raw = bytearray(), None
    for field in _fields(data, weight.content, weight.end):
        if field.number == _RAW_DATA:
            raw = field  # of several the last one counts
        else:
            rest += data[field.start : field.end]
    if raw is not None and raw.end - raw.content < _LEAST:
        rest += data[raw.start : raw.end]
        raw = None
    tensor: TensorProto = TensorProto.FromString(bytes(rest))
    if raw is not None:
        tensor.data_location = TensorProto.EXTERNAL
        place = {"location": name, "offset": raw.content, "length": raw.end - raw.content}
        for key, value in place.items():
            tensor.external_data.add(key=key, value=str(value))
    return tensor


def _fields(data: mmap.mmap, start: int, stop: int) -> Iterator[_Field]:
    while start < stop:
        tag, content = _varint(data, start, stop)
        kind = tag & 7
        if kind == _VARINT:
            _, end = _varint(data, content, stop)
        elif kind == _BYTES:
            length, content = _varint(data, content, stop)
            end = content + length
        elif kind in (_FIXED32, _FIXED64):
            end = content + (4 if kind == _FIXED32 else 8)
        else:
            raise DecodeError(f"wire type {kind} at byte {start}")
        if end > stop:
            raise DecodeError(f"the field at byte {start} ends behind byte {stop}")
        yield _Field(tag >> 3 if kind == _BYTES else 0, start, content, end)
        start = end


def _varint(data: mmap.mmap, place: int, stop: int) -> tuple[int, int]:
    """The number at ``place``, and where it ends."""
    number = 0
    for shift in range(0, 70, 7):
        if place >= stop:
            break
        byte = data[place]
        number |= (byte & 0x7F) << shift
        place += 1
        if byte < 0x80:
            return number, place
    raise DecodeError(f"a number that does not end before byte {place}")
