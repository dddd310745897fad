"""Passes: resolved by name, applied step by step, and blamed for the step after which a layer is wrong."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, numpy_helper
from torch import nn

import alignkit
from alignkit.backends import OnnxRuntime
from alignkit.errors import CompareError, PassError
from alignkit.export import export_model
from alignkit.load.passes import load_pass
from alignkit.passes import PASSES, NamedPass, Step, apply_passes, files, resolve_pass
from alignkit.quantised import expand_quantised
from tests.zoo.case import seeded, settled

X = torch.linspace(-1, 1, 2 * 3 * 8 * 8).reshape(2, 3, 8, 8)


def network() -> nn.Sequential:
    """A folded pair, an activation, and a linear layer."""
    with seeded(0):
        layers = (nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(216, 5))
        return settled(nn.Sequential(*layers), X)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network as it is deployed."""
    path = tmp_path_factory.mktemp("plain") / "plain.onnx"
    export_model(network(), (X,), {}, path, exporter="torchscript", options={})
    return path


def samples(path: Path) -> Iterator[dict[str, np.ndarray]]:
    """What a pass calibrates on here."""
    yield {onnx.load(path).graph.input[0].name: X.numpy()}


def spoil_linear(model: ModelProto) -> ModelProto:
    """A pass that damages one layer."""
    gemm = next(node for node in model.graph.node if node.op_type == "Gemm")
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == gemm.input[1])
    values = numpy_helper.to_array(weight).copy()
    values.reshape(-1)[::3] *= np.float32(1.5)
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    return model


def same(model: ModelProto) -> ModelProto:
    """A pass that does nothing."""
    return model


def broken(model: ModelProto) -> ModelProto:
    """A pass that fails."""
    raise ValueError("no such operator\nand more")


@pytest.mark.parametrize("name", PASSES)
def test_every_known_pass_makes_a_file_that_runs_nearly_the_same(
    name: str, plain: Path, tmp_path: Path
) -> None:
    """The result loads and agrees at its own precision; the file it was made of is not touched."""
    before = plain.read_bytes()
    target = tmp_path / "out.onnx"
    start = Step(0, "as given", plain)
    _, step = apply_passes(start, [resolve_pass(name)], tmp_path, samples)
    assert step.file is not None, step.failure
    assert plain.read_bytes() == before
    fed = next(samples(plain))
    expected = next(iter(OnnxRuntime().open(plain).run(fed).values()))
    found = next(iter(OnnxRuntime().open(step.file).run(fed).values()))
    assert np.allclose(found, expected, atol=0.05 * np.abs(expected).max())
    assert not target.exists()


def test_an_unknown_pass_lists_the_known_ones() -> None:
    """One line that names them all."""
    with pytest.raises(PassError, match=r"'onnxsin'.*known: onnxsim, .*quantize-static"):
        resolve_pass("onnxsin")


def test_a_pass_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything runs."""
    monkeypatch.setattr("alignkit.passes.table.find_spec", lambda name: None)
    with pytest.raises(PassError, match="pip install onnxconverter-common"):
        resolve_pass("fp16")
    assert importlib.util.find_spec("onnx") is not None


def test_the_step_after_which_a_layer_is_wrong_is_named(plain: Path) -> None:
    """Steps before it are aligned, the fault is the second pass's, and steps behind it still run."""
    report = alignkit.compare(network(), X, onnx=plain, passes=[same, spoil_linear, "ort-optimize:basic"])
    names = [row.name for row in report.data.candidates]
    assert names == ["0 as given", "1 same", "2 spoil_linear", "3 ort-optimize:basic"]
    assert [row.aligned for row in report.data.candidates] == [True, True, False, False]
    assert report.culprit is not None
    assert (report.culprit.module, report.culprit.cause) == ("4", "optimizer")
    assert "right before step 2" in report.culprit.evidence[0]
    assert str(report).startswith("DIVERGED after step 2 (spoil_linear): error starts at 4 (Gemm)")
    assert [note for note in report.notes if note.startswith("After step")] == [
        "After step 2 (spoil_linear): 4 (optimizer)."
    ]
    assert "after step 2 (spoil_linear)" in report.render("md")
    assert "after step 2 (spoil_linear)" in report.render("html")


def test_a_fault_of_the_given_file_is_step_0(plain: Path, tmp_path: Path) -> None:
    """No pass is blamed for it."""
    spoilt = tmp_path / "spoilt.onnx"
    onnx.save(spoil_linear(onnx.load(plain)), spoilt)
    report = alignkit.compare(network(), X, onnx=spoilt, passes=[same])
    assert str(report).startswith("DIVERGED after step 0 (as given)")


def test_healthy_passes_are_aligned_at_the_precision_they_leave() -> None:
    """Exported here, simplified, converted to half precision: no culprit, and the last step is shown."""
    report = alignkit.compare(network(), X, exporter="torchscript", passes=["onnxslim", "fp16"])
    assert report.aligned, str(report)
    assert str(report).startswith("ALIGNED after each of 3 steps")
    assert report.data.settings["candidate"] == "2 fp16"
    assert {row.precision for row in report.data.sensitivity} == {"float16"}


def test_a_pass_that_fails_ends_the_chain_with_its_reason(plain: Path) -> None:
    """What was compared before it stays; the steps behind it say that they were not applied."""
    report = alignkit.compare(network(), X, onnx=plain, passes=[broken, "onnxslim"])
    assert not report.aligned
    assert str(report).startswith("INCONCLUSIVE: step 1 (broken) failed")
    assert [row.reason for row in report.data.candidates] == [
        "",
        "the pass broken failed: ValueError: no such operator",
        "not applied, since step 1 (broken) failed",
    ]


def test_a_pass_must_return_a_model(plain: Path) -> None:
    """A function that forgets to is told what is expected."""
    report = alignkit.compare(network(), X, onnx=plain, passes=[lambda model: None])
    assert "it returned None: a pass takes an onnx.ModelProto and returns one" in str(
        report.data.candidates[1].reason
    )


def test_a_file_that_does_not_load_is_a_row(plain: Path) -> None:
    """The pass went well and its file does not run: the runtime's reason stands in the row."""

    def undefined(model: ModelProto) -> ModelProto:
        model.graph.node[0].op_type = "NoSuchOperator"
        return model

    report = alignkit.compare(network(), X, onnx=plain, passes=[undefined])
    row = report.data.candidates[1]
    assert row.aligned is None
    assert "NoSuchOperator" in row.reason


def test_a_marked_file_is_refused(tmp_path: Path) -> None:
    """Passes are for the file as deployed."""
    from alignkit.instrument import Selection

    path = tmp_path / "marked.onnx"
    export_model(network(), (X,), {}, path, exporter="torchscript", options={}, selection=Selection())
    with pytest.raises((PassError, CompareError), match="holds taps"):
        alignkit.compare(network(), X, onnx=path, passes=["onnxslim"])


def test_large_weights_are_kept_outside(plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit of a protobuf (here: of 1 kB) no file holds them, whichever pass wrote it."""
    monkeypatch.setattr(files, "LARGEST", 1000)
    passes = [resolve_pass(one) for one in (same, "onnxsim", "ort-optimize:basic", "fp16")]
    made = []
    for step in apply_passes(Step(0, "as given", plain), passes, tmp_path, samples):
        assert step.file is not None, step.failure
        made.append(step.file.stat().st_size)
        if step.number:
            assert step.file.with_name(step.file.name + ".data").exists()
            OnnxRuntime().open(step.file).run(next(samples(plain)))
    assert max(made[1:]) < made[0]


def test_a_function_in_a_file_is_a_pass(tmp_path: Path) -> None:
    """``script.py:fn`` is loaded and called by its short name; what is no function is refused."""
    script = tmp_path / "script.py"
    script.write_text("NUMBER = 3\n\n\ndef fn(model):\n    return model\n")
    found = load_pass(f"{script}:fn")
    assert isinstance(found, NamedPass)
    assert found.name == "script.py:fn"
    with pytest.raises(PassError, match="is int, not a function"):
        load_pass(f"{script}:NUMBER")
    with pytest.raises(PassError, match="known: onnxsim"):
        load_pass("fp17:io")
    assert load_pass("fp16:io").apply is PASSES["fp16:io"]


def test_operators_on_quantised_tensors_are_spelled_out(plain: Path, tmp_path: Path) -> None:
    """QOperator files compute the same when they are taken apart, and then their layers are seen."""
    from onnxruntime import quantization

    path = tmp_path / "qoperator.onnx"

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        """One sample."""

        given = samples(plain)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.given, None)

    unsigned = quantization.QuantType.QUInt8
    quantization.quantize_static(
        plain,
        path,
        Reader(),
        quant_format=quantization.QuantFormat.QOperator,
        activation_type=unsigned,
        weight_type=unsigned,
    )
    given = onnx.load(path)
    spelled = expand_quantised(given)
    assert {"QLinearConv", "QGemm"} <= {node.op_type for node in given.graph.node}
    assert not any(
        node.op_type.startswith("Q") and "Linear" not in node.op_type for node in spelled.graph.node
    )
    runs = [OnnxRuntime().open(m.SerializeToString()).run(next(samples(plain))) for m in (given, spelled)]
    left, right = (next(iter(run.values())) for run in runs)
    assert np.allclose(left, right, atol=0.02 * np.abs(left).max())
    assert expand_quantised(onnx.load(plain)) == onnx.load(plain)
    report = alignkit.compare(network(), X, onnx=path)
    assert report.aligned, str(report)
    assert {"1#0[0]", "4#0[0]"} <= {row.tap for row in report.data.sensitivity} | {
        row.tap for row in report.layers if row.mapped_by
    }
