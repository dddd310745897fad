"""The ONNX nodes between the taps: what computes one tap's value out of others' values."""

from __future__ import annotations

from collections.abc import Collection

from onnx import NodeProto

from alignkit.extract import MarkedGraph
from alignkit.graph import inputs_of, producers


def segment_nodes(marked: MarkedGraph, tap: str, known: Collection[str]) -> list[NodeProto]:
    """Nodes that compute ``tap`` from graph inputs, weights and the taps in ``known``, in graph order.

    Nodes that only prepare constants are left out unless nothing else remains.
    """
    start = next((debug.inflow for debug in marked.debugs if debug.tap == tap), None)
    if start is None:
        return []
    borders = {debug.outflow for debug in marked.debugs if debug.tap in known}
    made_by = producers(marked.model)
    chosen: set[int] = set()
    waiting, seen = [start], set(borders)
    while waiting:
        value = waiting.pop()
        if value in seen or value not in made_by:
            continue
        seen.add(value)
        chosen.add(id(made_by[value]))
        waiting.extend(inputs_of(made_by[value]))
    nodes = [node for node in marked.model.graph.node if id(node) in chosen]
    return [node for node in nodes if node.op_type not in ("Constant", "Identity")] or nodes


def describe_node(node: NodeProto) -> str:
    """``Conv "/layer1/conv1/Conv"``, with its domain when it is not ONNX's own."""
    domain = f"{node.domain}::" if node.domain else ""
    return f'{domain}{node.op_type} "{node.name}"'
