"""torch's own: ``torch.onnx.verification.verify_onnx_program(…, compare_intermediates=True)``.

Runs the exported program operation by operation, and computes the ONNX value of each one's name by a session
of its own over the model up to there. Given are the exported program and the file, from which the
``ONNXProgram`` is put together that an export in the same process would have returned, weights in memory.
Counted: reading the file and that call, without gradients; its log is off.

A finding is a value that it logs a warning for: more than 0.01 in absolute terms or 0.1 in relative. The
largest error is the absolute one.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import onnx_ir
import torch
from torch.onnx.verification import VerificationInfo, verify_onnx_program

from tests.benchmarks.files import PLAIN
from tests.benchmarks.peers import Case, Run
from tests.benchmarks.peers.program import load_program
from tests.benchmarks.records import Answer, Row

WARNS_ABOVE = 0.01, 0.1  # absolute, relative


def prepare(case: Case) -> Sequence[Run]:
    """One row."""
    program, args = load_program(case)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)

    def verify(broken: bool) -> Answer:
        model = onnx_ir.load(case.folder.graph(PLAIN, broken=broken))
        onnx_ir.external_data.load_to_model(model)
        with torch.no_grad():
            infos = verify_onnx_program(
                torch.onnx.ONNXProgram(model, program), args, compare_intermediates=True
            )
        return read_answer(infos)

    return [Run(Row("torch verification"), PLAIN, verify)]


def read_answer(infos: Sequence[VerificationInfo]) -> Answer:
    """From one record per value, in execution order."""
    absolute, relative = WARNS_ABOVE
    found = tuple(info.name for info in infos if info.max_abs_diff > absolute or info.max_rel_diff > relative)
    worst = max(infos, key=lambda info: info.max_abs_diff, default=None)
    return Answer(len(infos), found, worst.name if worst else "")
