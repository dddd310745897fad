"""A given file without taps that does not belong to the model, or is broken: a clear line or a clear row."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors.numpy import save_file
from torch import nn

from alignkit.cli import main
from tests.zoo.plain import quiet_exporter

MODELS = """
import torch
from torch import nn

X = torch.linspace(-1, 1, 8).reshape(2, 4)


def stack(seed, *layers):
    torch.manual_seed(seed)
    made = [nn.Linear(*layer) if isinstance(layer, tuple) else layer for layer in layers]
    return nn.Sequential(*made).eval(), X


def build():
    return stack(0, (4, 8), nn.ReLU(), (8, 3))


def retrained():
    return stack(1, (4, 8), nn.ReLU(), (8, 3))


def other():
    return stack(2, (4, 6), nn.Tanh(), nn.ReLU(), (6, 3))


class Difference(nn.Module):
    def __init__(self):
        super().__init__()
        self.proj = nn.Linear(4, 4)

    def forward(self, a, b):
        return self.proj(a) - b


def difference():
    torch.manual_seed(0)
    return Difference().eval(), (X, X.cos())
"""

Run = Callable[..., tuple[int, str, str]]


def make_files(folder: Path) -> None:
    """The model's own file, and what can happen to it."""
    (folder / "models.py").write_text(MODELS)
    space: dict[str, Callable[[], tuple[nn.Module, object]]] = {}
    exec(MODELS, space)  # type: ignore[arg-type]
    with quiet_exporter():
        for name, inputs in (("build", ["input"]), ("difference", ["b", "a"])):
            model, x = space[name]()
            args = x if isinstance(x, tuple) else (x,)
            torch.onnx.export(model, args, str(folder / f"{name}.onnx"), dynamo=False, input_names=inputs)
    whole = onnx.load(folder / "build.onnx")
    data = {"save_as_external_data": True, "size_threshold": 0}
    for name in ("missing", "short"):
        copy = onnx.ModelProto()
        copy.CopyFrom(whole)
        onnx.save(copy, folder / f"{name}.onnx", location=f"{name}.data", **data)
    (folder / "missing.data").unlink()
    (folder / "short.data").write_bytes(b"12345678")
    for name, version, opset in (("ir", 99, 17), ("opset", whole.ir_version, 99)):
        newer = onnx.ModelProto()
        newer.CopyFrom(whole)
        newer.ir_version, newer.opset_import[0].version = version, opset
        onnx.save(newer, folder / f"{name}.onnx")
    (folder / "half.onnx").write_bytes((folder / "build.onnx").read_bytes()[:200])
    (folder / "page.onnx").write_text("<!DOCTYPE html><html><body>Not found</body></html>")
    with zipfile.ZipFile(folder / "zip.onnx", "w") as archive:
        archive.writestr("data.pkl", "nothing")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("files")
    make_files(path)
    return path


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """``run("compare", …)``: exit code, stdout with its white space made one, stderr."""
    monkeypatch.chdir(folder)

    def call(*arguments: str) -> tuple[int, str, str]:
        code = main(list(arguments))
        out, err = capfd.readouterr()
        return code, " ".join(out.split()), err

    return call


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("missing.onnx", ["keeps its weights in missing.data", "Copy that file to the same folder"]),
        ("short.onnx", ["short.data is too short to hold the weight", "Copy or export it again"]),
        ("ir.onnx", ["Unsupported model IR version: 99", "Upgrade onnxruntime"]),
        ("opset.onnx", ["Opset 99", "Upgrade onnxruntime", "opset_version"]),
        ("half.onnx", ["half.onnx is not an ONNX model, or it is truncated", "Export it again"]),
        ("page.onnx", ["page.onnx is not an ONNX model", "Export it again"]),
        ("zip.onnx", ["zip.onnx is not an ONNX model", "Export it again"]),
    ],
)
def test_file_that_cannot_be_used(run: Run, file: str, words: list[str]) -> None:
    """Exit 2, nothing printed, and one line that says what is wrong with the file and what to do."""
    code, out, err = run("compare", "models.py:build", "--onnx", file)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert "unexpected" not in err
    assert "onnxruntime::" not in err
    assert [word for word in words if word not in err] == []


def test_inputs_under_each_others_names(run: Run) -> None:
    """Two inputs of one shape that were named the wrong way round are told, and no layer is blamed."""
    code, out, err = run("compare", "models.py:difference", "--onnx", "difference.onnx")
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert "'a' takes what the model calls 'b', 'b' takes what the model calls 'a'" in err
    assert "input_names=" in err


def test_file_of_another_model(run: Run) -> None:
    """How much of its weights is in this model is the first note, and no exporter is blamed."""
    code, out, _ = run("compare", "models.py:other", "--onnx", "build.onnx")
    assert code == 1
    assert "Only 0% of the file's weights are found in this model" in out
    assert "cause exporter" not in out


def test_file_of_another_checkpoint(run: Run) -> None:
    """Every layer with weights is a culprit, whose cause is its weights."""
    code, out, _ = run("compare", "models.py:retrained", "--onnx", "build.onnx", "-o", "retrained", "--force")
    assert code == 1
    report = json.loads(Path("retrained/report.json").read_text())
    named = {culprit["module"]: culprit["cause"] for culprit in report["culprits"]}
    assert named == {"0": "weights", "2": "weights"}, out


def test_dumps_that_cannot_be_read(run: Run, folder: Path) -> None:
    """A dump of another schema version, a corrupted one and a file that is none: one line each."""
    x = {"tap/y": np.ones(3, np.float32)}
    about = {"schema": "alignkit.dump/9", "tier": "full", "taps": [{"name": "y"}]}
    save_file(x, folder / "newer.safetensors", metadata={"alignkit.dump": json.dumps(about)})
    about["schema"] = "alignkit.dump/1"
    save_file(x, folder / "good.safetensors", metadata={"alignkit.dump": json.dumps(about)})
    whole = (folder / "good.safetensors").read_bytes()
    (folder / "cut.safetensors").write_bytes(whole[:-4])
    save_file(x, folder / "plain.safetensors")
    for name, word in (("newer", "alignkit.dump/9"), ("cut", "cut.safetensors"), ("plain", "alignkit.dump")):
        code, out, err = run("diff", "good.safetensors", f"{name}.safetensors")
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert word in err
        assert "unexpected" not in err
