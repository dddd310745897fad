"""``alignkit diff``: compare two dumps, without torch or a runtime."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from alignkit.dump import compare_dumps, read_dump
from alignkit.errors import EXIT_ALIGNED, EXIT_DIVERGED
from alignkit.report import Report
from alignkit.report.files import check_target
from alignkit.tolerance import Tolerances


def run_diff(arguments: argparse.Namespace) -> int:
    """Compare the two dumps, print and save the report, and return the exit code."""
    folder = None if arguments.output is None else Path(arguments.output)
    if folder is not None:
        check_target(folder, arguments.force)
    reference, candidate = read_dump(arguments.reference), read_dump(arguments.candidate)
    tolerances = Tolerances(arguments.rtol, arguments.atol, dict(arguments.tolerance))
    report = Report(compare_dumps(reference, candidate, tolerances))
    if folder is not None:
        report.save(folder, force=arguments.force)
    if arguments.json:
        print(json.dumps(report.to_dict(), indent=1, allow_nan=False))
    else:
        print(report.render("text").rstrip())
        if folder is not None:
            print(f"\nReport: {folder / 'index.html'}")
    return EXIT_ALIGNED if report.aligned or arguments.exit_zero else EXIT_DIVERGED
