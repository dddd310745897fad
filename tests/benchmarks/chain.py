"""Does a comparison's cost grow in line with the number of taps? ``python -m tests.benchmarks chain``.

A chain of small equal blocks is exported with a tap behind every one and compared, each length in a process
of its own. Time is processor time of the compare stage (file given, both errors, no noise floor) on one
thread, memory what it adds at most to what the process held before: both should be alike per tap at all
lengths. The last line says how much the largest exceeds the smallest, with and without the first length,
in which what a comparison costs whatever its length weighs most.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

from tests.benchmarks.jobs import ask, table
from tests.benchmarks.memory import peak_bytes, reset_peak, resident_bytes

if TYPE_CHECKING:
    from torch import Tensor, nn

_WARM_UP = 10  # blocks
_COLUMNS = ("taps", "values", "compare", "per tap", "memory", "per tap", "export")


@dataclass(frozen=True, slots=True)
class Point:
    """One length: taps and values compared, seconds, and bytes at most above what was held before."""

    taps: int
    values: int
    seconds: float
    memory: int
    export_seconds: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print a table, and below it how flat it is."""
    options = _parse(arguments)
    if options.one:
        print(json.dumps(asdict(measure(options.kind, options.one, options.rounds))))
        return 0
    points = [_in_process(taps, options) for taps in options.taps]
    print(table(_COLUMNS, [_cells(point) for point in points]))
    print(f"\n{describe_flatness(points)}")
    return 0


def measure(kind: str, length: int, rounds: int) -> Point:
    """Export a chain of ``length`` blocks and compare it; the best of ``rounds``, since others disturb."""
    from alignkit.memory import give_back
    from alignkit.records import ReportData

    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        _prepare(kind, _WARM_UP, Path(folder) / "warm.onnx")()
        begin = time.process_time()
        compare: Callable[[], ReportData] = _prepare(kind, length, Path(folder) / "chain.onnx")
        exporting = time.process_time() - begin
        give_back()  # what the export freed would hide what the comparison takes
        times, peaks = [], []
        for _ in range(rounds):
            reset_peak()
            before, begin = resident_bytes(), time.process_time()
            report = compare()
            times.append(time.process_time() - begin)
            peaks.append(peak_bytes() - before)
    assert report.aligned, [culprit.tap for culprit in report.culprits]
    values = {row.onnx_value for row in report.layers}
    # The first round's: later ones find memory that the process did not give back.
    return Point(report.coverage.compared, len(values), min(times), max(peaks), exporting)


def _prepare(kind: str, length: int, path: Path) -> Callable[[], object]:
    """Export a chain to ``path``; what is returned compares it."""
    import torch

    from alignkit.datasets import as_data_set
    from alignkit.export import export_model
    from alignkit.instrument import Selection
    from alignkit.options import make_settings
    from alignkit.pipeline import compare_files
    from alignkit.settings import Files, Sample

    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, x = CHAINS[kind](length)
    options = {"input_names": ["x"]}
    # torch checks its own graph ten times on the way; at 5,000 blocks that alone takes minutes.
    with mock.patch.object(torch._C, "_jit_pass_lint", return_value=None):
        export_model(model, (x,), {}, path, exporter="torchscript", options=options, selection=Selection())
    data, settings = as_data_set(Sample((x,)), None), make_settings(noise_floor=False, threads=1)
    return lambda: compare_files(model, data, Files(path, None), settings)


def _linear_chain(length: int) -> tuple[nn.Module, Tensor]:
    import torch
    from torch import nn

    class Block(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return torch.tanh(super().forward(input))

    return nn.Sequential(*(Block(64, 64) for _ in range(length))).eval(), torch.randn(256, 64)


def _conv_chain(length: int) -> tuple[nn.Module, Tensor]:
    import torch
    from torch import nn

    class Block(nn.Conv2d):
        def forward(self, input: Tensor) -> Tensor:
            return torch.tanh(super().forward(input))

    blocks = (Block(16, 16, 3, padding=1) for _ in range(length))
    return nn.Sequential(*blocks).eval(), torch.randn(1, 16, 32, 32)


CHAINS: Mapping[str, Callable[[int], tuple[nn.Module, Tensor]]] = {
    "linear": _linear_chain,
    "conv": _conv_chain,
}


def describe_flatness(points: Sequence[Point]) -> str:
    """How much the dearest length costs more per tap than the cheapest."""
    parts = []
    for what, figure in (
        ("time", [point.seconds / point.taps for point in points]),
        ("memory", [point.memory / point.taps for point in points]),
    ):
        later = f" ({_spread(figure[1:])} without the first)" if len(figure) > 2 else ""
        parts.append(f"{what} {_spread(figure)}{later}")
    return f"Per tap, dearest length over cheapest: {', '.join(parts)}."


def _spread(figures: Sequence[float]) -> str:
    return f"{max(figures) / max(min(figures), 1e-12):.2f}"


def _cells(point: Point) -> list[str]:
    return [
        f"{point.taps:,}",
        f"{point.values:,}",
        f"{point.seconds:.2f} s",
        f"{point.seconds / point.taps * 1e3:.2f} ms",
        f"{point.memory / 2**20:.0f} MiB",
        f"{point.memory / point.taps / 2**10:.0f} KiB",
        f"{point.export_seconds:.1f} s",
    ]


def _in_process(taps: int, options: argparse.Namespace) -> Point:
    own = ("--one", taps, "--kind", options.kind, "--rounds", options.rounds)
    return Point(**ask("tests.benchmarks", "chain", *own))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks chain", description=__doc__)
    parser.add_argument("--taps", type=int, nargs="+", default=[100, 1000, 5000], metavar="N", help="lengths")
    parser.add_argument("--kind", choices=CHAINS, default="linear", help="what a block is")
    parser.add_argument("--rounds", type=int, default=2, help="the best of so many counts")
    parser.add_argument("--one", type=int, metavar="N", help="one length, in this process, as JSON")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
