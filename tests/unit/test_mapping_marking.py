"""A mapped file, marked, is read by the stages that read marked exports."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from alignkit.extract import extract_introduced, extract_propagated, read_marked
from alignkit.mapping.marking import mark_values
from alignkit.records import Array
from tests.mapping.subject import Subject, export, feeds_of, prepare, run_graph
from tests.unit.test_mapping_taps import X, graph_of, map_graph
from tests.zoo.tamper import tamper_node


@pytest.fixture(scope="module")
def subject() -> Subject:
    return prepare("four-blocks")


@pytest.fixture(scope="module")
def plain(subject: Subject, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(subject, "torchscript", tmp_path_factory.mktemp("plain"))


def test_a_marked_file_shows_every_mapped_tap(subject: Subject, plain: Path, tmp_path: Path) -> None:
    """Propagated and cut, each tap's value is the reference's; the outputs are as before."""
    mapping = subject.map_file(plain)
    onnx.save(mark_values(mapping), tmp_path / "marked.onnx")
    marked = read_marked(tmp_path / "marked.onnx")
    assert {debug.tap for debug in marked.debugs} == mapping.found().keys()
    reference = subject.reference.values
    feeds = feeds_of(subject.built, marked.model)
    shown = extract_propagated(marked)
    values = run_graph(shown.model, tmp_path, feeds)
    for tap, output in shown.outputs.items():
        np.testing.assert_allclose(values[output], reference[tap], rtol=1e-4, atol=1e-5)
    cut = extract_introduced(marked, reference)
    fed = {**feeds, **{name: reference[tap] for name, tap in cut.feeds.items()}}
    values = run_graph(cut.model, tmp_path, fed)
    assert cut.feeds
    for tap, output in cut.outputs.items():
        np.testing.assert_allclose(values[output], reference[tap], rtol=1e-4, atol=1e-5)


def test_a_fault_shows_at_its_own_tap_alone(subject: Subject, plain: Path, tmp_path: Path) -> None:
    """Fed with the reference, only the faulty Conv's BatchNorm is off."""
    tamper_node(plain, tmp_path / "faulty.onnx", 2, "weight")
    onnx.save(mark_values(subject.map_file(tmp_path / "faulty.onnx")), tmp_path / "marked.onnx")
    marked = read_marked(tmp_path / "marked.onnx")
    reference = subject.reference.values
    cut = extract_introduced(marked, reference)
    feeds = feeds_of(subject.built, marked.model)
    values = run_graph(cut.model, tmp_path, {**feeds, **{n: reference[t] for n, t in cut.feeds.items()}})
    off = {
        tap for tap, out in cut.outputs.items() if not np.allclose(values[out], reference[tap], 1e-3, 1e-4)
    }
    assert off == {"block3.1#0[0]"}


def test_a_value_in_another_layout_flows_through_in_the_taps_layout(tmp_path: Path) -> None:
    """Transposed for the Debug node and back again for its readers."""
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[0, 2, 3, 1]),
        helper.make_node("Tanh", ["t"], ["a"]),
        helper.make_node("Exp", ["a"], ["y"]),
    ]
    model = graph_of(nodes, ["y"])
    mapping = map_graph(model, {"act": np.tanh(X), "exp": np.exp(np.tanh(X))})
    onnx.save(mark_values(mapping), tmp_path / "marked.onnx")
    marked = read_marked(tmp_path / "marked.onnx")
    before: dict[str, Array] = dict(run_graph(model, tmp_path, {"x": X}))
    after = run_graph(marked.model, tmp_path, {"x": X})
    np.testing.assert_array_equal(after["y"], before["y"])
    shown = extract_propagated(marked)
    values = run_graph(shown.model, tmp_path, {"x": X})
    np.testing.assert_allclose(values[shown.outputs["act#0[0]"]], np.tanh(X), rtol=1e-6)
