"""onnx-diagnostic: ``run_aligned``, which its command ``sbs`` calls as well.

Exported program and file are run node by node in turn, each ONNX node in a session of its own, and results of
the same name are compared. Called as the command does: on torch tensors, with ``OnnxruntimeEvaluator``, at
the command's default tolerances of 1e-5; quietly, without writing tables, and without gradients. Counted:
reading the file and all of the walk.

The exported program is the exporter's own, whose names are the file's. Where that holds an argument which
``run_aligned`` does not know (a memory format, as in attention), it is the one of ``torch.export.export``, as
in its documentation.

The second row asks for the second run (``-2`` on the command line): each node is run again on PyTorch's
values, which tells an error that a node introduces from one that it passes on. That is possible only where
all inputs of a node, its weights too, are found in the exported program by name; *compared* says how many.

A finding is a result whose absolute or relative error exceeds the tolerance; of the second row, the error of
the second run. The largest is by absolute error.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import onnx
import torch
from onnx_diagnostic.reference import OnnxruntimeEvaluator
from onnx_diagnostic.torch_onnx.sbs import run_aligned
from onnx_diagnostic.torch_onnx.sbs_dataclasses import RunAlignedRecord

from tests.benchmarks.files import PLAIN
from tests.benchmarks.peers import Case, Run
from tests.benchmarks.peers.program import load_program
from tests.benchmarks.records import Answer, Row

TOLERANCE = 1e-5


def prepare(case: Case) -> Sequence[Run]:
    """One run of each node, and two."""
    program, args = load_program(case)
    if not _is_readable(program):
        program = torch.export.export(case.model.build()[0], args)

    def walk(twice: bool, broken: bool) -> Answer:
        model = onnx.load(case.folder.graph(PLAIN, broken=broken))
        options = {"atol": TOLERANCE, "rtol": TOLERANCE, "run_onnx_with_torch_inputs": twice}
        with torch.no_grad():
            records = list(
                run_aligned(program, model, OnnxruntimeEvaluator, args, use_tensor=True, **options)
            )
        return read_answer(records, twice)

    return [
        Run(Row("onnx-diagnostic"), PLAIN, partial(walk, False)),
        Run(Row("onnx-diagnostic, second run"), PLAIN, partial(walk, True)),
    ]


def _is_readable(program: torch.export.ExportedProgram) -> bool:
    given = (value for node in program.graph.nodes for value in (*node.args, *node.kwargs.values()))
    return not any(isinstance(value, torch.memory_format) for value in given)


def read_answer(records: Sequence[RunAlignedRecord], twice: bool) -> Answer:
    """From the records of the walk; those of inputs and weights are not counted."""
    errors = {
        record.onnx_name: (record.err_abs2, record.err_rel2) if twice else (record.err_abs, record.err_rel)
        for record in records
        if record.onnx_id_node is not None and record.onnx_id_node >= 0
    }
    known = {name: pair for name, pair in errors.items() if pair[0] is not None}
    found = tuple(
        name
        for name, (absolute, relative) in known.items()
        if not (absolute <= TOLERANCE and relative <= TOLERANCE)
    )
    return Answer(len(known), found, max(known, key=lambda name: known[name][0], default=""))
