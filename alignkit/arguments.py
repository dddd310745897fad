"""The tensors that a call gives to a model, by name, in the order of its signature."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, nn

from alignkit.tensors import labelled_leaves, tensor_leaves


def named_inputs(module: nn.Module, args: Any, kwargs: Any) -> list[tuple[str, Tensor]]:
    """Tensor arguments in the order of the forward's signature, each with a name.

    ``x`` for an argument that is a tensor, ``x_0``, ``x_mask`` for tensors inside one. The order
    does not depend on how the call spells them: exporters turn keywords into positions.
    """
    return [
        (name, value) for name, value in named_arguments(module, args, kwargs) if isinstance(value, Tensor)
    ]


def named_arguments(module: nn.Module, args: Any, kwargs: Any) -> list[tuple[str, Tensor | float]]:
    """:func:`named_inputs` and, where they stand among them, plain numbers, those left at their default
    too: the TorchScript exporter makes each of them a graph input."""
    named: list[tuple[str, Tensor | float]] = []
    for label, value in _bind(module, args, kwargs).items():
        if type(value) in (int, float):
            named.append((label, value))
        else:
            named += [("_".join([label, *path]), leaf) for path, leaf in labelled_leaves(value)]
    return named


def input_order(module: nn.Module, args: Any, kwargs: Any) -> list[int]:
    """For each tensor in ``(args, kwargs)`` its index in :func:`named_inputs`."""
    waiting: dict[int, list[int]] = {}
    for index, (_, value) in enumerate(named_inputs(module, args, kwargs)):
        waiting.setdefault(id(value), []).append(index)
    return [waiting[id(value)].pop(0) for value in tensor_leaves((args, kwargs))]


def _bind(module: nn.Module, args: Any, kwargs: Any) -> dict[str, Any]:
    try:
        signature = inspect.signature(module.forward)
        call = signature.bind(*args, **kwargs)
        call.apply_defaults()
        bound = call.arguments
    except (TypeError, ValueError):
        # A forward without a signature, or a call that does not fit it: keep the call's order.
        return {**{f"arg{i}": value for i, value in enumerate(args)}, **kwargs}
    flat: dict[str, Any] = {}
    for name, value in bound.items():
        kind = signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            flat.update({f"{name}_{i}": item for i, item in enumerate(value)})
        elif kind is inspect.Parameter.VAR_KEYWORD:
            flat.update(value)
        else:
            flat[name] = value
    return flat
