"""Spoil one node of an exported file: a constant that it reads is multiplied by a factor."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, numpy_helper

from tests.benchmarks.models import Fault

_SCOPES = "pkg.torch.onnx.name_scopes"


@dataclass(frozen=True, slots=True)
class Place:
    """The spoilt node, and the ``names`` under which a tool may rightly speak of it."""

    node: str
    change: str
    names: tuple[str, ...]


def break_node(source: Path, target: Path, fault: Fault) -> Place:
    """Write ``source`` to ``target``, in the same folder, with the node of ``fault`` alone altered.

    It gets a copy of its constant, since other nodes may read the same. External data stay where they are.
    Raises ``ValueError`` when there is no such node, or when ``target`` lies elsewhere.
    """
    if source.parent != target.parent:
        raise ValueError(f"{target} must lie beside {source}, where its weights are.")
    model = onnx.load(source, load_external_data=False)
    constants = {t.name: t for t in model.graph.initializer if t.data_type == TensorProto.FLOAT}
    node, index = _find(model, fault, constants)
    old = constants[node.input[index]]
    values = numpy_helper.to_array(old, str(source.parent))
    name = f"{old.name}_spoilt"
    model.graph.initializer.append(numpy_helper.from_array(values * np.float32(fault.factor), name))
    node.input[index] = name
    onnx.save(model, target)
    # The innermost scope is the torch operation, the one around it the module: a convolution that is
    # folded with what follows has that one's.
    scopes = _scopes(node)
    names = [*node.output, fault.module, *scopes[-2:]]
    return Place(node.name, f"{old.name} times {fault.factor:g}", tuple(dict.fromkeys(filter(None, names))))


def _find(model: onnx.ModelProto, fault: Fault, constants: dict[str, TensorProto]) -> tuple[NodeProto, int]:
    for node in model.graph.node:
        index = next((i for i, name in enumerate(node.input) if name in constants), None)
        if node.op_type != fault.op or index is None:
            continue
        if fault.module in _scopes(node) or node.input[index].startswith(f"{fault.module}."):
            return node, index
    raise ValueError(f"no {fault.op} with a constant in {fault.module}.")


def _scopes(node: NodeProto) -> list[str]:
    """From the model down to the operation, as the default exporter writes them; none of another's."""
    found = next((entry.value for entry in node.metadata_props if entry.key == _SCOPES), "[]")
    return [str(scope) for scope in ast.literal_eval(found)]
