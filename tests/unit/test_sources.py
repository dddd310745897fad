"""Sources: any file or object that holds the right values is compared like a module, and says its name."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

import alignkit
from alignkit.capture import capture_reference
from alignkit.dump import write_dump
from alignkit.dump.eager import describe_capture
from alignkit.errors import AlignkitError, CompareError, InputError, ModelError
from alignkit.export import export_model
from alignkit.instrument import Selection
from alignkit.sources import Kind, kind_of, open_source
from alignkit.tensors import to_numpy
from tests.zoo.case import seeded, settled

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")

X = torch.linspace(-1, 1, 2 * 3 * 8 * 8).reshape(2, 3, 8, 8)


class Block(nn.Module):
    """A residual block whose sum is its own code."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(6, 6, 3, padding=1)
        self.relu = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.relu(self.conv(x)) + x


class Network(nn.Module):
    """Two blocks that share their TorchScript type, one relu that is called twice, and a loop."""

    def __init__(self, rounds: int = 0) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3)
        self.relu = nn.ReLU()
        self.blocks = nn.ModuleList([Block(), Block()])
        self.step = nn.Tanh()
        self.rounds = rounds
        self.head = nn.Linear(6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.stem(x))
        for block in self.blocks:
            x = block(x)
        for _ in range(self.rounds):
            x = self.step(x)
        return self.head(self.relu(x).mean((2, 3)))


def network(rounds: int = 0) -> Network:
    """The same weights every time."""
    with seeded(0):
        return settled(Network(rounds), X)


def export(path: Path, model: nn.Module | None = None) -> Path:
    """A file without taps."""
    options = {"input_names": ["x"], "output_names": ["y"]}
    export_model(model or network(), (X,), {}, path, exporter="torchscript", options=options)
    return path


def tamper(path: Path, name_part: str, op_type: str) -> Path:
    """A copy of the file whose node of that name computes something else."""
    model = onnx.load(path)
    next(node for node in model.graph.node if name_part in node.name).op_type = op_type
    target = path.with_name("tampered.onnx")
    onnx.save(model, target)
    return target


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network in every form: names say nothing of what is in a file."""
    folder = tmp_path_factory.mktemp("sources")
    model = network()
    export(folder / "a.onnx")
    tamper(folder / "a.onnx", "blocks.1/relu/Relu", "Sigmoid")
    torch.jit.save(torch.jit.trace(model, X), folder / "traced")
    torch.jit.save(torch.jit.script(network(rounds=3)), folder / "scripted")
    torch.jit.save(torch.jit.freeze(torch.jit.script(model)), folder / "frozen")
    torch.export.save(torch.export.export(model, (X,)), folder / "program.pt2")
    torch.save(model, folder / "pickled")
    torch.save(model.state_dict(), folder / "weights")
    capture = capture_reference(model, (X,), {}, Selection())
    for name, tier in (("dump", "full"), ("statistics", "stats")):
        write_dump(
            folder / name, *describe_capture(capture, {"x": to_numpy(X)}, tier=tier, origin="net.py:build")
        )
    np.savez(folder / "x.npz", x=X.numpy())
    return folder


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("traced", Kind.SCRIPT),
        ("scripted", Kind.SCRIPT),
        ("frozen", Kind.SCRIPT),
        ("program.pt2", Kind.PROGRAM),
        ("pickled", Kind.PICKLE),
        ("weights", Kind.PICKLE),
        ("dump", Kind.DUMP),
        ("a.onnx", Kind.ONNX),
        ("x.npz", None),
    ],
)
def test_kinds_are_told_by_content(folder: Path, name: str, kind: Kind | None) -> None:
    """No suffix says anything."""
    assert kind_of(folder / name) is kind


def test_a_module_is_its_own_source() -> None:
    """Nothing stands in for what takes hooks."""
    model = network()
    assert open_source(model).model is model


def test_the_taps_of_a_traced_module_are_those_of_the_module(folder: Path) -> None:
    """Paths, calls and inputs have the names that hooks give them, and the values are the same."""
    eager = capture_reference(network(), (X,), {}, Selection())
    traced = capture_reference(open_source(folder / "traced").model, (X,), {}, Selection())
    assert traced.taps.keys() == eager.taps.keys()
    assert traced.taps["relu#1[0]"].module_type == "ReLU"
    assert traced.taps["blocks.1#0[0]"].source is not None
    for name, value in eager.values.items():
        np.testing.assert_allclose(traced.values[name], value, atol=1e-6)


@pytest.mark.parametrize("name", ["traced", "frozen"])
def test_torchscript_is_exported_with_taps(folder: Path, name: str) -> None:
    """Its marked export is compared at every tap, against a noise floor of its own."""
    report = alignkit.compare(folder / name, X)
    assert report.aligned, str(report)
    assert report.coverage.not_compared == 0
    assert report.coverage.compared > 8
    assert all("noise floor" in row.tolerance for row in report.layers)


def test_a_scripted_module_with_a_loop(folder: Path) -> None:
    """What is computed inside the loop has a row that says so; all else is compared."""
    report = alignkit.compare(folder / "scripted", X)
    assert report.aligned, str(report)
    rows = {row.tap: row for row in report.layers}
    assert rows["step#0[0]"].verdict.value == "skipped"
    assert "inside a loop" in rows["step#0[0]"].reason
    assert rows["blocks.1.relu#0[0]"].verdict.is_ok


def test_the_users_own_script_module_is_untouched() -> None:
    """Its graph and its buffers are as before, and so is what it computes."""
    scripted = torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))  # in training mode
    graph, state = str(scripted.graph), {k: v.clone() for k, v in scripted.state_dict().items()}
    source = open_source(scripted).model
    first = capture_reference(source, (X,), {}, Selection())
    second = capture_reference(source, (X,), {}, Selection())
    assert str(scripted.graph) == graph
    assert all(torch.equal(value, state[key]) for key, value in scripted.state_dict().items())
    assert all(np.array_equal(first.values[tap], value) for tap, value in second.values.items())


def test_a_fault_in_the_file_of_a_traced_module(folder: Path) -> None:
    """A given file is mapped to the taps of the traced module, and the layer is named as for a module."""
    report = alignkit.compare(folder / "traced", X, onnx=folder / "tampered.onnx")
    assert [culprit.module for culprit in report.culprits] == ["blocks.1.relu"]
    assert "PyTorch" not in " ".join(report.culprits[0].evidence)
    assert any(e.name == "TorchScript, export flags set" for e in report.culprits[0].experiments)


def test_an_exported_program(folder: Path) -> None:
    """Its stored inputs are used, its modules have their names and classes, float64 runs."""
    report = alignkit.compare(folder / "program.pt2", exporter="torchscript")
    assert report.aligned, str(report)
    rows = {row.tap: row for row in report.layers}
    assert rows["blocks.1.conv#0[0]"].module_type == "Conv2d"
    assert not [note for note in report.notes if "noise floor" in note or "training" in note]
    assert report.outputs[0].verdict.is_ok


def test_a_program_takes_keywords_and_other_batches() -> None:
    """Arguments are bound by the names of the original forward, whatever way they are spelled."""

    class Two(nn.Module):
        def forward(self, a: torch.Tensor, *, b: torch.Tensor) -> torch.Tensor:
            return a @ b.to(torch.float32).T

    batch = torch.export.Dim("batch")
    shapes = {"a": {0: batch}, "b": None}
    program = torch.export.export(Two(), (torch.ones(2, 4),), {"b": torch.ones(3, 4)}, dynamic_shapes=shapes)
    model = open_source(program).model
    a, b = torch.randn(5, 4), torch.randn(3, 4)
    assert torch.equal(model(b=b, a=a), a @ b.T)
    report = alignkit.compare(program, inputs={"a": a[:2], "b": b}, exporter="torchscript")
    assert report.aligned, str(report)


def test_onnx_against_onnx(folder: Path) -> None:
    """A file is itself, at every floating value by its name, against a float64 evaluation."""
    report = alignkit.compare(folder / "a.onnx", X, onnx=folder / "a.onnx")
    assert report.aligned, str(report)
    names = {name for node in onnx.load(folder / "a.onnx").graph.node for name in node.output}
    assert {row.tap for row in report.layers} - names == {"(model)#0:in[0]", "(model)#0[0]"}
    assert all("noise floor" in row.tolerance for row in report.layers)


def test_a_fault_between_two_onnx_files(folder: Path) -> None:
    """It is named at its value; nobody speaks of PyTorch, and no exporter is blamed for it."""
    report = alignkit.compare(folder / "a.onnx", {"x": X.numpy()}, onnx=folder / "tampered.onnx")
    (culprit,) = report.culprits
    assert culprit.tap == "/blocks.1/relu/Relu_output_0"
    assert culprit.cause == "unknown"
    assert any("a.onnx" in line and "tampered.onnx" in line for line in culprit.evidence)
    assert "PyTorch" not in str(report)


def test_files_of_one_name_are_told_apart(folder: Path, tmp_path: Path) -> None:
    """By the folders that they lie in, wherever the report speaks of one of them."""
    for name, where in (("a.onnx", "before"), ("tampered.onnx", "after")):
        (tmp_path / where / "out").mkdir(parents=True)
        shutil.copy(folder / name, tmp_path / where / "out" / "model.onnx")
    before, after = (tmp_path / where / "out" / "model.onnx" for where in ("before", "after"))
    report = alignkit.compare(before, X, onnx=after)
    text = " ".join(str(report).split())
    assert "The reference is before/out/model.onnx in ONNX Runtime" in text
    assert "after/out/model.onnx holds no taps" in text
    assert any("before/out/model.onnx" in line for line in report.culprits[0].evidence)
    assert "model.onnx" not in re.sub(r"(before|after)/out/model\.onnx", "", text)


def test_changed_weights_between_two_onnx_files(folder: Path, tmp_path: Path) -> None:
    """The weight is named by its own name."""
    model = onnx.load(folder / "a.onnx")
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "blocks.0.conv.weight")
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.01), weight.name))
    onnx.save(model, tmp_path / "b.onnx")
    report = alignkit.compare(folder / "a.onnx", X, onnx=tmp_path / "b.onnx")
    (culprit,) = report.culprits
    assert (culprit.tap, culprit.cause) == ("/blocks.0/conv/Conv_output_0", "weights")
    assert any("blocks.0.conv.weight differs" in str(e) for e in culprit.experiments)


def test_renamed_values_are_found_by_their_numbers(folder: Path, tmp_path: Path) -> None:
    """A converter that renames everything does not hide a fault."""
    model = onnx.load(folder / "tampered.onnx")
    inner = {name for node in model.graph.node for name in node.output} - {"y"}
    new = {name: f"value_{index}" for index, name in enumerate(sorted(inner))}
    for node in model.graph.node:
        node.input[:] = [new.get(name, name) for name in node.input]
        node.output[:] = [new.get(name, name) for name in node.output]
        node.name = ""
    onnx.save(model, tmp_path / "renamed.onnx")
    report = alignkit.compare(folder / "a.onnx", X, onnx=tmp_path / "renamed.onnx")
    assert not report.aligned
    assert "Sigmoid" in " ".join(report.culprits[0].onnx_nodes)
    assert len(report.culprits) == 1


def test_a_dump_is_a_reference(folder: Path) -> None:
    """Its own inputs are fed, its taps mapped; what it cannot tell is not guessed."""
    healthy = alignkit.compare(folder / "dump", onnx=folder / "a.onnx")
    assert healthy.aligned, str(healthy)
    assert any("No noise floor" in note for note in healthy.notes)
    report = alignkit.compare(folder / "dump", onnx=folder / "tampered.onnx")
    (culprit,) = report.culprits
    assert (culprit.module, culprit.cause) == ("blocks.1.relu", "unknown")
    assert any(e.reading == "not run: the reference holds none" for e in culprit.experiments)


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("pickled", {}, ModelError, "--trust"),
        ("weights", {}, ModelError, "--trust"),
        ("weights", {"trust": True}, ModelError, "state dict"),
        ("x.npz", {}, ModelError, "no model, going by its content"),
        ("nowhere", {}, ModelError, "there is no file"),
        ("a.onnx", {}, CompareError, "name the deployed file"),
        ("dump", {}, CompareError, "name the deployed file"),
        ("statistics", {"onnx": "a.onnx"}, InputError, "statistics alone"),
    ],
)
def test_what_cannot_be_a_reference_is_refused(
    folder: Path, name: str, options: dict[str, object], error: type[AlignkitError], message: str
) -> None:
    """In one line that says what to do."""
    with pytest.raises(error, match=message) as caught:
        alignkit.compare(folder / name, X, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_a_trusted_pickle_is_a_module(folder: Path) -> None:
    """It is loaded once the user has said so."""
    assert isinstance(open_source(folder / "pickled", trust=True).model, Network)


def test_a_dump_refuses_other_inputs(folder: Path) -> None:
    """Its values belong to the inputs that are stored with it."""
    with pytest.raises(InputError, match="other inputs"):
        alignkit.compare(folder / "dump", X + 1, onnx=folder / "a.onnx")


@pytest.mark.parametrize("name", ["traced", "program.pt2", "a.onnx"])
def test_damaged_files_are_refused(folder: Path, tmp_path: Path, name: str) -> None:
    """In one line, whatever the parser raises."""
    whole = (folder / name).read_bytes()
    cut = tmp_path / "cut"
    cut.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(AlignkitError, match=r"cut") as caught:
        alignkit.compare(cut, X, onnx=folder / "a.onnx")
    assert "\n" not in str(caught.value)


def quantise(path: Path, value: str, scale: float, target: Path) -> Path:
    """A copy of the file in which one value goes through eight bits."""
    model = onnx.load(path)
    graph = model.graph
    graph.initializer.append(numpy_helper.from_array(np.array(scale, np.float32), "scale"))
    graph.initializer.append(numpy_helper.from_array(np.array(0, np.int8), "zero"))
    place = next(index for index, node in enumerate(graph.node) if value in node.output)
    for node in graph.node:
        node.input[:] = [f"{value}_rounded" if name == value else name for name in node.input]
    quantiser = onnx.helper.make_node("QuantizeLinear", [value, "scale", "zero"], [f"{value}_bits"])
    dequantiser = onnx.helper.make_node(
        "DequantizeLinear", [f"{value}_bits", "scale", "zero"], [f"{value}_rounded"]
    )
    nodes = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes[: place + 1], quantiser, dequantiser, *nodes[place + 1 :]])
    onnx.save(model, target)
    return target


def test_a_ruinous_quantiser_is_precision(folder: Path, tmp_path: Path) -> None:
    """A scale that clips everything is beyond a step of eight bits, and right without the quantiser."""
    value = "/blocks.0/conv/Conv_output_0"
    path = quantise(folder / "a.onnx", value, 1e-3, tmp_path / "clipped.onnx")
    report = alignkit.compare(folder / "a.onnx", X, onnx=path)
    (culprit,) = report.culprits
    assert culprit.cause == "precision"
    assert culprit.experiments[-1].name == "the segment in full precision"


def test_a_changed_node_beside_a_quantiser_is_no_matter_of_precision(folder: Path, tmp_path: Path) -> None:
    """What is wrong without the quantiser as well is not excused by it."""
    value = "/blocks.1/conv/Conv_output_0"
    path = quantise(folder / "tampered.onnx", value, 0.02, tmp_path / "tampered.onnx")
    report = alignkit.compare(folder / "a.onnx", X, onnx=path)
    assert [culprit.cause for culprit in report.culprits] == ["unknown"]
