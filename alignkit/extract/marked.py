"""Read a marked file: find its taps, and leave no node of their operator, which no runtime knows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import onnx
from onnx import GraphProto, ModelProto, NodeProto

from alignkit.debug_operator import DOMAIN, NAME_ATTRIBUTE, OP_TYPE
from alignkit.errors import CompareError
from alignkit.graph import (
    Debug,
    MarkedGraph,
    TensorType,
    index_graph,
    infer_types,
    known_types,
    load_graph,
    load_without_weights,
    subgraphs,
)


def read_marked(path: Path, folder: Path | None = None) -> MarkedGraph:
    """Find the taps of the file at ``path``, whose external data lie in ``folder`` (None: beside it).

    Raises :class:`OnnxFileError` when the file cannot be read, and :class:`CompareError` when it
    holds no ``my::Debug`` node or one name twice.
    """
    model = load_without_weights(path) if folder in (None, path.parent) else load_graph(path, folder)
    debugs, nested = _replace_debug_nodes(model)
    if not debugs and not nested:
        raise CompareError(
            f"{path} holds no {DOMAIN}::{OP_TYPE} node, so there is nothing to compare. "
            "Export inside `with alignkit.Debugger(model):`."
        )
    _require_unique(path, [*(debug.tap for debug in debugs), *(tap for tap, _ in nested)])
    types = known_types(model)
    needed = {name for debug in debugs for name in (debug.inflow, debug.outflow)}
    if any(name not in types or types[name].rank is None for name in needed):
        types = _along_identities(debugs, {**types, **_ranked(infer_types(model))})
    return index_graph(model, folder or path.parent, debugs, dict(nested), types)


def _ranked(types: Mapping[str, TensorType]) -> dict[str, TensorType]:
    return {name: known for name, known in types.items() if known.rank is not None}


def _along_identities(debugs: Iterable[Debug], types: Mapping[str, TensorType]) -> dict[str, TensorType]:
    """What goes into a tap has the type of what comes out, where only one of them is known."""
    known = dict(types)
    for debug in debugs:
        for one, other in ((debug.inflow, debug.outflow), (debug.outflow, debug.inflow)):
            if one in known and known[one].rank is not None:
                known.setdefault(other, known[one])
                if known[other].rank is None:
                    known[other] = known[one]
    return known


def _require_unique(path: Path, names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise CompareError(
            f"{path} holds the tap name {twice[0]!r} more than once. Give each tap its own name."
        )


def _replace_debug_nodes(model: ModelProto) -> tuple[tuple[Debug, ...], list[tuple[str, str]]]:
    """The taps of the graph itself, and those in bodies and functions with the reason they are out."""
    debugs = [_to_identity(node) for node in model.graph.node if _is_debug(node)]
    nested: list[tuple[str, str]] = []
    for node in model.graph.node:
        for body in subgraphs(node):
            _replace_nested(body, f"inside the body of {node.op_type} {node.name!r}", nested)
    for function in model.functions:
        _replace_nested(function, f"inside the local function {function.name!r}", nested)
        _drop_opset(function)
    _drop_opset(model)
    return tuple(debugs), nested


def _replace_nested(
    body: GraphProto | onnx.FunctionProto, reason: str, nested: list[tuple[str, str]]
) -> None:
    for node in body.node:
        if _is_debug(node):
            nested.append((_to_identity(node).tap, reason))
        for inner in subgraphs(node):
            _replace_nested(inner, reason, nested)


def _is_debug(node: NodeProto) -> bool:
    return node.op_type == OP_TYPE and node.domain == DOMAIN


def _to_identity(node: NodeProto) -> Debug:
    names = [a.s.decode() for a in node.attribute if a.name == NAME_ATTRIBUTE]
    tap = names[0] if names else node.name
    node.op_type, node.domain = "Identity", ""
    del node.attribute[:]
    return Debug(tap, node.input[0], node.output[0])


def _drop_opset(owner: ModelProto | onnx.FunctionProto) -> None:
    kept = [entry for entry in owner.opset_import if entry.domain != DOMAIN]
    del owner.opset_import[:]
    owner.opset_import.extend(kept)
