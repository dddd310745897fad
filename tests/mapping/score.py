"""One file, healthy and spoilt, through :func:`alignkit.compare`: what reports say beside what is true."""

from __future__ import annotations

import contextlib
import io
import logging
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import alignkit
from alignkit.records import TapId, TapKind
from tests.mapping.kinds import COARSE, KINDS
from tests.mapping.subject import Subject, export, feeds_of
from tests.mapping.truth import Held, hold, true_values
from tests.zoo.tamper import tamper_node

GOAL = 0.9


@dataclass(frozen=True, slots=True)
class Row:
    """One file. ``mapped`` and ``unfused`` count module taps; ``pairs`` and ``wrong`` all taps.

    ``control`` is what the healthy file's report says, ``fault`` what the spoilt one's does, empty where
    none was made. ``failures`` are what does not hold, in words.
    """

    model: str
    exporter: str
    kind: str
    unfused: int = 0
    mapped: int = 0
    pairs: int = 0
    wrong: tuple[str, ...] = ()
    control: str = ""
    fault: str = ""
    seconds: float = 0.0
    failures: tuple[str, ...] = ()
    skipped: str = ""  # why there is no such file


def score_file(
    subject: Subject, exporter: str, kind: str, folder: Path, *, how: str = "weight", seed: int = 0
) -> Row:
    """Make the file, compare it healthy and, where it is exact, with one node spoilt."""
    begin = time.perf_counter()
    try:
        path = make_file(subject, exporter, kind, folder)
    except Exception as error:  # a converter's own failure
        return Row(subject.name, exporter, kind, skipped=f"{type(error).__name__}: {error}".splitlines()[0])
    truth = true_values(subject, export(subject, exporter, folder, marked=True))
    report = compare(subject, path)
    pairs = {row.tap: row.onnx_value for row in report.layers if row.onnx_value is not None}
    control, failures = _control(report, kind)
    if kind in COARSE:
        modules = [tap for tap in pairs if TapId.parse(tap).kind is TapKind.MODULE]
        seconds = time.perf_counter() - begin
        return Row(
            subject.name,
            exporter,
            kind,
            mapped=len(modules),
            pairs=len(pairs),
            control=control,
            seconds=seconds,
            failures=failures,
        )
    held = hold(subject, path, truth)
    present, wrong = held.present(), held.wrong(pairs, truth)
    mapped = len(present & pairs.keys())
    if wrong:
        failures += (f"wrong pairs: {', '.join(wrong)}",)
    if mapped < GOAL * len(present) or not mapped:
        failures += (f"{mapped} of {len(present)} mapped",)
    fault, found = _fault(subject, path, held, how, seed)
    seconds = time.perf_counter() - begin
    return Row(
        subject.name,
        exporter,
        kind,
        len(present),
        mapped,
        sum(tap in truth for tap in pairs),
        wrong,
        control,
        fault,
        seconds,
        (*failures, *found),
    )


def make_file(subject: Subject, exporter: str, kind: str, folder: Path) -> Path:
    """The file of that kind, made once per folder. Raises whatever the converter raises."""
    plain = export(subject, exporter, folder)
    convert = KINDS[kind]
    path = folder / f"{subject.name}.{exporter}.{kind}.onnx"
    if convert is not None and not path.exists():
        from alignkit.graph import load_graph

        with _quietly():
            convert(plain, path, feeds_of(subject.built, load_graph(plain)))
    return path


@contextmanager
def _quietly() -> Iterator[None]:
    """Converters talk."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def compare(subject: Subject, path: Path) -> alignkit.Report:
    """As a user would."""
    built = subject.built
    return alignkit.compare(built.model, built.args, built.kwargs, onnx=path)


def _control(report: alignkit.Report, kind: str) -> tuple[str, tuple[str, ...]]:
    """What the report says of a healthy file, and what is wrong with that."""
    said = "aligned" if report.aligned else _named(report)
    allowed = {"precision"} if kind in COARSE else set()
    blamed = [c for c in report.culprits if c.cause not in allowed]
    if blamed or (not report.aligned and kind not in COARSE):
        return said, (f"healthy, but {said}",)
    return said, ()


def _named(report: alignkit.Report) -> str:
    named = [f"{culprit.tap} {culprit.cause}" for culprit in report.culprits]
    return "diverged: " + (", ".join(named[:3]) + (" …" if len(named) > 3 else "") or "no culprit")


def _fault(subject: Subject, path: Path, held: Held, how: str, seed: int) -> tuple[str, tuple[str, ...]]:
    """Spoil one node; what the report then says, and what is wrong with that."""
    spoilt = path.with_name(f"{path.stem}.{how}{seed}.onnx")
    try:
        tampering = tamper_node(path, spoilt, how=how, seed=seed)
    except ValueError:
        return "", ()
    report = compare(subject, spoilt)
    owners = held.owners(tampering.outputs)
    what = f"{tampering.op} {tampering.change}"
    strays = [c.tap for c in report.culprits if c.tap not in owners]
    said = _named(report)
    if report.culprit is None or strays:
        shown = ", ".join(sorted(owners)[:3])
        return said, (f"spoilt ({what} at {tampering.node}), expected {shown}; {said}",)
    return said, ()
