"""Sensitivity: the layer that costs most is on top, it is not blamed for a fault, and a fault still is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

import alignkit
from alignkit.backends import OnnxRuntime
from alignkit.errors import CompareError
from alignkit.export import export_model
from alignkit.mapping import load_map
from alignkit.records import SensitivityRow, Verdict
from alignkit.report.map_file import render_map
from alignkit.report.sensitivity import kept_first, sensitivity_advice
from tests.sample_report import sample_report

quantization = pytest.importorskip("onnxruntime.quantization")

X = torch.linspace(-1, 1, 16 * 3 * 8 * 8).reshape(16, 3, 8, 8).sin()


@cache
def network(hostile: bool = True) -> nn.Sequential:
    """Three layers; the second has huge weights for a channel that is always zero."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 6)
    ).eval()
    with torch.no_grad():
        model[0].weight[2] = 0
        model[0].bias[2] = -0.1
        if hostile:
            model[2].weight[:, 2] = 12.0
    return model


class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
    """The one sample."""

    def __init__(self, feeds: Mapping[str, np.ndarray]) -> None:
        self._left = [feeds]

    def get_next(self) -> Mapping[str, np.ndarray] | None:
        return self._left.pop() if self._left else None


def export_plain(path: Path, model: nn.Module) -> Path:
    export_model(model, (X,), {}, path, exporter="torchscript", options={"input_names": ["x"]})
    return path


def quantize(source: Path, target: Path, excluded: tuple[str, ...] = ()) -> Path:
    """QDQ, unsigned on both sides, so that no CPU saturates."""
    unsigned = quantization.QuantType.QUInt8
    quantization.quantize_static(
        source,
        target,
        Reader({"x": X.numpy()}),
        activation_type=unsigned,
        weight_type=unsigned,
        nodes_to_exclude=list(excluded),
    )
    return target


def sqnr(path: Path, model: nn.Module) -> float:
    """Of the output, in dB; unoptimised, for ONNX Runtime quantises an excluded Gemm again."""
    session = OnnxRuntime(optimization="disable").open(path)
    found = next(iter(session.run({"x": X.numpy()}).values()))
    expected = model(X).detach().numpy()
    return float(10 * np.log10(np.sum(expected**2) / np.sum((found - expected) ** 2)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The hostile network, plain and quantised."""
    path = tmp_path_factory.mktemp("sensitivity")
    export_plain(path / "plain.onnx", network())
    quantize(path / "plain.onnx", path / "quantised.onnx")
    return path


@pytest.fixture(scope="module")
def report(folder: Path) -> alignkit.Report:
    """The quantised file against the network."""
    return alignkit.compare(network(), X, onnx=folder / "quantised.onnx")


def test_the_hostile_layer_is_on_top_and_makes_the_output_wrong(report: alignkit.Report) -> None:
    """It introduces most, and nearly all of the output's error is its own."""
    top = report.data.sensitivity[0]
    assert top.nodes[0] == "/2/Conv"
    assert top.precision == "int8"
    assert top.introduced_db == min(row.introduced_db for row in report.data.sensitivity)
    assert top.output_share is not None
    assert top.output_share > 0.8


def test_excluding_the_top_layer_gains_most(folder: Path, report: alignkit.Report) -> None:
    """The ranking is true: no other layer's nodes, left out of the quantisation, help as much."""
    base = sqnr(folder / "quantised.onnx", network())
    gains = {
        row.nodes: sqnr(quantize(folder / "plain.onnx", folder / "x.onnx", row.nodes), network()) - base
        for row in report.data.sensitivity
        if row.nodes
    }
    first = report.data.sensitivity[0].nodes
    others = [gain for nodes, gain in gains.items() if not set(nodes) & set(first)]
    assert others
    assert gains[first] > max(10.0, *others)


def test_too_coarse_is_precision_and_no_fault_of_the_graph(report: alignkit.Report) -> None:
    """In full precision the layer is right, which the experiment shows; the advice says what to exclude."""
    assert report.culprit is not None, str(report)
    assert {culprit.cause for culprit in report.culprits} == {"precision"}
    assert any(one.name == "the segment in full precision" for one in report.culprit.experiments)
    assert "nodes_to_exclude" in report.culprit.advice


def spoilt(folder: Path, name: str) -> Path:
    """The tame network's file whose last layer has other weights."""
    path = export_plain(folder / f"{name}.onnx", network(hostile=False))
    model = onnx.load(path)
    gemm = next(node for node in model.graph.node if node.op_type == "Gemm")
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == gemm.input[1])
    values = numpy_helper.to_array(weight).copy()
    values.reshape(-1)[::3] *= np.float32(-2.5)
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("conversion", ["quantize-static", "fp16"])
def test_a_fault_in_a_converted_file_is_still_named(folder: Path, conversion: str) -> None:
    """Not precision: in full precision it is as wrong."""
    path = spoilt(folder, "spoilt")
    report = alignkit.compare(network(hostile=False), X, onnx=path, passes=[conversion])
    last = report.data.candidates[-1]
    assert (report.culprit and report.culprit.module, last.cause) == ("5", "weights"), str(report)
    assert last.culprit is not None
    assert last.culprit.startswith("5")


@pytest.mark.parametrize("conversion", ["quantize-static", "quantize-dynamic", "fp16", "fp16:io"])
def test_a_tame_network_is_aligned_in_every_precision(folder: Path, conversion: str) -> None:
    """No layer is blamed for ordinary rounding at the file's precision, and all are ranked."""
    path = export_plain(folder / "tame.onnx", network(hostile=False))
    report = alignkit.compare(network(hostile=False), X, onnx=path, passes=[conversion])
    assert report.aligned, str(report)
    levels = [
        row.introduced_db
        for row in report.data.sensitivity
        if row.output_share is None or row.output_share > 0
    ]
    assert levels
    assert levels == sorted(levels)


def test_every_format_has_the_table(report: alignkit.Report, tmp_path: Path) -> None:
    """Text, Markdown and page rank the layers and say what to exclude; JSON brings all of it back."""
    for format in ("text", "md", "html"):
        assert "/2/Conv" in report.render(format)
        assert "nodes_to_exclude" in report.render(format)
    assert "Sensitivity" in report.render("text")
    assert "precision" in report.render("csv").splitlines()[0].split(",")
    loaded = alignkit.Report.load(report.save(tmp_path / "report"))
    assert list(loaded.data.sensitivity) == list(report.data.sensitivity)
    assert loaded.render("text") == report.render("text")


def test_what_to_keep_follows_the_output_where_it_was_measured() -> None:
    """Not the order of the table but the share decides; where no layer tells, nothing is advised."""
    rows = (
        SensitivityRow("a", "a", "Conv", "float16", 20.0, None, 0.01, ("n_a",)),
        SensitivityRow("b", "b", "Conv", "float16", 30.0, None, 0.7, ("n_b",)),
        SensitivityRow("c", "c", "Conv", "float16", 40.0, None, None, ("n_c",)),
    )
    data = replace(sample_report(aligned=True), sensitivity=rows)
    assert [row.tap for row in kept_first(data)] == ["b"]
    assert 'higher precision: ["n_b"] (node_block_list' in sensitivity_advice(data)
    assert sensitivity_advice(replace(data, sensitivity=rows[:1])) == ""
    assert [row.tap for row in kept_first(replace(data, sensitivity=rows[2:]))] == ["c"]


def test_the_saved_map_can_be_corrected_and_given_back(
    folder: Path, report: alignkit.Report, tmp_path: Path
) -> None:
    """It names the value of each tap, how sure that is, and why others have none; given back it pins them."""
    saved = report.save(tmp_path / "report") / "map.json"
    taps = json.loads(saved.read_text())["taps"]
    row = next(row for row in report.layers if row.tap == "1#0[0]")
    assert taps[row.tap]["value"] == row.onnx_value
    assert taps[row.tap]["confidence"] in ("high", "medium", "low")
    unmapped = {tap: entry for tap, entry in taps.items() if entry["value"] is None}
    assert all(entry["reason"] for entry in unmapped.values())
    assert load_map(saved).keys() == taps.keys() - unmapped.keys()

    again = alignkit.compare(network(), X, onnx=folder / "quantised.onnx", map=saved)
    assert {r.tap: r.onnx_value for r in again.layers} == {r.tap: r.onnx_value for r in report.layers}
    assert {str(r.mapped_by).split(" ")[0] for r in again.layers if r.mapped_by} == {"pinned"}

    taps[row.tap]["value"] = "nowhere"
    saved.write_text(json.dumps({"schema": "alignkit.map/1", "taps": taps}))
    with pytest.raises(CompareError, match="nowhere"):
        alignkit.compare(network(), X, onnx=folder / "quantised.onnx", map=saved)
    taps[row.tap] = {"how": "by hand"}
    saved.write_text(json.dumps({"schema": "alignkit.map/1", "taps": taps}))
    with pytest.raises(CompareError, match="does not map taps to names"):
        load_map(saved)


def test_the_map_says_why_a_tap_has_no_value(tmp_path: Path) -> None:
    """A tap that was not found is null with its reason, and is not pinned."""
    data = sample_report()
    first = replace(data.layers[0], mapped_by="value (medium)")
    missing = next(row for row in data.layers if row.verdict is Verdict.MISSING)
    content = json.loads(render_map(replace(data, layers=[first, *data.layers[1:]])) or "")
    assert content["taps"][first.tap] == {"value": first.onnx_value, "how": "value", "confidence": "medium"}
    assert content["taps"][missing.tap] == {"value": None, "reason": missing.reason}
    file = tmp_path / "map.json"
    file.write_text(json.dumps(content))
    assert load_map(file) == {first.tap: first.onnx_value}


def test_a_report_of_a_file_with_taps_has_no_map(tmp_path: Path) -> None:
    """There was nothing to be found."""
    saved = alignkit.Report(sample_report()).save(tmp_path / "report")
    assert not (saved / "map.json").exists()
