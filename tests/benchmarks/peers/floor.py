"""The floor: what no tool can do without that wants both errors of every tap.

``floor`` is one eager forward, and two probe sessions – one that yields every tap of the ordinary run, one
that is cut at every tap and fed with the reference – created and run once each, with ONNX Runtime's default
options. ``floor, first runs`` has its session beforehand: one forward and two runs of the first probe.
``floor, runs again`` is the same with a session that has run before, and that has kept its memory since; no
comparison can have that, for it runs each of its probes once. Nothing is copied, compared or kept. Both
probes are written as files beforehand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch

from alignkit.capture import capture_reference
from alignkit.extract import Probe, extract_introduced, extract_propagated, read_marked
from alignkit.graph import MarkedGraph
from alignkit.instrument import Selection
from alignkit.records import Capture
from alignkit.settings import Sample
from alignkit.trial import bind_feeds
from tests.benchmarks.files import Folder
from tests.benchmarks.peers import Case, Run
from tests.benchmarks.records import FIRST_RUNS, MODULE_TAPS, OP_TAPS, RUNS, SESSIONS, Row


@dataclass(frozen=True, slots=True)
class _Probes:
    """Paths of both probes, and what each is fed."""

    propagated: tuple[Path, Mapping[str, Any]]
    introduced: tuple[Path, Mapping[str, Any]]


def prepare(case: Case) -> Sequence[Run]:
    """Both floors at module taps, and the first at those of operations."""
    model, args = case.model.build()
    # Its taps are those of the modules and more: held once, for both.
    reference = capture_reference(model, args, {}, Selection(granularity=OP_TAPS), confirm=False)

    def forward() -> None:
        with torch.no_grad():
            model(*args)

    def whole(probes: _Probes, _: bool) -> None:
        forward()
        for path, feeds in (probes.propagated, probes.introduced):
            _open(path).run(None, feeds)

    def write(taps: str) -> _Probes:
        marked = read_marked(case.folder.graph(taps))
        feeds, _ = bind_feeds(model, Sample(args), marked)
        return _write_probes(case.folder, taps, marked, feeds, reference)

    at_modules, at_operations = write(MODULE_TAPS), write(OP_TAPS)
    return [
        Run(Row("floor", floor=SESSIONS), MODULE_TAPS, partial(whole, at_modules)),
        _runs_alone(Row("floor, first runs", floor=FIRST_RUNS), forward, at_modules),
        _runs_alone(Row("floor, runs again", floor=RUNS), forward, at_modules),
        Run(Row("floor, op taps", OP_TAPS, SESSIONS), OP_TAPS, partial(whole, at_operations)),
    ]


def _runs_alone(row: Row, forward: Callable[[], None], probes: _Probes) -> Run:
    path, feeds = probes.propagated
    sessions: list[onnxruntime.InferenceSession] = []

    def before() -> None:
        if row.floor == FIRST_RUNS:
            sessions.clear()
        if not sessions:
            sessions.append(_open(path))

    def call(_: bool) -> None:
        forward()
        sessions[0].run(None, feeds)
        sessions[0].run(None, feeds)

    return Run(row, MODULE_TAPS, call, before)


def _open(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def _write_probes(
    folder: Folder, taps: str, marked: MarkedGraph, feeds: Mapping[str, Any], reference: Capture
) -> _Probes:
    def write(probe: Probe, name: str) -> tuple[Path, Mapping[str, Any]]:
        path = folder.path / f"probe-{taps}-{name}.onnx"
        onnx.save(probe.model, path)
        known = {**feeds, **{fed: reference.values[tap] for fed, tap in probe.feeds.items()}}
        return path, {value.name: known[value.name] for value in probe.model.graph.input}

    cut = extract_introduced(marked, reference.values.keys())
    return _Probes(write(extract_propagated(marked), "propagated"), write(cut, "introduced"))
