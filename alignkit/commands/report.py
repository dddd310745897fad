"""``alignkit report``: render a saved report again, without torch or a runtime."""

from __future__ import annotations

import argparse
import sys

from alignkit.errors import EXIT_ALIGNED
from alignkit.report.files import load_report
from alignkit.report.renderers import resolve_renderer


def run_report(arguments: argparse.Namespace) -> int:
    """Print the saved report in the format asked for, and return the exit code."""
    sys.stdout.write(resolve_renderer(arguments.format)(load_report(arguments.path)))
    return EXIT_ALIGNED
