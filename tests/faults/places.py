"""Where in a marked file a node stands, told without alignkit, and whether altering it shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from torch import nn

from alignkit.records import ROOT, TapId, TapKind
from tests.zoo.case import Built

Array = npt.NDArray[Any]

SHOWS = 1e-3
"""An alteration counts when it moves a value by this share of the largest one beside it."""


def callers(built: Built) -> dict[tuple[str, int], str]:
    """(module path, call number) -> path of the module whose forward made that call."""
    found: dict[tuple[str, int], str] = {}
    stack: list[str] = []
    counts: dict[str, int] = {}
    hooks = []
    for name, module in built.model.named_modules():
        path = name or ROOT

        def before(_: nn.Module, __: Any, path: str = path) -> None:
            found[path, counts.get(path, 0)] = stack[-1] if stack else ROOT
            counts[path] = counts.get(path, 0) + 1
            stack.append(path)

        def after(_: nn.Module, __: Any, ___: Any) -> None:
            stack.pop()

        hooks += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
    try:
        with torch.no_grad():
            built.model(*built.args, **built.kwargs)
    finally:
        for hook in hooks:
            hook.remove()
    return found


@dataclass(frozen=True, slots=True)
class Place:
    """``module`` owns the code that a node was exported from; ``values`` are what is seen of it first."""

    module: str
    values: tuple[str, ...]


def find_place(
    model: onnx.ModelProto, node: onnx.NodeProto, calls: dict[tuple[str, int], str]
) -> Place | None:
    """The place of ``node``: the one module behind the taps that it reaches first, if it is one.

    What a module returns was made by its own code, what it is given by its caller's.
    """
    taps = list(_first_taps(model, node.output))
    owners = {_owner(TapId.parse(tap), calls) for tap, _ in taps}
    if len(owners) != 1:
        return None
    return Place(owners.pop(), tuple(dict.fromkeys(value for _, value in taps)))


def _first_taps(model: onnx.ModelProto, values: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(tap, value) of every ``my::Debug`` that is reached without passing another."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    waiting, seen = list(values), set(values)
    while waiting:
        value = waiting.pop()
        for node in readers.get(value, []):
            if node.op_type == "Debug":
                yield node.attribute[0].s.decode(), value
                continue
            fresh = [name for name in node.output if name not in seen]
            seen.update(fresh)
            waiting += fresh


def _owner(tap: TapId, calls: dict[tuple[str, int], str]) -> str:
    return calls[tap.path, tap.call] if tap.kind is TapKind.INPUT else tap.path


def run_values(path: Path, built: Built, values: Sequence[str]) -> list[Array]:
    """What ONNX Runtime computes for ``values`` of a marked file, its taps taken as identities."""
    model = onnx.load(str(path))
    for node in model.graph.node:
        if node.op_type == "Debug":
            node.op_type, node.domain = "Identity", ""
            del node.attribute[:]
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in values)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    leaves = torch.utils._pytree.tree_leaves((built.args, dict(built.kwargs)))
    tensors = [leaf.numpy() for leaf in leaves if isinstance(leaf, torch.Tensor)]
    feed = {info.name: value for info, value in zip(session.get_inputs(), tensors, strict=True)}
    return [np.asarray(value) for value in session.run(list(values), feed)]


def shows(before: Sequence[Array], after: Sequence[Array]) -> bool:
    """Whether some value moved by more than :data:`SHOWS`, all of them finite and of the same shape."""
    pairs = list(zip(before, after, strict=True))
    if any(a.shape != b.shape or not np.isfinite(b).all() for a, b in pairs):
        return False
    return any(_moved(a.astype(np.float64), b.astype(np.float64)) for a, b in pairs)


def _moved(before: Array, after: Array) -> bool:
    scale = float(np.abs(before).max(initial=0.0))
    return float(np.abs(after - before).max(initial=0.0)) > SHOWS * scale
