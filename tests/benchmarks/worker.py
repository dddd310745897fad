"""A tool in a process of its own: ``python -m tests.benchmarks.worker MODEL TOOL FOLDER``.

It gets ready, says which rows it has, and then runs one of them for every line on standard input. All lines,
in and out, are JSON. Whatever a tool prints goes to standard error.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any, TextIO

from tests.benchmarks.files import Folder
from tests.benchmarks.memory import peak_bytes, reset_peak, resident_bytes
from tests.benchmarks.models import MODELS
from tests.benchmarks.peers import TOOLS, Case, Run


def main() -> None:
    """Serve until standard input ends."""
    name, tool, folder = sys.argv[1:]
    warnings.simplefilter("ignore")
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as replies:
        os.dup2(2, 1)
        runs = TOOLS[tool].prepare(Case(Folder(Path(folder)), MODELS[name]))
        _say(
            replies, {"rows": [dataclasses.asdict(run.row) for run in runs], "kinds": [r.kind for r in runs]}
        )
        for line in sys.stdin:
            order = json.loads(line)
            _say(replies, _serve(runs[order["run"]], order["broken"]))


def _serve(run: Run, broken: bool) -> dict[str, Any]:
    run.before()
    gc.collect()
    reset_peak()
    before = resident_bytes()
    begin = time.perf_counter()
    try:
        answer = run.call(broken)
    except Exception as error:  # a tool that fails is a row that says so
        return {"failure": " ".join(f"{type(error).__name__}: {error}".split())}
    seconds = time.perf_counter() - begin
    record = dataclasses.asdict(answer) if answer else None
    return {"seconds": seconds, "peak": peak_bytes(), "before": before, "answer": record}


def _say(replies: TextIO, record: dict[str, Any]) -> None:
    replies.write(json.dumps(record) + "\n")
    replies.flush()


if __name__ == "__main__":
    main()
