"""alignkit beside its peers and its floor: ``python -m tests.benchmarks``.

Every model is exported once (or found in the folder of ``--keep``), every tool loads what it needs in a
process of its own, and the rows of all tools take turns. A tool that is not installed is a row that says so:
``pip install -c constraints.txt -e ".[benchmark]"`` installs them.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tests.benchmarks.files import Folder
from tests.benchmarks.measuring import Plan, Stopped, export_files, measure_model
from tests.benchmarks.models import DEFAULT, MODELS
from tests.benchmarks.peers import TOOLS
from tests.benchmarks.records import Measured
from tests.benchmarks.table import render, render_legend

_PACKAGES = ("alignkit", "torch", "onnx", "onnxruntime", "numpy", "numba")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 1 when a model could not be exported. Interrupted, it prints what it has."""
    options = _parse(arguments)
    plan = Plan(options.rounds, options.limit, options.patience, options.exporter)
    results: dict[str, list[Measured]] = {}
    code = 0
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with tempfile.TemporaryDirectory(prefix="benchmarks-") as temporary:
            code = _measure(options, plan, options.keep or Path(temporary), results)
    except KeyboardInterrupt:
        code = 130
    finally:
        signal.signal(signal.SIGTERM, before)
    if results:
        print(render([row for rows in results.values() for row in rows]))
        print(f"\n{render_legend(versions(options.tools), plan.patience, os.cpu_count() or 1)}")
    return code


def _measure(
    options: argparse.Namespace, plan: Plan, parent: Path, results: dict[str, list[Measured]]
) -> int:
    """Fill ``results``, model by model; 1 when one of them could not be exported."""
    code, say = 0, partial(_say, time.monotonic())
    for name in options.models:
        folder = Folder(parent.resolve() / f"{name}-{options.exporter}")
        try:
            if not folder.is_complete:
                say(f"{name}: exporting")
                export_files(name, folder, options.exporter)
            say(f"{name}: measuring")
            for rows in measure_model(name, folder, options.tools, plan, say):
                results[name] = rows
        except Stopped as reason:
            code = 1
            print(f"{name}: {reason}", file=sys.stderr)
    say("done")
    return code


def versions(tools: Sequence[str]) -> dict[str, str]:
    """Of Python, of what all tools use, and of the tools that are installed."""
    found = {"Python": platform.python_version()}
    for package in dict.fromkeys((*_PACKAGES, *(TOOLS[tool].distribution for tool in tools))):
        try:
            found |= {package: version(package)} if package else {}
        except PackageNotFoundError:  # its row says that it is not installed
            continue
    return found


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(DEFAULT), metavar="MODEL")
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=list(TOOLS), metavar="TOOL")
    parser.add_argument("--rounds", type=int, default=3, help="runs that count, behind one to warm up")
    parser.add_argument("--exporter", choices=("dynamo", "torchscript"), default="dynamo")
    parser.add_argument(
        "--limit", type=float, default=60.0, metavar="SECONDS", help="a longer run is stopped (default 60)"
    )
    parser.add_argument(
        "--patience", type=float, default=15.0, metavar="SECONDS", help="a longer run is not repeated (15)"
    )
    parser.add_argument(
        "--keep", type=Path, metavar="FOLDER", help="keep the exported files, or find them there"
    )
    parser.epilog = f"models: {', '.join(MODELS)}; tools: {', '.join(TOOLS)}"
    return parser.parse_args(arguments)


def _say(begin: float, text: str) -> None:
    print(f"{time.monotonic() - begin:5.0f} s  {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
