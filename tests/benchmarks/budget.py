"""A comparison within a budget against one without: ``python -m tests.benchmarks budget``.

Four jobs, each in a process of its own, on the same two files: the *plain job* (the model, one torch
forward, one ONNX Runtime run of the file as deployed), and the comparison without a budget and with one,
noise floor included. Printed are the peaks of resident memory, how far they are above the plain job's,
what they may be (by the budget and the largest tensor), and in what the two
reports differ.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from alignkit.sizes import parse_size, size_words
from tests.benchmarks.jobs import ask, table
from tests.benchmarks.memory import peak_bytes, reset_peak

_MODULE = "tests.benchmarks.budget"
_BUDGETLESS = 1 << 60


def _build(batch: int) -> tuple[Any, Any]:
    import torch

    from tests.torchvision_import import import_torchvision

    torch.manual_seed(0)
    return import_torchvision().models.resnet50().eval(), torch.randn(batch, 3, 224, 224)


def _export(folder: Path, batch: int, budget: int) -> dict[str, Any]:
    from alignkit.export import export_model
    from alignkit.instrument import Selection

    model, x = _build(1)
    options = {"input_names": ["x"], "dynamic_axes": {"x": {0: "n"}}}
    for name, selection in (("marked", Selection()), ("plain", None)):
        path = folder / f"{name}.onnx"
        export_model(model, (x,), {}, path, exporter="torchscript", options=options, selection=selection)
    return {}


def _plain(folder: Path, batch: int, budget: int) -> dict[str, Any]:
    import onnxruntime as ort
    import torch

    model, x = _build(batch)
    reset_peak()
    with torch.no_grad():
        model(x)
    ort.InferenceSession(str(folder / "plain.onnx")).run(None, {"x": x.numpy()})
    return {"peak": peak_bytes()}


def _compare(folder: Path, batch: int, budget: int) -> dict[str, Any]:
    from alignkit.datasets import as_data_set
    from alignkit.options import make_settings
    from alignkit.pipeline import compare_files
    from alignkit.settings import Files, Sample

    model, x = _build(batch)
    settings = make_settings(max_bytes=budget)
    files = Files(folder / "marked.onnx", folder / "plain.onnx")
    reset_peak()
    report = compare_files(model, as_data_set(Sample((x,)), None), files, settings)
    rows = [
        [row.tap, row.verdict.value, _mse(row.introduced), _mse(row.propagated), row.noise_floor]
        for row in report.layers
    ]
    seconds = sum(report.timings.values())
    return {"peak": peak_bytes(), "rows": rows, "aligned": report.aligned, "seconds": seconds}


def _mse(error: Any) -> float | None:
    return None if error is None else error.mse


_JOBS: Mapping[str, Callable[[Path, int, int], dict[str, Any]]] = {
    "export": _export,
    "plain": _plain,
    "compare": _compare,
}


def _difference(whole: Mapping[str, Any], bounded: Mapping[str, Any]) -> str:
    """In what two reports differ: verdicts, and figures relative to each other."""
    pairs = list(zip(whole["rows"], bounded["rows"], strict=True))
    verdicts = sum(one[:2] != other[:2] for one, other in pairs)
    names = ("introduced MSE", "propagated MSE", "noise floor")
    apart = [max(_apart(one[place], other[place]) for one, other in pairs) for place in (2, 3, 4)]
    told = ", ".join(
        f"{name} {'bit for bit' if worst == 0 else f'within {worst:.1e}'}"
        for name, worst in zip(names, apart, strict=True)
    )
    return f"verdicts that differ: {verdicts} of {len(pairs)}; {told}"


def _apart(one: float | None, other: float | None) -> float:
    if one == other:
        return 0.0
    if one is None or other is None:
        return float("inf")
    return abs(one - other) / max(abs(one), abs(other))


def main(arguments: Sequence[str]) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks budget", description=__doc__)
    parser.add_argument("--batch", type=int, default=32, help="of the ResNet-50 (default: 32)")
    parser.add_argument("--max-memory", default="256MiB")
    parser.add_argument("--job", choices=_JOBS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    budget = parse_size(given.max_memory, "--max-memory")
    if given.job:
        print(json.dumps(_JOBS[given.job](given.folder, given.batch, budget)))
        return
    with tempfile.TemporaryDirectory() as folder:
        common = ("--folder", folder, "--batch", given.batch)
        ask(_MODULE, *common, "--job", "export")
        plain = ask(_MODULE, *common, "--job", "plain")
        whole = ask(_MODULE, *common, "--job", "compare", "--max-memory", _BUDGETLESS)
        bounded = ask(_MODULE, *common, "--job", "compare", "--max-memory", budget)
    largest = given.batch * 64 * 112 * 112 * 4
    print(
        f"ResNet-50, batch {given.batch}, budget {size_words(budget)}, largest tensor {size_words(largest)}\n"
    )
    rows = [
        ["plain job", size_words(plain["peak"]), "", "", ""],
        *(
            [
                name,
                size_words(found["peak"]),
                size_words(found["peak"] - plain["peak"]),
                size_words(budget + largest) if found is bounded else "",
                f"{found['seconds'] / whole['seconds']:.2f}",
            ]
            for name, found in (("without a budget", whole), ("with the budget", bounded))
        ),
    ]
    print(table(["job", "peak memory", "above the plain job", "allowed", "time, ratio"], rows))
    print(f"\n{_difference(whole, bounded)}")


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
