"""Given files: compared layer by layer although nobody marked them, at the precision they have."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional

import alignkit
from alignkit.capture import capture_reference
from alignkit.errors import CompareError
from alignkit.export import EXPORTERS, export_model
from alignkit.instrument import Selection
from alignkit.mapping.provenance import claim_values
from alignkit.mapping.values import read_values
from alignkit.precision import coarsest_of, find_precisions
from alignkit.records import Verdict
from tests.zoo.case import seeded, settled

X = torch.linspace(-1, 1, 2 * 3 * 8 * 8).reshape(2, 3, 8, 8)


def network() -> nn.Sequential:
    """Convolution and BatchNorm fold into one node; the rest stands for itself."""
    with seeded(0):
        return settled(
            nn.Sequential(
                nn.Conv2d(3, 6, 3),
                nn.BatchNorm2d(6),
                nn.ReLU(),
                nn.Flatten(),
                nn.Linear(216, 5),
                nn.Softmax(1),
            ),
            X,
        )


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """The network as a file without taps."""
    path = tmp_path / "plain.onnx"
    export_model(network(), (X,), {}, path, exporter="torchscript", options={})
    return path


def spoil(path: Path, name_part: str, factor: float) -> None:
    """Scale some elements of the weight of the node whose name holds ``name_part``."""
    model = onnx.load(path)
    node = next(node for node in model.graph.node if name_part in node.name)
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == node.input[1])
    values = numpy_helper.to_array(weight).copy()
    values.reshape(-1)[::3] *= np.float32(factor)
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    onnx.save(model, path)


def test_a_healthy_file_is_aligned_layer_by_layer(plain: Path) -> None:
    """The folded layer is missing with its reason, all others are compared, and the rows say how."""
    report = alignkit.compare(network(), X, onnx=plain)
    assert report.aligned, str(report)
    rows = {row.tap: row for row in report.layers}
    assert rows["0#0[0]"].reason.startswith("fused")
    compared = [rows[tap] for tap in ("1#0[0]", "2#0[0]", "4#0[0]", "(model)#0[0]")]
    assert all(row.verdict.is_ok and row.mapped_by and row.onnx_value for row in compared)
    assert any("holds no taps" in note for note in report.notes)


def test_a_spoilt_weight_is_named_with_the_layers_that_share_its_node(plain: Path) -> None:
    """The convolution has no value of its own: the evidence names it beside the BatchNorm."""
    spoil(plain, "/0/Conv", 1.1)
    report = alignkit.compare(network(), X, onnx=plain)
    assert report.culprit is not None
    assert (report.culprit.module, report.culprit.cause) == ("1", "weights")
    assert any("the same nodes compute 0" in line for line in report.culprit.evidence)


def test_a_spoilt_linear_layer_is_the_only_culprit(plain: Path) -> None:
    """What lies behind it is found although its values differ."""
    spoil(plain, "/4/Gemm", 1.1)
    report = alignkit.compare(network(), X, onnx=plain)
    assert [(culprit.module, culprit.cause) for culprit in report.culprits] == [("4", "weights")]


class Gated(nn.Module):
    """A gate in the forward's own code, before a convolution that a BatchNorm is folded into."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.conv, self.norm = nn.Conv2d(3, 8, 1), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)
        self.last = nn.Conv2d(4, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.first(x).chunk(2, 1)
        factor = 0.9 if torch.onnx.is_in_onnx_export() else 1.0
        gated = value * torch.sigmoid(gate * factor)
        result: Tensor = self.last(functional.silu(self.norm(self.conv(gated))))
        return result


@pytest.mark.parametrize("exporter", list(EXPORTERS))
def test_what_a_folded_layer_reads_is_not_the_layers_own(exporter: str, tmp_path: Path) -> None:
    """The node's name tells the BatchNorm alone: what it reads is what the convolution was given, and the
    code before that is to blame, not the convolution."""
    with seeded(0):
        model = settled(Gated(), X)
    path = tmp_path / "gated.onnx"
    export_model(model, (X,), {}, path, exporter=exporter, options={})
    report = alignkit.compare(model, X, onnx=path)
    assert [(culprit.module, culprit.cause) for culprit in report.culprits] == [("(model)", "export-branch")]
    rows = {row.tap: row for row in report.layers}
    assert rows["conv#0:in[0]"].onnx_value
    assert rows["conv#0[0]"].reason.startswith("fused")
    assert rows["norm#0[0]"].verdict is Verdict.PROPAGATED


class NormAct(nn.BatchNorm2d):
    """A norm with its activation inside, as timm has it."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.act(self.drop(super().forward(x)))
        return result


def clipped(x: Tensor) -> Tensor:
    """A fault: something else while the model is exported."""
    return x.clamp(-0.3, 0.3) if torch.onnx.is_in_onnx_export() else x


class Clipping(nn.Conv2d):
    """Clips what it is given in its own forward."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(clipped(x))


class Clipped(nn.Module):
    """A fault before a convolution that a BatchNorm is folded into, or in it, that keeps the shape."""

    def __init__(self, norm: type[nn.BatchNorm2d], *, inside: bool) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Conv2d(3, 4, 1), norm(4), nn.Conv2d(4, 5, 1)
        self.conv = (Clipping if inside else nn.Conv2d)(4, 4, 1)
        self.inside = inside

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        y = self.conv(y if self.inside else clipped(y))
        result: Tensor = self.last(functional.silu(self.norm(y)))
        return result


@pytest.mark.parametrize("exporter", list(EXPORTERS))
@pytest.mark.parametrize("norm", [nn.BatchNorm2d, NormAct])
@pytest.mark.parametrize("inside", [False, True])
def test_what_lies_before_a_layers_node_is_not_its_value(
    inside: bool, norm: type[nn.BatchNorm2d], exporter: str, tmp_path: Path
) -> None:
    """The one value that is left between what is known, and of the right shape, was made without the
    convolution's weights: one node computes both layers, and one culprit is named."""
    with seeded(0):
        model = settled(Clipped(norm, inside=inside), X)
    path = tmp_path / "clipped.onnx"
    export_model(model, (X,), {}, path, exporter=exporter, options={})
    report = alignkit.compare(model, X, onnx=path)
    rows = {row.tap: row for row in report.layers}
    assert rows["conv#0[0]"].reason.startswith("fused")
    assert [culprit.module for culprit in report.culprits] == ["norm"]


def test_what_a_module_splits_is_no_input_of_it(tmp_path: Path) -> None:
    """The default exporter's own rewriting makes the Split, and names no module for it: what the module's
    next node reads of it does not come from outside."""
    with seeded(0):
        model = settled(nn.Sequential(Gated()), X)
    path = tmp_path / "split.onnx"
    export_model(model, (X,), {}, path, exporter="dynamo", options={"input_names": ["x"]})
    graph = read_values(onnx.load(path), tmp_path)
    assert any(node.op_type == "Split" and not node.metadata_props for node in graph.nodes)
    claims = claim_values(graph, capture_reference(model, (X,), {}, Selection()).taps, {}, {})
    assert claims.values["0#0:in[0]"] == {"x"}


class Reduced(nn.Module):
    """A query of what a layer gives, and keys of the same behind a norm, which no factor changes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = Scaled(8, 8), nn.Linear(8, 8)
        self.query, self.norm, self.key = nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        shared = self.first(x)
        result: Tensor = self.last(self.query(shared) * self.key(self.norm(shared)))
        return result


class Scaled(nn.Linear):
    """Scales its result while it is exported."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (0.97 if torch.onnx.is_in_onnx_export() else 1.0)


@pytest.mark.parametrize("exporter", list(EXPORTERS))
def test_a_value_is_not_right_because_a_norm_behind_it_hides_the_difference(
    exporter: str, tmp_path: Path
) -> None:
    """The norm's result agrees, whatever the factor before it; the query's does not, and is healthy."""
    with seeded(0):
        model, x = Reduced().eval(), torch.randn(4, 8)
        nn.init.zeros_(model.first.bias)
    path = tmp_path / "reduced.onnx"
    export_model(model, (x,), {}, path, exporter=exporter, options={})
    report = alignkit.compare(model, x, onnx=path)
    assert [(culprit.module, culprit.cause) for culprit in report.culprits] == [("first", "export-branch")]


class Residual(nn.Module):
    """Adds to a layer without bias what is shifted while it is exported; a norm hides the shift."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.shifted, self.last = nn.Linear(8, 8), Shifted(8, 8), nn.Linear(8, 8)
        self.norm = nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        y = y + self.shifted(y)
        return y + self.last(self.norm(y))


class Shifted(nn.Linear):
    """Shifts its result, by more than its size, while it is exported."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + (0.5 if torch.onnx.is_in_onnx_export() else 0.0)


@pytest.mark.parametrize("exporter", list(EXPORTERS))
def test_a_bias_of_zeros_does_not_hide_a_layers_own_result(exporter: str, tmp_path: Path) -> None:
    """Two steps of the layer have the right numbers, and the third, which only its name tells, has not."""
    with seeded(0):
        model, x = Residual().eval(), torch.randn(2, 4, 8)
        nn.init.zeros_(model.shifted.bias)
        nn.init.normal_(model.shifted.weight, std=0.02)
    path = tmp_path / "residual.onnx"
    export_model(model, (x,), {}, path, exporter=exporter, options={})
    report = alignkit.compare(model, x, onnx=path)
    assert [culprit.module for culprit in report.culprits] == ["shifted"]


class Skipped(nn.Module):
    """The forward's own code takes a step that the export leaves out, before a module without weights."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.first, self.act, self.last = nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 4)
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        y = y if torch.onnx.is_in_onnx_export() else y * self.factor
        result: Tensor = self.last(self.act(y))
        return result


@pytest.mark.parametrize("exporter", list(EXPORTERS))
def test_a_step_that_the_file_lacks_is_not_the_next_layers_fault(exporter: str, tmp_path: Path) -> None:
    """The activation's nodes are right for what it is given, and nothing in the file is that."""
    with seeded(0):
        model, x = Skipped(1.1).eval(), torch.randn(4, 8)
    path = tmp_path / "skipped.onnx"
    export_model(model, (x,), {}, path, exporter=exporter, options={})
    report = alignkit.compare(model, x, onnx=path)
    (culprit,) = report.culprits
    assert (culprit.module, culprit.op) == ("(model)", "")
    assert "self.act(y)" in (culprit.source_line or "")
    assert any("is not in the file" in line for line in culprit.evidence)


def test_the_file_of_another_model_is_told(plain: Path) -> None:
    """How much of its weights is in this model."""
    with seeded(1):
        other = nn.Sequential(nn.Conv2d(3, 4, 5), nn.Flatten(), nn.Linear(64, 7)).eval()
    report = alignkit.compare(other, X, onnx=plain)
    assert not report.aligned
    assert any("of the file's weights are found" in note for note in report.notes)


def test_a_pin_decides_and_a_wrong_one_is_told(plain: Path, tmp_path: Path) -> None:
    """``map=`` takes a file; a value that is not there is one clear line."""
    file = tmp_path / "map.json"
    value = next(node.output[0] for node in onnx.load(plain).graph.node if node.op_type == "Relu")
    file.write_text(json.dumps({"schema": "alignkit.map/1", "taps": {"2#0[0]": value}}))
    report = alignkit.compare(network(), X, onnx=plain, map=file)
    (row,) = (row for row in report.layers if row.tap == "2#0[0]")
    assert row.mapped_by is not None
    assert row.mapped_by.startswith("pinned")
    with pytest.raises(CompareError, match="nowhere"):
        alignkit.compare(network(), X, onnx=plain, map={"2#0[0]": "nowhere"})


def half(path: Path) -> None:
    """Weights and arithmetic of the Gemm in float16, between casts."""
    model = onnx.load(path)
    graph = model.graph
    place = next(i for i, node in enumerate(graph.node) if node.op_type == "Gemm")
    node = graph.node[place]
    for tensor in graph.initializer:
        if tensor.name in node.input:
            tensor.CopyFrom(
                numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name)
            )
    given, made = node.input[0], node.output[0]
    node.input[0], node.output[0] = f"{given}_half", f"{made}_half"
    graph.node.insert(place, helper.make_node("Cast", [given], [f"{given}_half"], to=TensorProto.FLOAT16))
    graph.node.insert(place + 2, helper.make_node("Cast", [f"{made}_half"], [made], to=TensorProto.FLOAT))
    del graph.value_info[:]
    onnx.save(model, path)


def test_a_converted_layer_is_judged_at_its_precision(plain: Path) -> None:
    """Half precision in one layer is no fault of it; the rest is judged as ever."""
    half(plain)
    report = alignkit.compare(network(), X, onnx=plain)
    assert report.aligned, str(report)
    rows = {row.tap: row for row in report.layers}
    assert "float16" in rows["4#0[0]"].tolerance
    assert rows["4#0[0]"].introduced is not None
    assert rows["4#0[0]"].introduced.max_abs
    assert "float16" not in rows["2#0[0]"].tolerance


def test_a_fault_in_a_converted_layer_is_still_found(plain: Path) -> None:
    """A tenth is no rounding of half precision."""
    spoil(plain, "/4/Gemm", 2.0)
    half(plain)
    report = alignkit.compare(network(), X, onnx=plain)
    assert [culprit.module for culprit in report.culprits] == ["4"]


def test_the_coarsest_of_several_precisions_is_eight_bits() -> None:
    """An ordinary run cannot be more exact than its coarsest step."""
    assert coarsest_of({"a": "float16", "b": "int8", "c": "bfloat16"}) == "int8"
    assert coarsest_of({}) is None


def test_a_full_precision_file_has_no_coarse_segment(plain: Path, tmp_path: Path) -> None:
    """Nothing is excused that was not converted."""
    from alignkit.extract import read_marked

    marked = tmp_path / "marked.onnx"
    export_model(network(), (X,), {}, marked, exporter="torchscript", options={}, selection=Selection())
    assert find_precisions(read_marked(marked)) == {}
