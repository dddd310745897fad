"""Measure: how far a run's values are from the reference, part by part, while the next part runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from alignkit.metrics import dtype_kind, error_histogram, measure_error, ulp
from alignkit.records import (
    Array,
    Candidate,
    Capture,
    ErrorHistogram,
    Measured,
    Measurement,
    Sides,
    TapKind,
    Verdict,
)
from alignkit.tolerance import Tolerances

_THREADS = 1 if (os.cpu_count() or 1) <= 2 else 2  # beside the run that goes on meanwhile
_SMALL = 2**16  # bytes of a tensor that is measured sooner than handed to a thread


def measure_candidate(
    reference: Capture,
    parts: Iterable[Candidate],
    tolerances: Tolerances,
    keep: Collection[str] = (),
    *,
    overlap: bool = True,
) -> Measured:
    """:func:`measure_runs` of one run."""
    (measured,) = measure_runs(reference, [(parts, keep)], tolerances, overlap=overlap)
    return measured


def measure_runs(
    reference: Capture,
    runs: Iterable[tuple[Iterable[Candidate], Collection[str]]],
    tolerances: Tolerances,
    *,
    overlap: bool = True,
) -> list[Measured]:
    """Measure runs one after the other, each part by part; with ``overlap`` each part while the next one
    runs, of its own run or of the one after, so that two are held.

    Beside its parts a run has the taps whose values are copied. Taps that share both tensors are measured
    once.
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        coming: dict[str, Future[Measurement]] = {}
        measured = []
        for parts, keep in runs:
            run = _Run()
            for part in parts:
                wait(coming.values())  # what the part before wrote may be written over from now on
                coming = _start_measuring(pool, reference, part, tolerances)
                run.add(part, coming, keep)
                if not overlap:
                    wait(coming.values())
            measured.append(run)
        return [run.result() for run in measured]


@dataclass(slots=True)
class _Run:
    """What is known of a run so far."""

    coming: dict[str, Future[Measurement]] = field(default_factory=dict)
    kept: dict[str, Array] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    onnx_values: dict[str, str] = field(default_factory=dict)
    trivial: frozenset[str] = frozenset()
    failed: frozenset[str] = frozenset()

    def add(self, part: Candidate, coming: Mapping[str, Future[Measurement]], keep: Collection[str]) -> None:
        """One more part, whose measurements are ``coming``."""
        self.coming.update(coming)
        self.kept.update({tap: part.values[tap].copy() for tap in keep if tap in part.values})
        self.absent.update(part.absent)
        self.onnx_values.update(part.onnx_values)
        self.trivial |= part.trivial
        self.failed |= part.failed

    def result(self) -> Measured:
        """All of it, when the last measurement is there."""
        taps = {tap: found.result() for tap, found in self.coming.items()}
        return Measured(taps, self.absent, self.onnx_values, self.trivial, self.failed, self.kept)


def _start_measuring(
    pool: Executor, reference: Capture, part: Candidate, tolerances: Tolerances
) -> dict[str, Future[Measurement]]:
    """The measurements of the taps of ``part``, the largest first: threads end at about one time."""
    known: dict[tuple[str, int, tuple[float, float]], Future[Measurement]] = {}
    coming = {}
    telling = {tap: found for tap, found in part.values.items() if not repeats_tap(tap, reference, part)}
    for tap, found in sorted(telling.items(), key=lambda item: -item[1].nbytes):
        if (expected := reference.values.get(tap)) is None:
            coming[tap] = _at_once(Measurement, None)
            continue
        pair = tolerances.mismatch_pair(tap, coarser_dtype(expected, found).name)
        key = reference.first(tap), id(found), pair
        if key not in known:
            submit = pool.submit if found.nbytes > _SMALL else _at_once
            known[key] = submit(measure_pair, expected, found, *pair, reference.sides)
        coming[tap] = known[key]
    return coming


def _at_once(function: Callable[..., Measurement], *arguments: Any) -> Future[Measurement]:
    """As an executor's ``submit``, without one."""
    done: Future[Measurement] = Future()
    done.set_result(function(*arguments))
    return done


def measure_pair(
    expected: Array,
    found: Array,
    rtol: float,
    atol: float,
    sides: Sides = Sides(),  # noqa: B008  frozen
) -> Measurement:
    """Measure two tensors, or say why they cannot be subtracted."""
    dtype = coarser_dtype(expected, found)
    if (misfit := misfit_of(expected, found, sides)) is not None:
        return Measurement(None, dtype, *misfit)
    return Measurement(measure_error(expected, found, rtol=rtol, atol=atol), dtype)


def measure_histograms(reference: Capture, parts: Iterable[Candidate]) -> dict[str, ErrorHistogram]:
    """The distribution of the errors of a run, tap by tap."""
    found: dict[str, ErrorHistogram] = {}
    with ThreadPoolExecutor(_THREADS) as pool:
        for part in parts:
            coming = {
                tap: pool.submit(error_histogram, tap, reference.values[tap], value)
                for tap, value in part.values.items()
            }
            found.update((tap, histogram.result()) for tap, histogram in coming.items())
    return found


def misfit_of(expected: Array, found: Array, sides: Sides) -> tuple[Verdict, str] | None:
    """Why two tensors cannot be subtracted, if they cannot."""
    if expected.shape != found.shape:
        shapes = (
            f"shape {list(found.shape)} in {sides.candidate}, {list(expected.shape)} in {sides.reference}"
        )
        return Verdict.SHAPE, shapes
    if dtype_kind(expected.dtype) != dtype_kind(found.dtype):
        names = f"{found.dtype.name} in {sides.candidate}, {expected.dtype.name} in {sides.reference}"
        return Verdict.DTYPE, names
    return None


def coarser_dtype(expected: Array, found: Array) -> np.dtype[Any]:
    """The dtype of lower precision: an error cannot be judged finer than that."""
    if expected.dtype == found.dtype:
        return expected.dtype
    return max((expected.dtype, found.dtype), key=lambda dtype: (ulp(1.0, dtype), -dtype.itemsize))


def repeats_tap(name: str, reference: Capture, introduced: Candidate | Measured) -> bool:
    """An input tap that sees the very tensor an earlier tap saw says nothing new."""
    tap = reference.taps.get(name)
    return tap is not None and tap.id.kind is TapKind.INPUT and name in introduced.trivial
