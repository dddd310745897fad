"""Run cases and score what the reports name."""

from __future__ import annotations

import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import alignkit
from alignkit.records import Culprit
from tests.faults.case import FaultCase, Prepared

MODULE_RATE, CAUSE_RATE = 0.95, 0.90
"""Shares of the faults' cases in which the module, and the cause, must be right."""


@dataclass(frozen=True, slots=True)
class Score:
    """What one report said beside what is true.

    ``blamed`` counts the culprits. ``failure`` is the exception that took the report's place.
    """

    case: str
    exporter: str
    kind: str
    expected_module: str
    expected_cause: str
    named_module: str
    named_cause: str
    module_right: bool
    cause_right: bool
    blamed: int
    seconds: float
    change: str = ""
    failure: str = ""

    @property
    def is_control(self) -> bool:
        return self.kind == "control"

    @property
    def right(self) -> bool:
        return self.module_right and self.cause_right


def run_case(case: FaultCase, exporter: str, folder: Path) -> Score:
    """Prepare and compare one case. An exception is a wrong report, not the end of the run."""
    started = time.perf_counter()
    prepared: Prepared | None = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # training modes, tracers: the report is what is judged
            prepared = case.build(exporter, folder)
            options = {"exporter": exporter, **prepared.options}
            report = alignkit.compare(prepared.model, prepared.args, prepared.kwargs, **options)
    except Exception as error:
        failure = f"{type(error).__name__}: {error}".splitlines()[0]
        return _score(case, exporter, prepared, (), False, started, f"{failure} {_origin(error)}")
    return _score(case, exporter, prepared, tuple(report.culprits), report.aligned, started)


def _origin(error: BaseException) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"({Path(frame.filename).name}:{frame.lineno})"


def _score(
    case: FaultCase,
    exporter: str,
    prepared: Prepared | None,
    culprits: Sequence[Culprit],
    aligned: bool,
    started: float,
    failure: str = "",
) -> Score:
    faults = prepared.faults if prepared is not None else ()
    module_right, cause_right = judge(prepared, culprits, aligned) if not failure else (False, False)
    return Score(
        case.name,
        exporter,
        case.kind,
        " + ".join("|".join(sorted(fault.modules)) for fault in faults),
        " + ".join("|".join(sorted(fault.causes)) for fault in faults),
        " + ".join(culprit.module for culprit in culprits[:4]) + (" …" if len(culprits) > 4 else ""),
        " + ".join(culprit.cause for culprit in culprits[:4]),
        module_right,
        cause_right,
        len(culprits),
        time.perf_counter() - started,
        prepared.change if prepared is not None else "",
        failure,
    )


def judge(prepared: Prepared | None, culprits: Sequence[Culprit], aligned: bool) -> tuple[bool, bool]:
    """Module: the first culprit is a fault's, and every fault has one. Cause: right for each of them."""
    faults = prepared.faults if prepared is not None else ()
    if not faults:
        return aligned and not culprits, aligned and not culprits
    named = [[c for c in culprits if c.module in fault.modules] for fault in faults]
    first = bool(culprits) and any(culprits[0].module in fault.modules for fault in faults)
    module_right = first and all(named)
    cause_right = all(
        bool(found) and found[0].cause in fault.causes for found, fault in zip(named, faults, strict=True)
    )
    return module_right, cause_right


@contextmanager
def workspace() -> Iterator[Path]:
    """A folder for the files of one process."""
    with tempfile.TemporaryDirectory(prefix="alignkit-faults-") as folder:
        yield Path(folder)


@dataclass(frozen=True, slots=True)
class Totals:
    """Right ones over all faulty cases, and the controls that were blamed."""

    faults: int
    modules: int
    causes: int
    controls: int
    blamed: int

    @property
    def reached(self) -> bool:
        """Module, cause and controls are as good as they must be."""
        return (
            self.modules >= MODULE_RATE * self.faults
            and self.causes >= CAUSE_RATE * self.faults
            and not self.blamed
        )


def count(scores: Sequence[Score]) -> Totals:
    """The totals of ``scores``; a control that could not be compared counts as blamed."""
    faults = [score for score in scores if not score.is_control]
    controls = [score for score in scores if score.is_control]
    return Totals(
        len(faults),
        sum(score.module_right for score in faults),
        sum(score.cause_right for score in faults),
        len(controls),
        sum(not score.right for score in controls),
    )


def as_record(score: Score) -> dict[str, Any]:
    """A score for JSON."""
    return asdict(score)
