"""Bind the model's tensors to an ONNX graph's inputs: by tap, by name, by order only if forced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from onnx import ValueInfoProto

from alignkit.errors import InputError
from alignkit.records import Array


@dataclass(frozen=True, slots=True)
class NamedArray:
    """One tensor of the model's arguments and the name it goes by (see ``named_inputs``).

    ``optional`` is a plain number, which one exporter makes an input and the other a constant.
    """

    name: str
    value: Array
    optional: bool = False


def bind_inputs(
    graph_inputs: Mapping[str, ValueInfoProto],
    leaves: Sequence[NamedArray],
    by_tap: Mapping[str, int] | None = None,
) -> tuple[dict[str, Array], list[str]]:
    """Feeds by graph-input name, and the names of the model's tensors that no input takes.

    ``by_tap`` maps a graph input to the index of the argument that a tap saw there; names come
    next, order last and only when the counts agree; optional leaves are bound by name alone.
    Raises :class:`InputError` when an input stays unbound or a fixed dimension does not fit.
    """
    chosen = {
        name: index
        for name, index in (by_tap or {}).items()
        if name in graph_inputs and index < len(leaves)  # the file may be another model's
    }
    names = {leaf.name: index for index, leaf in enumerate(leaves)}
    for name in graph_inputs:
        if name not in chosen and name in names:
            chosen[name] = names[name]
    open_inputs = [name for name in graph_inputs if name not in chosen]
    free = [index for index, leaf in enumerate(leaves) if index not in chosen.values() and not leaf.optional]
    if len(open_inputs) == len(free):
        chosen.update(zip(open_inputs, free, strict=True))
    elif open_inputs:
        raise InputError(
            f"ONNX input {open_inputs[0]!r} matches none of the given inputs "
            f"({', '.join(leaf.name for leaf in leaves) or 'none'}); the graph has "
            f"{', '.join(graph_inputs)}. Name the inputs after the graph's."
        )
    for name, index in chosen.items():
        _require_shape(graph_inputs[name], leaves[index].value)
    lost = [leaves[index].name for index in free if index not in chosen.values()]
    return {name: leaves[index].value for name, index in chosen.items()}, lost


def _require_shape(info: ValueInfoProto, value: Array) -> None:
    tensor = info.type.tensor_type
    if not tensor.HasField("shape"):
        return
    wanted = [d.dim_value if d.HasField("dim_value") else d.dim_param or "?" for d in tensor.shape.dim]
    fits = len(wanted) == value.ndim and all(
        not isinstance(dim, int) or dim == size for dim, size in zip(wanted, value.shape, strict=True)
    )
    if not fits:
        raise InputError(
            f"input {info.name!r} has shape {list(value.shape)}, the ONNX graph takes {wanted}. "
            "Give inputs of that shape, or export with dynamic axes."
        )
