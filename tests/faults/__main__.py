"""``python -m tests.faults``: run the fault suite and print what the reports name beside what is true."""

from __future__ import annotations

import argparse
import fnmatch
import json
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

from tests.zoo.case import EXPORTERS

if TYPE_CHECKING:
    from tests.faults.score import Score

Work = tuple[str, str, int]  # (case, exporter, shift of seeds)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the suite, print table and totals; 0 when the figures are reached, else 1, 2 for wrong usage."""
    options = _parse(arguments)
    from tests.faults.cases import CASES
    from tests.faults.score import as_record, count

    exporters = [options.exporter] if options.exporter else list(EXPORTERS)
    work = [
        (name, exporter, options.shift)
        for exporter in exporters
        for name, case in CASES.items()
        if exporter in case.exporters and fnmatch.fnmatchcase(name, options.only)
    ]
    if not work:
        print(f"no case matches {options.only!r}; there are {', '.join(CASES)}.", file=sys.stderr)
        return 2
    from tests.faults.table import progress_line, render_table, render_totals

    scores = []
    for score in _run(work, options.jobs):
        scores.append(score)
        print(f"{len(scores)}/{len(work)} {progress_line(score)}", file=sys.stderr, flush=True)
    totals = count(scores)
    print(render_table(scores))
    print(render_totals(totals))
    if options.json:
        options.json.write_text(
            json.dumps([as_record(score) for score in scores], indent=1), encoding="utf-8"
        )
    return 0 if totals.reached else 1


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--exporter", choices=EXPORTERS, help="one exporter only")
    parser.add_argument("--only", default="*", metavar="GLOB", help="cases whose name matches")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes (default 1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the scores there as well")
    parser.add_argument(
        "--shift",
        type=int,
        default=0,
        metavar="N",
        help="other places for the injected faults: N added to seeds",
    )
    options = parser.parse_args(arguments)
    if options.jobs < 1:
        parser.error("--jobs must be at least 1")
    return options


def _run(work: list[Work], jobs: int) -> Iterator[Score]:
    """The scores of ``work`` in its order."""
    from tests.faults.worker import run_named

    if jobs == 1:
        yield from map(run_named, work)
        return
    # Fresh interpreters: torch's threads do not survive a fork. Neighbours share a host's export.
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        yield from pool.map(run_named, work, chunksize=4)


if __name__ == "__main__":
    sys.exit(main())
