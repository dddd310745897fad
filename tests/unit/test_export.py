"""Export: either exporter, with taps or without, and the model as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

from alignkit.capture import capture_reference
from alignkit.errors import ExportError
from alignkit.export import EXPORTERS, export_model, resolve_exporter
from alignkit.instrument import Selection

BOTH = pytest.mark.parametrize("exporter", EXPORTERS)
X = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))


class Mixed(nn.Module):
    """Returns what is no tensor as well."""

    def forward(self, x: Tensor) -> dict[str, Any]:
        return {"pair": (x * 2, None, 3), "mask": x > 0.1, "name": "x", "best": x.argmax(-1)}


class Traps(nn.Module):
    """Small, and full of what breaks a tap: sharing, in-place writes, nested and mixed outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.relu = nn.ReLU(inplace=True)
        self.same = nn.Identity()
        self.drop = nn.Dropout()
        self.b = nn.Linear(4, 4)
        self.mixed = Mixed()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        y = self.a(x)
        self.relu(y)
        y += 1
        z = self.same(self.relu(self.b(y - 1)))
        mixed = self.mixed(self.drop(z))
        return mixed["pair"][0], y, mixed["best"], mixed["mask"]


def tap_names(path: Path) -> list[str]:
    nodes = onnx.load(str(path), load_external_data=False).graph.node
    return [n.attribute[0].s.decode() for n in nodes if (n.domain, n.op_type) == ("my", "Debug")]


def exported(
    model: nn.Module, folder: Path, exporter: str, selection: Selection | None, **options: Any
) -> Path:
    path = folder / "model.onnx"
    export_model(model, (X,), {}, path, exporter=exporter, options=options, selection=selection)
    return path


@BOTH
def test_every_tap_of_the_eager_run_is_in_the_file_and_nothing_of_the_model_changes(
    exporter: str, tmp_path: Path
) -> None:
    """The same names on both sides; parameters, buffers, flags, hooks and RNG as before."""
    model = Traps().eval()
    model.drop.train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
    rng = torch.random.get_rng_state()
    path = exported(model, tmp_path, exporter, Selection())
    names = tap_names(path)
    assert len(names) == len(set(names))
    # The first relu's result is not used, but what it wrote in place is: it is marked as well.
    assert set(names) == set(capture_reference(model, (X,), {}, Selection()).values)
    assert [m.training for m in model.modules()] == [m is model.drop for m in model.modules()]
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()] == hooks
    assert torch.equal(torch.random.get_rng_state(), rng)


def test_without_a_selection_there_is_no_tap(tmp_path: Path) -> None:
    """The plain file is the product: no my domain in it at all."""
    path = exported(Traps().eval(), tmp_path, "torchscript", None)
    model = onnx.load(str(path))
    assert tap_names(path) == []
    assert "my" not in {entry.domain for entry in model.opset_import}


def test_a_model_in_training_mode_stays_in_it(tmp_path: Path) -> None:
    """The TorchScript exporter leaves every submodule in train mode: frozen ones must come back."""
    model = Traps().train()
    model.a.eval()
    options = {"training": torch.onnx.TrainingMode.PRESERVE, "do_constant_folding": False}
    exported(model, tmp_path, "torchscript", Selection(), **options)
    assert model.training
    assert not model.a.training


class Refuses(nn.Module):
    """Draws a random number, leaves its modes changed and raises."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        torch.rand(1)
        self.norm(x)
        self.eval()
        raise ValueError("the forward\nrefuses")


@BOTH
def test_a_failing_export_is_one_line_and_leaves_the_model_alone(
    exporter: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The innermost reason, no report on the streams, no hook, no mode, no statistics changed."""
    model = Refuses().train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    rng = torch.random.get_rng_state()
    with pytest.raises(ExportError, match=f"{exporter} exporter failed: ValueError: the forward") as caught:
        exported(model, tmp_path, exporter, Selection())
    assert "\n" not in str(caught.value)
    assert model.training
    assert model.norm.training
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert torch.equal(torch.random.get_rng_state(), rng)
    assert capfd.readouterr() == ("", "")


def test_an_unknown_exporter_lists_what_is_known() -> None:
    """One line with the choices."""
    with pytest.raises(ExportError, match=r"'onnxx'.*dynamo, torchscript"):
        resolve_exporter("onnxx")


def test_tracer_warnings_become_notes_with_a_line(tmp_path: Path) -> None:
    """A shape test that the trace freezes: where, and once."""

    class Branch(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2 if x.sum() > 0 else x

    result = export_model(
        Branch(), (X,), {}, tmp_path / "m.onnx", exporter="torchscript", options={}, selection=Selection()
    )
    (note,) = result.warnings
    assert note.startswith("test_export.py:")
    assert "Python boolean" in note


def test_the_exporters_own_options_pass_through(tmp_path: Path) -> None:
    """Names, axes, opset: as given."""
    path = exported(
        nn.Linear(4, 2),
        tmp_path,
        "torchscript",
        Selection(),
        input_names=["pixels"],
        output_names=["scores"],
        dynamic_axes={"pixels": {0: "n"}},
        opset_version=13,
    )
    model = onnx.load(str(path))
    assert [i.name for i in model.graph.input] == ["pixels"]
    assert [o.name for o in model.graph.output] == ["scores"]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "n"
    assert [e.version for e in model.opset_import if not e.domain] == [13]
