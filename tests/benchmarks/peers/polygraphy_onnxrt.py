"""Polygraphy: the file's values in ONNX Runtime against golden outputs of PyTorch.

Polygraphy has no part that runs a PyTorch model layer by layer; the way that its examples show for outputs
from elsewhere is a ``RunResults``. The golden ones are the values of the exported program's operations, by
name: the default exporter gives the same names to the file's values. ``torch.fx.Interpreter`` records them.
All values of the file that have a golden one are marked as outputs (marking the others too costs more and
compares no more), and a ``Comparator`` runs and compares them with ``SimpleCompareFunc`` at its default
tolerances. All of it in one process, without files between, with nothing logged, and on numpy arrays, with
which its statistics are many times faster than with torch tensors. Counted: all of that, from reading the
file.

A finding is an output that FAILED. The largest error is by ``max_absdiff``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from polygraphy.backend.onnx import BytesFromOnnx, ModifyOutputs, OnnxFromPath
from polygraphy.backend.onnxrt import OnnxrtRunner, SessionFromOnnx
from polygraphy.comparator import Comparator, RunResults, SimpleCompareFunc
from polygraphy.logger import G_LOGGER

from tests.benchmarks.files import PLAIN
from tests.benchmarks.peers import Case, Run
from tests.benchmarks.peers.program import load_program
from tests.benchmarks.records import Answer, Row


def prepare(case: Case) -> Sequence[Run]:
    """One row."""
    program, args = load_program(case)
    G_LOGGER.module_severity = {"": G_LOGGER.CRITICAL}

    def compare(broken: bool) -> Answer:
        return _compare(case.folder.graph(PLAIN, broken=broken), program.module(), args)

    return [Run(Row("Polygraphy"), PLAIN, compare)]


def _compare(path: Path, module: torch.fx.GraphModule, args: tuple[torch.Tensor, ...]) -> Answer:
    model = OnnxFromPath(str(path))()
    golden = record_golden(module, args, {name for node in model.graph.node for name in node.output})
    feeds = {value.name: arg.numpy() for value, arg in zip(model.graph.input, args, strict=True)}
    marked = ModifyOutputs(model, outputs=list(golden))
    runner = OnnxrtRunner(SessionFromOnnx(BytesFromOnnx(marked)))
    results = Comparator.run([runner], data_loader=[feeds])
    results.extend(_as_results(golden))
    (accuracy,) = Comparator.compare_accuracy(results, compare_func=SimpleCompareFunc())
    ((matches,),) = accuracy.values()
    return read_answer(matches)


def _as_results(golden: Mapping[str, Any]) -> RunResults:
    results = RunResults()
    results.add([dict(golden)], runner_name="torch")
    return results


def read_answer(matches: Mapping[str, Any]) -> Answer:
    """From output -> result of its comparison; a plain False is an output of another shape."""
    found = tuple(name for name, match in matches.items() if not match)
    worst = max(matches, key=lambda name: getattr(matches[name], "max_absdiff", np.inf), default="")
    return Answer(len(matches), found, worst)


def record_golden(
    module: torch.fx.GraphModule, args: tuple[torch.Tensor, ...], names: Collection[str]
) -> dict[str, Any]:
    """The values of the operations in ``names``, as numpy arrays, in execution order."""
    recorder = _Recorder(module, names)
    with torch.no_grad():
        recorder.run(*args)
    return recorder.values


class _Recorder(torch.fx.Interpreter):
    def __init__(self, module: torch.fx.GraphModule, names: Collection[str]) -> None:
        super().__init__(module)
        self._names = names
        self.values: dict[str, Any] = {}

    def run_node(self, n: torch.fx.Node) -> Any:
        value = super().run_node(n)
        if n.op == "call_function" and n.name in self._names and isinstance(value, torch.Tensor):
            self.values[n.name] = value.numpy()
        return value
