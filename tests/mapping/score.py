"""One file, healthy and spoilt, through :func:`alignkit.compare`: what reports say beside what is true."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

import alignkit
from alignkit.records import TapId, TapKind
from tests.mapping.kinds import COARSE, UNUSABLE, make_file
from tests.mapping.subject import Subject
from tests.mapping.truth import Held, hold
from tests.zoo.tamper import tamper_node

GOAL = 0.9
"""The share of unfused module taps that must be mapped."""


@dataclass(frozen=True, slots=True)
class Row:
    """One file. ``mapped`` and ``unfused`` count module taps; ``right`` and ``wrong`` are pairs of any kind.

    ``control`` is what the healthy file's report says, ``fault`` what the spoilt one's does, empty where
    none was made. ``failures`` are what does not hold, in words; ``skipped`` why there is no such file.
    """

    model: str
    exporter: str
    kind: str
    unfused: int = 0
    mapped: int = 0
    right: int = 0
    wrong: tuple[str, ...] = ()
    control: str = ""
    healthy: bool = False
    fault: str = ""
    named: bool = False
    seconds: float = 0.0
    failures: tuple[str, ...] = ()
    skipped: str = ""


def score_file(
    subject: Subject, exporter: str, kind: str, folder: Path, *, how: str = "weight", seed: int = 0
) -> Row:
    """Make the file, compare it healthy and, where it is exact, with one node spoilt."""
    begin = time.perf_counter()
    row = Row(subject.name, exporter, kind)
    if reason := UNUSABLE.get((subject.name, exporter, kind)):
        return replace(row, skipped=reason)
    try:
        path = make_file(subject, exporter, kind, folder)
    except Exception as reason:  # of a converter, which is not what is tested here
        return replace(row, skipped=f"the converter fails: {type(reason).__name__}")
    report = compare(subject, path)
    pairs = {layer.tap: layer.onnx_value for layer in report.layers if layer.onnx_value is not None}
    row = _judge_control(row, report)
    if kind in COARSE:
        row = replace(row, mapped=sum(TapId.parse(tap).kind is TapKind.MODULE for tap in pairs))
    else:
        held = hold(subject, path, subject.truth(folder))
        row = _judge_pairs(row, pairs, held)
        row = _judge_fault(row, subject, path, held, how, seed)
    return replace(row, seconds=time.perf_counter() - begin)


def compare(subject: Subject, path: Path) -> alignkit.Report:
    """As a user would."""
    built = subject.built
    return alignkit.compare(built.model, built.args, built.kwargs, onnx=path)


def _judge_control(row: Row, report: alignkit.Report) -> Row:
    """A healthy file has no culprit but, where it is converted, its own precision."""
    said = "aligned" if report.aligned else _named(report)
    is_coarse = row.kind in COARSE
    blamed = [culprit for culprit in report.culprits if not (is_coarse and culprit.cause == "precision")]
    healthy = report.aligned or (is_coarse and bool(report.culprits) and not blamed)
    failures = () if healthy else (f"healthy, but {said}",)
    short = said if report.aligned or not healthy else f"precision ({len(report.culprits)})"
    return replace(row, control=short, healthy=healthy, failures=(*row.failures, *failures))


def _named(report: alignkit.Report) -> str:
    named = [f"{culprit.tap} {culprit.cause}" for culprit in report.culprits]
    return ", ".join(named[:3]) + (" …" if len(named) > 3 else "") or "no culprit"


def _judge_pairs(row: Row, pairs: dict[str, str], held: Held) -> Row:
    """Of the taps whose numbers are in the file nine in ten are mapped, and none wrongly."""
    wrong = held.wrong(pairs)
    present = held.present()
    mapped = len(present & pairs.keys())
    failures = [f"wrong pairs: {', '.join(wrong)}"] if wrong else []
    if not mapped or mapped < GOAL * len(present):
        failures.append(f"{mapped} of {len(present)} mapped")
    right = sum(tap in held.truth for tap in pairs) - len(wrong)
    return replace(
        row,
        unfused=len(present),
        mapped=mapped,
        right=right,
        wrong=wrong,
        failures=(*row.failures, *failures),
    )


def _judge_fault(row: Row, subject: Subject, path: Path, held: Held, how: str, seed: int) -> Row:
    """Every culprit is a tap that sees the spoilt node's error first."""
    spoilt = path.with_name(f"{path.stem}.{how}{seed}.onnx")
    try:
        tampering = tamper_node(path, spoilt, how=how, seed=seed)
    except ValueError as reason:
        return replace(row, failures=(*row.failures, str(reason)))
    report = compare(subject, spoilt)
    owners = held.owners(tampering.outputs)
    said = _named(report)
    if report.culprit is not None and all(culprit.tap in owners for culprit in report.culprits):
        return replace(row, fault=said, named=True)
    expected = ", ".join(sorted(owners)[:3]) or "nothing"
    failure = f"spoilt ({tampering.op} {tampering.node}: {tampering.change}) at {expected}, named: {said}"
    return replace(row, fault=said, failures=(*row.failures, failure))
