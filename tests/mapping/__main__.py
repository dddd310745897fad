"""``python -m tests.mapping``: the table; exits with 1 where something does not hold."""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from pathlib import Path

import torch

from tests.mapping.kinds import KINDS
from tests.mapping.score import Row, score_file
from tests.mapping.subject import MODELS, prepare
from tests.mapping.table import holds, render
from tests.zoo import CASES, EXPORTERS
from tests.zoo.tamper import HOW


def main() -> int:
    """Score what is asked for, telling of every file on stderr, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(CASES), metavar="MODEL")
    parser.add_argument("--exporters", nargs="+", default=list(EXPORTERS), choices=EXPORTERS)
    parser.add_argument("--files", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--how", default="weight", choices=list(HOW), help="how the node is spoilt")
    parser.add_argument("--seed", type=int, default=0, help="chooses the node that is spoilt")
    parser.add_argument("--folder", type=Path, help="keep the files here, and use those that are there")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        for name in arguments.models:
            subject = prepare(name)
            for exporter in arguments.exporters:
                for kind in arguments.files:
                    options = {"how": arguments.how, "seed": arguments.seed}
                    rows.append(score_file(subject, exporter, kind, folder, **options))
                    print(f"{name} {exporter} {kind} {rows[-1].seconds:.1f} s", file=sys.stderr)
    print(render(rows))
    return 0 if holds(rows) else 1


if __name__ == "__main__":
    sys.exit(main())
