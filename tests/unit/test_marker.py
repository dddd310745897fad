"""The marker: an identity in eager code, one named node under either exporter, in scripted code too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

import alignkit
from alignkit.marker import DOMAIN, OP_TYPE, can_mark, is_marking, mark_value

X = torch.tensor([[-1.0, 2.0]])
BOTH = pytest.mark.parametrize("dynamo", [True, False])
SCRIPTING = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")


@pytest.fixture(autouse=True)
def _exporters_may_warn(recwarn: pytest.WarningsRecorder) -> None:
    """The exporters' own deprecation warnings are recorded, not raised."""
    import warnings

    warnings.simplefilter("default")


def exported(model: nn.Module, folder: Path, dynamo: bool, **options: Any) -> onnx.ModelProto:
    path = str(folder / "model.onnx")
    torch.onnx.export(model.eval(), (X,), path, dynamo=dynamo, verbose=False, **options)
    return onnx.load(path)


def debug_nodes(model: onnx.ModelProto) -> list[tuple[str, list[str], list[str]]]:
    return [
        (node.attribute[0].s.decode(), list(node.input), list(node.output))
        for node in model.graph.node
        if (node.domain, node.op_type) == (DOMAIN, OP_TYPE)
    ]


class Marks(nn.Module):
    """Marks one value under a name that needs escaping."""

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(x)
        if is_marking():
            y = mark_value(y, 'a "b"\n=c </script> é')
        return y * 2


@BOTH
def test_one_node_with_the_name_as_it_is(dynamo: bool, tmp_path: Path) -> None:
    """Between the producer and the consumer; any text is a name."""
    model = exported(Marks(), tmp_path, dynamo)
    ((name, (inflow,), (outflow,)),) = debug_nodes(model)
    assert name == 'a "b"\n=c </script> é'
    makers = {out: node.op_type for node in model.graph.node for out in node.output}
    assert makers[inflow] == "Tanh"
    assert [node.op_type for node in model.graph.node if outflow in node.input] == ["Mul"]


def test_outside_an_export_nothing_is_marked() -> None:
    """An eager run, a trace and a torch.export of the user's own see no exporter."""
    assert not is_marking()
    assert Marks()(X).tolist() == (torch.tanh(X) * 2).tolist()


def test_what_onnx_cannot_hold_is_not_marked() -> None:
    """Complex, sparse, nested and quantized tensors; everything dense and real is."""
    assert can_mark(X)
    assert can_mark(X.bool())
    assert not can_mark(X.to(torch.complex64))
    assert not can_mark(X.to_sparse())
    assert not can_mark(torch.quantize_per_tensor(X, 1.0, 0, torch.quint8))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64, torch.bool])
def test_the_type_survives_the_torchscript_exporter(
    dtype: torch.dtype, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    """The node states its result's type: no warning that shapes cannot be inferred."""

    class Model(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x.to(dtype)
            return (mark_value(y, "y") if is_marking() else y).float()

    model = exported(Model(), tmp_path, False)
    assert len(debug_nodes(model)) == 1
    assert not [w for w in recwarn if "shape inference" in str(w.message)]


class CallsOp(nn.Module):
    """Taps by the torch op."""

    def forward(self, x: Tensor) -> Tensor:
        x = torch.ops.my.debug(x * 2, "x_0")
        return torch.ops.my.debug(x + 1, "x_1")


class Whole(nn.Module):
    """A layer, then ``block``."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.block(self.layer(x)))


def scripted_function() -> nn.Module:
    """A module of plain Python around a scripted function."""
    assert alignkit.debug

    def tapped(x: Tensor) -> Tensor:
        x = torch.ops.my.debug(x * 2, "x_0")
        return torch.ops.my.debug(x + 1, "x_1")

    function = torch.jit.script(tapped)

    class Calls(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return function(x)  # type: ignore[no-any-return]

    return Calls()


def test_the_torch_op_is_an_identity_with_a_gradient() -> None:
    """A value of its own: a later write in place does not reach the tapped one."""
    assert alignkit.debug
    x = X.clone().requires_grad_()
    y = torch.ops.my.debug(x, "x_0")
    assert y.tolist() == X.tolist()
    (y * 3).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[3, 3]]
    with torch.no_grad():
        base = X.clone()
        torch.ops.my.debug(base, "x_0").add_(1)
    assert base.tolist() == X.tolist()


def test_the_torch_op_has_a_fake_kernel() -> None:
    """torch.export and shape propagation see through it; torch's own checks of an op pass."""
    assert alignkit.debug
    found = torch.ops.my.debug(torch.empty(2, 3, device="meta", dtype=torch.float16), "x_0")
    assert (tuple(found.shape), found.dtype) == ((2, 3), torch.float16)
    torch.library.opcheck(
        torch.ops.my.debug.default,
        (X.clone().requires_grad_(), "x_0"),
        test_utils=("test_schema", "test_faketensor"),
    )


@SCRIPTING
@pytest.mark.parametrize("kind", ["plain", "function", "whole"])
def test_scripted_code_is_marked_by_the_torchscript_exporter(kind: str, tmp_path: Path) -> None:
    """In a scripted function, in a wholly scripted model, and in plain Python."""
    model: Any = Whole(scripted_function() if kind == "function" else CallsOp())
    if kind == "whole":
        model = torch.jit.script(model)
    found = exported(model, tmp_path, False)
    assert [name for name, _, _ in debug_nodes(found)] == ["x_0", "x_1"]


@pytest.mark.parametrize("kind", ["plain", "function"])
@SCRIPTING
def test_the_torch_op_is_marked_by_the_default_exporter(kind: str, tmp_path: Path) -> None:
    """With the user's own plain call: no translation table."""
    model = Whole(scripted_function() if kind == "function" else CallsOp())
    found = exported(model, tmp_path, True)
    assert [name for name, _, _ in debug_nodes(found)] == ["x_0", "x_1"]


@SCRIPTING
@pytest.mark.parametrize("kind", ["plain", "function"])
def test_taps_of_the_torch_op_are_recorded_and_compared(kind: str) -> None:
    """An eager run records them like any explicit tap; the report has their rows."""
    model = Whole(scripted_function() if kind == "function" else CallsOp()).eval()
    with alignkit.Debugger(model) as debugger:
        model(X)
    expected = model.layer(X).detach() * 2
    assert debugger.values["x_0"].tolist() == expected.tolist()
    report = alignkit.compare(model, X, exporter="torchscript")
    assert report.aligned
    assert {row.tap for row in report.layers if row.kind.value == "explicit"} == {"x_0", "x_1"}


@SCRIPTING
def test_the_torch_op_feeds_the_debugger_without_a_model() -> None:
    """The classic script with scripted code: an eager call fills ``torch_value``."""
    debugger = alignkit.Debugger()
    model = torch.jit.script(CallsOp())
    model(X)
    assert debugger.torch_value["x_0"].tolist() == (X * 2).tolist()
    assert debugger.torch_value["x_1"].tolist() == (X * 2 + 1).tolist()


@SCRIPTING
def test_the_torch_op_without_any_debugger_only_passes_on() -> None:
    """A model in production may keep its taps."""
    assert alignkit.debug
    assert torch.jit.script(CallsOp())(X).tolist() == (X * 2 + 1).tolist()
