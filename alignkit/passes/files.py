"""Files of models of any size: large weights lie beside the graph, never in one big protobuf."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import ModelProto, TensorProto
from onnx.external_data_helper import load_external_data_for_model

from alignkit.graph import load_graph

LARGEST = 2**31 - 2**24
"""Bytes of weights that still fit into one protobuf, whose own limit is 2 GiB."""

_SMALL = 1024  # bytes: weights up to this size stay in the graph


def read_model(path: Path, *, infer_types: bool = False) -> ModelProto:
    """The model at ``path`` with all its weights in memory, and its values' types if they are asked for.

    Types are inferred before the weights are read: the inference serialises what it is given. Raises
    :class:`~alignkit.errors.OnnxFileError`.
    """
    model = load_graph(path)
    if infer_types:
        model = onnx.shape_inference.infer_shapes(model)
    load_external_data_for_model(model, str(path.parent))
    return model


def write_model(model: ModelProto, path: Path) -> None:
    """Write ``model`` to ``path``; weights beyond :data:`LARGEST` bytes in all go to a file beside it."""
    if not is_large(model):
        onnx.save(model, path)
        return
    beside = f"{path.name}.data"
    onnx.save(model, path, save_as_external_data=True, location=beside, size_threshold=_SMALL)


def is_large(model: ModelProto) -> bool:
    """Whether the weights in memory, or those that a file of the graph alone names, are too many."""
    return sum(map(_size, model.graph.initializer)) > LARGEST


def _size(tensor: TensorProto) -> int:
    if tensor.data_location == TensorProto.EXTERNAL:
        length = {entry.key: entry.value for entry in tensor.external_data}.get("length")
        return int(length or 0)
    return len(tensor.raw_data) or tensor.ByteSize()
