"""Mark: put ``my::Debug`` nodes at the mapped values, so that a file reads like a marked export."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

from alignkit.graph import subgraphs
from alignkit.mapping.records import Layout, MappedTap, Shape, TapMapping
from alignkit.mapping.values import in_order
from alignkit.marker import DOMAIN, NAME_ATTRIBUTE, OP_TYPE, OPSET_VERSION

PREFIX = "alignkit_mark_"
"""Of the names of nodes and values that marking adds."""


def mark_values(mapping: TapMapping) -> ModelProto:
    """The mapped model with a ``my::Debug`` node behind every value that a tap was mapped to.

    Values keep their names; their readers read what flows out of the last Debug node. Taps of one
    value stand in a row, those in another layout between a transform and its inverse, whose shapes
    are those of the mapping's sample. What the graph computes is unchanged, and external data stay
    where they are.
    """
    model = ModelProto()
    model.CopyFrom(mapping.model)
    chains = _Chains(model)
    for tap in sorted(mapping.found().values(), key=lambda tap: not _is_plain(tap)):
        chains.append(tap)
    nodes = list(in_order(mapping.model.graph.node))
    del model.graph.node[:]
    model.graph.node.extend(chains.woven_into(nodes))
    if DOMAIN not in {entry.domain for entry in model.opset_import}:
        model.opset_import.append(helper.make_opsetid(DOMAIN, OPSET_VERSION))
    return model


def _is_plain(tap: MappedTap) -> bool:
    return tap.transform is None or tap.transform.is_plain


class _Chains:
    """Per value the nodes between it and its readers, and the name under which these read it."""

    def __init__(self, model: ModelProto) -> None:
        self._model = model
        self._chains: dict[str, list[NodeProto]] = {}
        self._ends: dict[str, str] = {}
        self._count = 0

    def append(self, tap: MappedTap) -> None:
        """Put the tap's Debug node behind what already stands at its value."""
        value, layout = str(tap.onnx_value), tap.transform
        if layout is None or layout.is_plain:
            self._add(value, OP_TYPE, domain=DOMAIN, attributes={NAME_ATTRIBUTE: tap.tap})
            return
        permuted = tuple(layout.split[axis] for axis in layout.order)
        back = tuple(int(axis) for axis in np.argsort(layout.order))
        self._change(value, layout.split, layout, layout.order, layout.shape)
        self._add(value, OP_TYPE, domain=DOMAIN, attributes={NAME_ATTRIBUTE: tap.tap})
        self._change(value, permuted, layout, back, layout.source)

    def _change(self, value: str, split: Shape, layout: Layout, order: Shape, shape: Shape) -> None:
        self._reshape(value, split)
        if not layout.keeps_order:
            self._add(value, "Transpose", attributes={"perm": order})
        self._reshape(value, shape)

    def _reshape(self, value: str, shape: Shape) -> None:
        name = f"{PREFIX}shape_{self._count}"
        self._model.graph.initializer.append(numpy_helper.from_array(np.array(shape, np.int64), name))
        self._add(value, "Reshape", name)

    def _add(
        self,
        value: str,
        op_type: str,
        *others: str,
        domain: str = "",
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        read, made = self._ends.get(value, value), f"{PREFIX}{self._count}"
        self._count += 1
        self._ends[value] = made
        node = helper.make_node(op_type, [read, *others], [made], made, domain=domain)
        # One of them is called "name", which is an argument of make_node itself.
        node.attribute.extend(
            helper.make_attribute(key, set_to) for key, set_to in (attributes or {}).items()
        )
        self._chains.setdefault(value, []).append(node)

    def woven_into(self, nodes: list[NodeProto]) -> Iterator[NodeProto]:
        """The graph's nodes, each followed by the chains of its outputs."""
        made = {name for node in nodes for name in node.output}
        for value, chain in self._chains.items():
            if value not in made:
                yield from chain
        for node in nodes:
            yield _reading(node, self._ends)
            for name in node.output:
                yield from self._chains.get(name, ())


def _reading(node: NodeProto, names: Mapping[str, str]) -> NodeProto:
    """A copy of ``node`` that reads, in its bodies too, values under other names."""
    copy = NodeProto()
    copy.CopyFrom(node)
    _rename(copy, names)
    return copy


def _rename(node: NodeProto, names: Mapping[str, str]) -> None:
    node.input[:] = [names.get(name, name) for name in node.input]
    for body in subgraphs(node):  # whose own values never bear a name of the graph around them
        for inner in body.node:
            _rename(inner, names)
