"""The ``my::Debug`` operator: an identity that survives export and binds a name to an ONNX value.

One call, :func:`mark_value`, serves both exporters; which of them is running is read off torch.
:func:`is_marking` tells whether there is anything to mark: outside an export there is not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from alignkit.debug_operator import DOMAIN, NAME_ATTRIBUTE, OP_TYPE, OPSET_VERSION

__all__ = [
    "DOMAIN",
    "NAME_ATTRIBUTE",
    "OPSET_VERSION",
    "OP_TYPE",
    "can_mark",
    "define_operator",
    "is_marking",
    "mark_value",
]


class _DebugFunction(torch.autograd.Function):
    """Identity that the TorchScript exporter writes as one ``my::Debug`` node."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, name: str) -> Tensor:
        # A view would be folded into its base by the tracer: the marker needs a value of its own.
        return value.clone()

    @staticmethod
    def symbolic(g: Any, value: Any, name: str) -> Any:
        return _emit_debug(g, value, name)


def _emit_debug(g: Any, value: Any, name: Any) -> Any:
    """Write the node into the TorchScript exporter's graph ``g``."""
    if not isinstance(name, str):
        name = name.node().s("value")  # in a scripted graph it is a constant value, not a Python string
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


def define_operator(schema: str, body: Callable[[Tensor, str], Tensor]) -> torch.library.Library:
    """A torch operator of this domain for scripted code, which exists as long as what is returned.

    ``body`` is what it computes; the TorchScript exporter writes a call of it as a ``my::Debug`` node.
    """
    name = schema.partition("(")[0]
    library = torch.library.Library(DOMAIN, "FRAGMENT")  # type: ignore[no-untyped-call]
    library.define(schema)  # type: ignore[no-untyped-call]
    library.impl(name, body, "CompositeImplicitAutograd")  # type: ignore[no-untyped-call]
    torch.onnx.register_custom_op_symbolic(f"{DOMAIN}::{name}", _emit_debug, 1)  # type: ignore[attr-defined]
    return library
