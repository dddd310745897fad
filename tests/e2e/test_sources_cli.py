"""References that are files, as a user names them on the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from alignkit.cli import main
from alignkit.dump import read_dump
from tests.zoo.case import seeded

# Of TorchScript and of its exporter, which this uses for its files.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A traced module, a pickled one, its export, and that export with one node changed."""
    folder = tmp_path_factory.mktemp("files")
    with seeded(0):
        model, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval(), torch.randn(2, 4)
    torch.jit.save(torch.jit.trace(model, x), folder / "traced")
    torch.save(model, folder / "pickled")
    torch.onnx.export(model, (x,), folder / "before.onnx", input_names=["input"], dynamo=False)
    changed = onnx.load(folder / "before.onnx")
    next(node for node in changed.graph.node if node.op_type == "Relu").op_type = "Sigmoid"
    onnx.save(changed, folder / "after.onnx")
    np.savez(folder / "x.npz", input=x.numpy())
    return folder


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("compare traced --inputs x.npz", 0, "ALIGNED: 5 of 5"),
        ("compare traced --input-shape input:{2,3}x4 --dynamic input:0", 0, "ALIGNED: 2 of 2 samples"),
        ("compare traced before.onnx --inputs x.npz", 0, "ALIGNED"),
        ("compare traced --onnx after.onnx --inputs x.npz", 1, "error starts at 1 (Sigmoid)"),
        ("compare before.onnx before.onnx --inputs x.npz", 0, "ALIGNED: 5 of 5"),
        ("compare before.onnx after.onnx --inputs x.npz", 1, "error starts at /1/Relu_output_0 (Sigmoid)"),
        ("compare pickled --inputs x.npz --trust --exporter torchscript", 0, "ALIGNED"),
    ],
)
def test_files_are_references(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    code: int,
    said: str,
) -> None:
    """The reference comes first, the deployed file second or behind --onnx."""
    monkeypatch.chdir(folder)
    assert main([*command.split(), "--quiet"]) == code
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("compare pickled --inputs x.npz", "--trust"),
        ("compare before.onnx after.onnx --onnx after.onnx --inputs x.npz", "give one of them"),
        ("compare before.onnx --inputs x.npz", "name the deployed file"),
        ("compare before.onnx after.onnx", "no inputs for before.onnx"),
        ("compare traced --inputs x.npz --exporter both", "torchscript exporter alone"),
        ("compare nowhere.pt2", "there is no file nowhere.pt2"),
        ("capture dump --inputs x.npz -o other", "is a dump already"),
    ],
)
def test_misuse_is_one_line(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    said: str,
) -> None:
    """Exit code 2, and what to do next."""
    monkeypatch.chdir(folder)
    main(["capture", "traced", "--inputs", "x.npz", "-o", "dump", "--force", "--quiet"])
    capsys.readouterr()
    assert main([*command.split(), "--quiet"]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_torchscript_is_captured_and_its_dump_compared(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``capture`` opens files by the same door, and what it wrote is a reference in turn."""
    monkeypatch.chdir(folder)
    assert main(["capture", "traced", "--inputs", "x.npz", "-o", "run", "--force", "--quiet"]) == 0
    assert read_dump("run").about.producer == "TorchScript"
    assert {"0#0[0]", "1#0:in[0]", "(model)#0[0]"} <= read_dump("run").taps.keys()
    assert main(["compare", "run", "before.onnx", "--quiet"]) == 0
    assert main(["compare", "run", "after.onnx", "--quiet"]) == 1
    assert "error starts at 1 (Sigmoid)" in capsys.readouterr().out
