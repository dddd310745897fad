"""``python -m tests.benchmarks``: print a table; a first word says which, without one ``peers``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

COMMANDS = {
    "peers": "tests.benchmarks.compared",
    "budget": "tests.benchmarks.budget",
    "chain": "tests.benchmarks.chain",
    "large": "tests.benchmarks.large",
    "metrics": "tests.benchmarks.bench_metrics",
    "plan": "tests.benchmarks.bench_plan",
}


def main(arguments: Sequence[str]) -> int:
    """Hand the arguments to the command that the first of them names."""
    name, *rest = arguments if arguments and arguments[0] in COMMANDS else ("peers", *arguments)
    # Each imports what it needs: those that start processes stay small themselves.
    return int(import_module(COMMANDS[name]).main(rest) or 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
