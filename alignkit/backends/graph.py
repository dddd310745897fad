"""What a backend asks of the ONNX graph itself: types of inputs, names of outputs, weights outside it."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import ModelProto, NodeProto, TensorProto
from onnx.external_data_helper import uses_external_data

from alignkit.errors import BackendError, OnnxFileError
from alignkit.storage import temporary_folder

_MOST_INLINED = 2**30  # bytes of weights that are put into one message; it can hold twice as many


@dataclass(frozen=True, slots=True)
class Signature:
    """``inputs``: name -> type, e.g. ``tensor(float)``, of what must be fed; ``outputs`` in order."""

    inputs: Mapping[str, str]
    outputs: tuple[str, ...]
    nodes: tuple[NodeProto, ...]

    def find_op(self, op: str) -> NodeProto | None:
        """The first node of that operator, ``domain::Type`` or ``Type``."""
        return next((node for node in self.nodes if op in (qualified(node), node.op_type)), None)

    def find_node(self, name: str) -> NodeProto | None:
        """The node of that name, or that computes the value of that name."""
        named = (node for node in self.nodes if name == node.name or name in node.output)
        return next(named, None) if name else None


def qualified(node: NodeProto) -> str:
    """``domain::Type``, or ``Type`` where ONNX itself defines it."""
    return f"{node.domain}::{node.op_type}" if node.domain not in ("", "ai.onnx") else str(node.op_type)


def read_model(model: bytes | Path) -> ModelProto:
    """The model with its external data left where they are. Raises :class:`BackendError`."""
    found: ModelProto
    try:
        if isinstance(model, bytes):
            found = ModelProto.FromString(model)
        else:
            found = onnx.load(model, load_external_data=False)
    except (DecodeError, OSError, ValueError) as error:
        raise BackendError(f"the model cannot be read: {' '.join(str(error).split())}") from error
    if not found.graph.output:
        raise BackendError("the model cannot be read: it holds no graph.")
    return found


def read_signature(model: ModelProto) -> Signature:
    """What is fed to ``model`` and what it gives."""
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    return Signature(
        {value.name: _kind(value.type) for value in graph.input if value.name not in weights},
        tuple(value.name for value in graph.output),
        tuple(graph.node),
    )


def _kind(kind: onnx.TypeProto) -> str:
    if not kind.HasField("tensor_type"):
        return kind.WhichOneof("value") or "value of unknown type"
    return f"tensor({TensorProto.DataType.Name(kind.tensor_type.elem_type).lower()})"


@contextmanager
def self_contained(model: ModelProto, folder: Path) -> Iterator[bytes | Path]:
    """``model`` with its external data, which lie in ``folder``: as bytes, or as a file that they lie beside
    where they are more than bytes can hold.

    Raises :class:`OnnxFileError` where they are missing.
    """
    outside = [tensor for tensor in model.graph.initializer if uses_external_data(tensor)]
    places = sorted({entry.value for t in outside for entry in t.external_data if entry.key == "location"})
    for place in places:
        if Path(place).is_absolute() or ".." in Path(place).parts:
            raise OnnxFileError(f"the model keeps weights outside its folder, in {place!r}. Export it again.")
        if not (folder / place).is_file():
            raise OnnxFileError(f"the weights in {folder / place} are not there. Copy them to their place.")
    if sum(prod(tensor.dims) * _itemsize(tensor) for tensor in outside) <= _MOST_INLINED:
        whole = ModelProto()
        whole.CopyFrom(model)
        onnx.load_external_data_for_model(whole, str(folder))
        yield whole.SerializeToString()
        return
    with temporary_folder() as temporary:
        path = temporary / f"{uuid.uuid4().hex}.onnx"  # weights may lie in a file of any name
        path.write_bytes(model.SerializeToString())
        for place in places:
            _link((folder / place).resolve(), path.parent / place)
        yield path


def _itemsize(tensor: TensorProto) -> int:
    return int(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)


def _link(source: Path, target: Path) -> None:
    """A hard link: not every runtime follows others out of the folder. A copy on another file system."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
