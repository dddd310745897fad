"""Parts: a run made piece by piece holds what it must, no more, and gives what a whole run gives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import parser

from alignkit.backends import OnnxRuntime
from alignkit.candidate import ProbeRunner
from alignkit.capture import capture_reference
from alignkit.extract import read_marked
from alignkit.graph import MarkedGraph
from alignkit.instrument import Selection
from alignkit.parts import last_uses, plan_parts
from alignkit.records import Array, Candidate, Capture
from alignkit.settings import Sample, Settings
from alignkit.trial import Trial, open_trial
from tests import zoo
from tests.zoo.files import marked_file

HEADER = '<ir_version: 10, opset_import: ["" : 20, "my" : 1]>'
SKIPS = """
g (float[4] x) => (float[4] y) {
  a = Neg(x)       a1 = my.Debug<name: string = "a">(a)
  b = Abs(a1)      b1 = my.Debug<name: string = "b">(b)
  c = Exp(b1)      c1 = my.Debug<name: string = "c">(c)
  d = Add(c1, a1)  d1 = my.Debug<name: string = "d">(d)
  e = Add(d1, b1)  y = my.Debug<name: string = "e">(e)
}
"""
VALUES = {name: np.zeros(4, np.float32) for name in "abcde"}  # 16 bytes each


def marked(folder: Path, text: str = SKIPS) -> MarkedGraph:
    path = folder / "model.onnx"
    onnx.save(parser.parse_model(HEADER + text), path)
    return read_marked(path)


def test_parts_follow_the_file_and_stay_within_the_limit(tmp_path: Path) -> None:
    """As many taps as fit; one alone where it does not fit at all."""
    graph = marked(tmp_path)
    assert plan_parts(graph, VALUES, 10**9) == [("a", "b", "c", "d", "e")]
    assert plan_parts(graph, VALUES, 40) == [("a", "b"), ("c", "d"), ("e",)]
    assert plan_parts(graph, VALUES, 1) == [("a",), ("b",), ("c",), ("d",), ("e",)]


def test_a_part_has_a_bounded_number_of_taps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """However small their values are: a session's cost grows faster than its nodes."""
    monkeypatch.setattr("alignkit.parts.PART_TAPS", 2)
    assert plan_parts(marked(tmp_path), VALUES, 10**9) == [("a", "b"), ("c", "d"), ("e",)]


def test_only_the_wanted_taps_are_planned(tmp_path: Path) -> None:
    """And an empty part where none is."""
    graph = marked(tmp_path)
    assert plan_parts(graph, VALUES, 1, {"e", "b"}) == [("b",), ("e",)]
    assert plan_parts(graph, VALUES, 1, ()) == [()]


def test_taps_on_one_value_take_its_memory_once(tmp_path: Path) -> None:
    """An echo of a tap joins the part, however full it is."""
    text = """g (float[4] x) => (float[4] y) {
        a = Neg(x) b = my.Debug<name: string = "a">(a) c = my.Debug<name: string = "b">(b)
        d = my.Debug<name: string = "c">(a) y = Neg(c) }"""
    assert plan_parts(marked(tmp_path, text), VALUES, 16) == [("a", "b", "c")]


def test_a_value_is_needed_until_the_last_part_that_reads_it(tmp_path: Path) -> None:
    """Also across parts that do not read it; a value that nothing reads later is never needed."""
    graph = marked(tmp_path)
    single = plan_parts(graph, VALUES, 1)
    assert last_uses(graph, single) == {"a": 3, "b": 4, "c": 3, "d": 4}
    assert last_uses(graph, [("a", "b"), ("c", "d"), ("e",)]) == {"a": 1, "b": 2, "d": 2}
    assert last_uses(graph, [("a", "b", "c", "d", "e")]) == {}


def collected(parts: Iterable[Candidate]) -> dict[str, Array]:
    return {tap: value.copy() for part in parts for tap, value in part.values.items()}


@pytest.fixture(scope="module", params=["unet", "bert"])
def trial(request: pytest.FixtureRequest) -> Trial:
    """A model with skip connections over many parts, and one with a mask that every layer reads."""
    case = zoo.CASES[request.param]
    built, path = case.build(), marked_file(case, "torchscript")
    settings = Settings(exporter="torchscript", run=OnnxRuntime(threads=1))
    reference = capture_reference(built.model, built.args, built.kwargs, Selection())
    return open_trial(built.model, Sample(built.args, built.kwargs), Selection(), reference, path, settings)


class Spy(ProbeRunner):
    """Notes which values each part of an ordinary run is given."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.given: list[set[str]] = []

    def _run(
        self, key: Any, extract: Any, skip: Any, feeds: Any, known: Mapping[str, Array], reference: Capture
    ) -> Any:
        self.given.append(set(known))
        return ProbeRunner._run(self, key, extract, skip, feeds, known, reference)


def test_a_run_in_parts_holds_what_later_parts_read_and_nothing_else(trial: Trial) -> None:
    """A skip connection keeps its value alive; what no later part reads is dropped at once."""
    runner = Spy(trial.marked, OnnxRuntime(threads=1), part_bytes=1)
    collected(runner.propagated(trial.feeds, trial.reference))
    parts = plan_parts(trial.marked, trial.reference.values, 1)
    needed = last_uses(trial.marked, parts)
    place_of = {tap: place for place, part in enumerate(parts) for tap in part}
    assert len(runner.given) == len(parts) > 10
    for place, given in enumerate(runner.given):
        assert given == {tap for tap, last in needed.items() if place_of[tap] < place <= last}
    most = max(len(given) for given in runner.given)
    assert 2 <= most < len(place_of) / 3


def test_a_run_in_parts_gives_what_a_whole_run_gives(trial: Trial) -> None:
    """At every tap, up to the rounding of kernels that the optimiser fuses otherwise."""
    whole = collected(
        ProbeRunner(trial.marked, OnnxRuntime(threads=1)).propagated(trial.feeds, trial.reference)
    )
    largest = max(value.nbytes for value in trial.reference.values.values())
    for part_bytes in (1, 3 * largest):
        runner = ProbeRunner(trial.marked, OnnxRuntime(threads=1), part_bytes=part_bytes)
        parts = collected(runner.propagated(trial.feeds, trial.reference))
        assert parts.keys() == whole.keys()
        for tap, value in whole.items():
            np.testing.assert_allclose(
                parts[tap], value, rtol=1e-3, atol=1e-5 * max(1.0, np.abs(value).max())
            )
