"""The float64 twin of an ONNX file: its nodes one by one, in whatever computes them in float64.

ONNX Runtime has float64 kernels for many operators; it has none for ``Conv``, which is left to torch, nor
for others, which ONNX's own reference evaluator computes. That one is slow: where the nodes take
longer than :data:`SECONDS` there is no twin, and so no noise floor.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.external_data_helper import load_external_data_for_model
from onnx.reference import ReferenceEvaluator
from torch import Tensor

from alignkit.backends import OnnxRuntime, Session
from alignkit.diagnose.double import to_double
from alignkit.errors import BackendError, InputError, ModelError
from alignkit.graph import inputs_of
from alignkit.instrument import visit_tap
from alignkit.mapping import read_values
from alignkit.records import Array, Tap, TapId
from alignkit.standin import StandIn
from alignkit.tensors import to_numpy, to_torch

SECONDS = 60.0
"""How long one run of a twin may take."""

_UNOPTIMISED = OnnxRuntime(optimization="disable")
_LIKE = torch.empty(0)


class OnnxTwin(StandIn):
    """``model``, whose external data lie in ``folder``, in float64; ``taps``: value -> the taps on it."""

    def __init__(self, model: ModelProto, folder: Path, taps: Mapping[str, Iterable[str]]) -> None:
        super().__init__()
        whole = ModelProto()
        whole.CopyFrom(model)
        load_external_data_for_model(whole, str(folder))
        self._graph = read_values(to_double(whole), folder)
        self._taps = {value: tuple(names) for value, names in taps.items()}
        self._weights = {
            tensor.name: numpy_helper.to_array(tensor) for tensor in self._graph.model.graph.initializer
        }
        self._ready: dict[int, Session | ReferenceEvaluator] = {}

    def double(self) -> OnnxTwin:
        """Itself."""
        return self

    def forward(self, **inputs: Tensor) -> tuple[Tensor, ...]:
        """The outputs; every tap is shown, and what the instrument makes of it goes on."""
        end = time.monotonic() + SECONDS
        values: dict[str, Any] = {"": None, **self._weights}
        for name, tensor in inputs.items():
            values[name] = self._shown(name, to_numpy(tensor))
        for index, node in enumerate(self._graph.nodes):
            if time.monotonic() > end:
                raise ModelError(f"the ONNX evaluator takes more than {SECONDS:g} s in float64")
            for name, value in zip(node.output, self._compute(index, node, values), strict=False):
                values[name] = self._shown(name, value)
        ends = (values[value.name] for value in self._graph.model.graph.output)
        return tuple(to_torch(value, _LIKE) for value in ends if isinstance(value, np.ndarray))

    def _shown(self, name: str, value: Any) -> Any:
        if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
            return value
        for tap in self._taps.get(name, ()):
            value = to_numpy(visit_tap(Tap(TapId.parse(tap), ""), to_torch(value, _LIKE)))
        return value

    def _compute(self, index: int, node: NodeProto, values: Mapping[str, Any]) -> list[Any]:
        feeds = {name: values[name] for name in sorted(inputs_of(node))}
        if node.op_type == "Conv" and node.domain in ("", "ai.onnx") and _is_plain_convolution(node):
            return [_convolve(node, *(values[name] for name in node.input))]
        if index not in self._ready:
            self._ready[index] = self._prepare(node, feeds)
        ready = self._ready[index]
        if not isinstance(ready, ReferenceEvaluator):
            try:
                return list(ready.run(feeds, [name for name in node.output if name]).values())
            except BackendError:
                ready = self._ready[index] = ReferenceEvaluator(self._alone(node, feeds))
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            return list(ready.run(None, feeds))

    def _prepare(self, node: NodeProto, feeds: Mapping[str, Any]) -> Session | ReferenceEvaluator:
        model = self._alone(node, feeds)
        try:
            return _UNOPTIMISED.open(model.SerializeToString())
        except (BackendError, InputError):
            return ReferenceEvaluator(model)

    def _alone(self, node: NodeProto, feeds: Mapping[str, Any]) -> ModelProto:
        """A model of one node, all of whose inputs are fed."""
        given = [_describe(name, value) for name, value in feeds.items()]
        made = [onnx.ValueInfoProto(name=name) for name in node.output if name]
        whole = self._graph.model
        return helper.make_model(
            helper.make_graph([node], "node", given, made),
            opset_imports=whole.opset_import,
            ir_version=whole.ir_version,
        )


def _describe(name: str, value: Any) -> onnx.ValueInfoProto:
    if isinstance(value, np.ndarray | np.generic):
        element = helper.np_dtype_to_tensor_dtype(value.dtype)
        return helper.make_tensor_value_info(name, element, [None] * value.ndim)
    return helper.make_tensor_sequence_value_info(name, TensorProto.DOUBLE, None)


def _attributes(node: NodeProto) -> dict[str, Any]:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def _is_plain_convolution(node: NodeProto) -> bool:
    return bool(_attributes(node).get("auto_pad", b"NOTSET") == b"NOTSET")


def _convolve(node: NodeProto, image: Array, weight: Array, bias: Array | None = None) -> Array:
    """ONNX's ``Conv`` with explicit padding, by torch."""
    told, rank = _attributes(node), image.ndim - 2
    pads = told.get("pads", [0] * 2 * rank)
    around = [pad for axis in reversed(range(rank)) for pad in (pads[axis], pads[rank + axis])]
    convolve = torch.convolution
    result = convolve(
        torch.nn.functional.pad(to_torch(image, _LIKE), around),
        to_torch(weight, _LIKE),
        None if bias is None else to_torch(bias, _LIKE),
        list(told.get("strides", [1] * rank)),
        [0] * rank,
        list(told.get("dilations", [1] * rank)),
        False,
        [0] * rank,
        told.get("group", 1),
    )
    return to_numpy(result)
