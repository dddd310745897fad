"""The ``my::Debug`` operator: an identity that survives export and binds a name to an ONNX value.

One call, :func:`mark_value`, serves both exporters; which of them is running is read off torch.
:func:`is_marking` tells whether there is anything to mark: outside an export there is not.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from alignkit.debug_operator import DOMAIN, NAME_ATTRIBUTE, OP_TYPE, OPSET_VERSION

__all__ = [
    "DOMAIN",
    "NAME_ATTRIBUTE",
    "OPSET_VERSION",
    "OP_TYPE",
    "SCRIPT_OP",
    "can_mark",
    "emit_debug",
    "is_marking",
    "mark_value",
]

SCRIPT_OP = f"{DOMAIN}::debug"
"""The torch operator of scripted code, see :mod:`alignkit.script`."""


class _DebugFunction(torch.autograd.Function):
    """Identity that the TorchScript exporter writes as one ``my::Debug`` node."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, name: str) -> Tensor:
        # A view would be folded into its base by the tracer: the marker needs a value of its own.
        return value.clone()

    @staticmethod
    def symbolic(g: Any, value: Any, name: str) -> Any:
        return emit_debug(g, value, name)


def emit_debug(g: Any, value: Any, name: str) -> Any:
    """Write the node into the TorchScript exporter's graph ``g``."""
    node = g.op(f"{DOMAIN}::{OP_TYPE}", value, **{f"{NAME_ATTRIBUTE}_s": name})
    # Without a type the exporter warns, for every later node, that shapes cannot be inferred.
    return node.setType(value.type())


def is_marking() -> bool:
    """True while either exporter traces the model."""
    return torch.onnx.is_in_onnx_export()


def can_mark(value: Tensor) -> bool:
    """Whether ONNX has a tensor type that can hold ``value`` as it is: strided and real."""
    return value.layout is torch.strided and not (value.is_complex() or value.is_quantized or value.is_nested)


def mark_value(value: Tensor, name: str) -> Tensor:
    """``value`` behind a ``my::Debug`` node named ``name``; call only while :func:`is_marking`."""
    if torch._C._is_tracing():
        return _DebugFunction.apply(value, name)  # type: ignore[no-any-return, no-untyped-call]
    return torch.onnx.ops.symbolic(
        f"{DOMAIN}::{OP_TYPE}",
        [value],
        {NAME_ATTRIBUTE: name},
        dtype=value.dtype,
        shape=value.shape,
        version=OPSET_VERSION,
    )
