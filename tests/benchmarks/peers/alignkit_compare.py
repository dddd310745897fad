"""alignkit, compare stage: the file is given, nothing is exported.

Counted: reading the file, the eager capture of every tap, both probes with their sessions and runs, all
metrics of the propagated and of the introduced error, verdicts and diagnosis. Four rows:

- ``alignkit``: taps on all modules, noise floor off; judged by the tolerances of ``torch.testing``;
- ``alignkit, noise floor``: the same with the float64 capture that judges by default;
- ``alignkit, file without taps``: the very file that the peers read. Its taps are mapped to the file's
  values by names and numbers, and the file is run twice as deployed besides, as ``alignkit.compare(…,
  onnx=…)`` does with any file;
- ``alignkit, op taps``: taps on all operations, noise floor off.

Findings are its culprits: the modules to blame.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import alignkit
from alignkit.datasets import as_data_set
from alignkit.options import make_settings
from alignkit.pipeline import compare_files
from alignkit.records import LayerRow, ReportData
from alignkit.settings import Files, Sample
from tests.benchmarks.files import PLAIN
from tests.benchmarks.peers import Case, Run
from tests.benchmarks.records import MODULE_TAPS, OP_TAPS, Answer, Row


def prepare(case: Case) -> Sequence[Run]:
    """The rows above."""
    model, args = case.model.build()
    sample = Sample(args)

    def compare(kind: str, options: dict[str, Any], broken: bool) -> Answer:
        files = Files(case.folder.graph(kind, broken=broken), None)
        settings = make_settings(granularity=kind, **options)
        return read_answer(compare_files(model, as_data_set(sample, None), files, settings))

    def compare_given(broken: bool) -> Answer:
        path: Path = case.folder.graph(PLAIN, broken=broken)
        return read_answer(alignkit.compare(model, args, onnx=path, noise_floor=False).data)

    def row(label: str, taps: str = MODULE_TAPS) -> Row:
        return Row(label, taps, explains=True)

    fast = {"noise_floor": False}
    return [
        Run(row("alignkit"), MODULE_TAPS, partial(compare, MODULE_TAPS, fast)),
        Run(row("alignkit, noise floor"), MODULE_TAPS, partial(compare, MODULE_TAPS, {})),
        Run(row("alignkit, file without taps"), PLAIN, compare_given),
        Run(row("alignkit, op taps", OP_TAPS), OP_TAPS, partial(compare, OP_TAPS, fast)),
    ]


def read_answer(report: ReportData) -> Answer:
    """The modules of its culprits, and the values of the file that its rows were compared with."""
    rows = [row for row in report.layers if row.verdict.was_compared]
    values = {row.onnx_value or row.tap for row in rows}
    worst = max(rows, key=_introduced, default=None)
    found = tuple(culprit.module for culprit in report.culprits)
    return Answer(len(values), found, worst.module if worst else "", taps=len(rows))


def _introduced(row: LayerRow) -> float:
    return (row.introduced.max_abs or 0.0) if row.introduced else 0.0
