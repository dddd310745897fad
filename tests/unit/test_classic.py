"""The classic four calls: tap by hand, extract, run, print; no context, no model."""

from __future__ import annotations

import types
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

import alignkit
from alignkit.errors import CompareError, InputError, OnnxFileError, TapError


class Net(nn.Module):
    """Two blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.block0 = nn.Conv2d(1, 3, 3, padding=1)
        self.block1 = nn.Sequential(nn.Conv2d(3, 1, 3, padding=1), nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        return self.block1(self.block0(x))  # type: ignore[no-any-return]


X = torch.randn(1, 1, 5, 5, generator=torch.Generator().manual_seed(0))


def tapped_net(debugger: alignkit.Debugger) -> nn.Module:
    """The net with a forward bound from outside, as the tutorial does it."""

    def new_forward(self: Net, x: Tensor) -> Tensor:
        x = debugger.debug(self.block0(x), "x_0")
        x = debugger.debug(self.block1(x), "x_1")
        x += 1
        return x

    net = Net().eval()
    net.forward = types.MethodType(new_forward, net)  # type: ignore[method-assign]
    return net


def export(net: nn.Module, path: Path, dynamo: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(net, (X,), str(path), input_names=["input"], dynamo=dynamo)


@pytest.mark.parametrize("dynamo", [True, False])
def test_the_whole_script(dynamo: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Right values on both sides by name, and one line of MSE per tap."""
    debugger = alignkit.Debugger()
    net = tapped_net(debugger)
    before, after = tmp_path / "before.onnx", tmp_path / "after.onnx"
    export(net, before, dynamo)
    net(X)
    debugger.extract_debug_model(str(before), str(after))
    assert debugger.output_debug_name == ["x_0", "x_1"]
    onnx.checker.check_model(str(after), full_check=True)
    assert "my" not in {e.domain for e in onnx.load(after).opset_import}
    debugger.run_debug_model({"input": X.numpy()}, str(after))
    for name, expected in (("x_0", net.block0(X)), ("x_1", Net.forward(net, X))):
        expected = expected.detach().numpy()
        assert debugger.torch_value[name].tobytes() == expected.tobytes()
        np.testing.assert_allclose(debugger.onnx_value[name], expected, atol=1e-5)
    capsys.readouterr()
    debugger.print_debug_result()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["x_0", "x_1"]
    assert all(float(line.split("MSE: ")[1]) < 1e-10 for line in lines)


def test_the_mse_is_the_mean_of_squares(capsys: pytest.CaptureFixture[str]) -> None:
    """Errors of opposite sign do not cancel."""
    debugger = alignkit.Debugger()
    debugger.torch_value["x"] = np.array([0, 0], np.float32)
    debugger.onnx_value["x"] = np.array([1, -1], np.float32)
    debugger.print_debug_result()
    assert capsys.readouterr().out == "x MSE: 1.0\n"


def test_what_is_missing_is_said_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Neither run nor called, another shape, nothing at all."""
    debugger = alignkit.Debugger()
    debugger.print_debug_result()
    debugger.torch_value = {"a": np.zeros(2), "c": np.zeros(2)}
    debugger.onnx_value = {"b": np.zeros(2), "c": np.zeros(3)}
    debugger.print_debug_result()
    nothing, a, c, b = capsys.readouterr().out.splitlines()
    assert "nothing to compare" in nothing
    assert a.startswith("a has no ONNX value")
    assert b.startswith("b has no PyTorch value")
    assert c.startswith("c differs in shape: [2] in PyTorch, [3] in ONNX")


def test_a_recorded_value_is_a_copy() -> None:
    """A later write in place does not reach it."""
    debugger = alignkit.Debugger()
    x = torch.ones(2)
    debugger.debug(x, "x").add_(1)
    assert debugger.torch_value["x"].tolist() == [1, 1]
    assert x.tolist() == [2, 2]


@pytest.mark.parametrize("name", ["", "conv#0[0]"])
def test_a_name_that_cannot_be_a_taps_is_refused(name: str) -> None:
    """Empty, or a module tap's."""
    with pytest.raises(TapError, match="cannot name a tap"):
        alignkit.Debugger().debug(torch.ones(1), name)


def test_a_name_used_twice_is_said_at_extraction(tmp_path: Path) -> None:
    """Without a context there is no forward to count in: the file tells."""
    debugger = alignkit.Debugger()
    net = Net().eval()
    net.forward = lambda x: debugger.debug(debugger.debug(x, "x") + 1, "x")  # type: ignore[method-assign]
    export(net, tmp_path / "m.onnx", False)
    with pytest.raises(CompareError, match="'x' more than once"):
        debugger.extract_debug_model(tmp_path / "m.onnx", tmp_path / "o.onnx")


def test_a_file_in_another_folder_carries_its_weights(tmp_path: Path) -> None:
    """The extracted file can be moved; the marked one keeps its own."""
    debugger = alignkit.Debugger()
    net = tapped_net(debugger)
    source, target = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    target.mkdir()
    export(net, tmp_path / "m.onnx", False)
    model = onnx.load(tmp_path / "m.onnx")
    onnx.save(model, source / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    debugger.extract_debug_model(source / "m.onnx", target / "probe.onnx")
    debugger.run_debug_model({"input": X.numpy()}, target / "probe.onnx")
    np.testing.assert_allclose(debugger.onnx_value["x_0"], net.block0(X).detach().numpy(), atol=1e-5)


def test_only_an_extracted_file_can_be_run(tmp_path: Path) -> None:
    """One clear line each: not extracted, not there, an input that is not given."""
    debugger = alignkit.Debugger()
    export(tapped_net(debugger), tmp_path / "m.onnx", False)
    with pytest.raises(CompareError, match="extract_debug_model"):
        debugger.run_debug_model({"input": X.numpy()}, tmp_path / "m.onnx")
    with pytest.raises(OnnxFileError, match=r"nowhere\.onnx"):
        debugger.run_debug_model({"input": X.numpy()}, tmp_path / "nowhere.onnx")
    debugger.extract_debug_model(tmp_path / "m.onnx", tmp_path / "o.onnx")
    with pytest.raises(InputError, match="'input'"):
        debugger.run_debug_model({"x": X.numpy()}, tmp_path / "o.onnx")
    with pytest.raises(CompareError, match="my::Debug"):
        debugger.extract_debug_model(tmp_path / "o.onnx", tmp_path / "again.onnx")


def test_the_debugger_of_another_process_can_run_the_file(tmp_path: Path) -> None:
    """The extracted file says itself which output is which tap."""
    first = alignkit.Debugger()
    export(tapped_net(first), tmp_path / "m.onnx", False)
    first.extract_debug_model(tmp_path / "m.onnx", tmp_path / "o.onnx")
    second = alignkit.Debugger()
    second.run_debug_model({"input": X.numpy()}, tmp_path / "o.onnx")
    assert set(second.onnx_value) == {"x_0", "x_1"}
    assert set(second.output_debug_name) == {"x_0", "x_1"}


def test_bfloat16_taps_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """numpy has no bfloat16; the line has its MSE all the same."""
    debugger = alignkit.Debugger()
    net = nn.Identity()
    net.forward = lambda x: debugger.debug(x.bfloat16(), "x").float()  # type: ignore[method-assign]
    net(X)
    export(net, tmp_path / "m.onnx", False)
    debugger.extract_debug_model(tmp_path / "m.onnx", tmp_path / "o.onnx")
    debugger.run_debug_model({"input": X.numpy()}, tmp_path / "o.onnx")
    debugger.print_debug_result()
    assert "x MSE: 0.0" in capsys.readouterr().out
