"""``--backend``: several candidates from the command line, and real models on each of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import alignkit
from alignkit.cli import main
from tests import zoo
from tests.command_line import NET
from tests.zoo.files import plain_file
from tests.zoo.tamper import tamper_node

OTHERS = ["openvino", "reference"]

RUNTIMES = '''
import onnxruntime


def load(model):
    """A runtime of the user's own."""
    session = onnxruntime.InferenceSession(model if isinstance(model, bytes) else str(model))
    names = [value.name for value in session.get_outputs()]
    return lambda feeds: dict(zip(names, session.run(None, dict(feeds))))


def broken(model):
    raise ValueError("no licence")


number = 3
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("user")
    (path / "net.py").write_text(NET)
    (path / "runtimes.py").write_text(RUNTIMES)
    return path


Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Call:
    """``call("compare", …)`` in this process: exit code, stdout, stderr."""
    monkeypatch.chdir(folder)

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(arguments)
        return code, *capfd.readouterr()

    return run


def test_candidates_are_compared_side_by_side(folder: Path, call: Call) -> None:
    """Known ones and the user's own in one report, which is saved and printed again."""
    chosen = ["ort:cpu", "openvino", "reference", "runtimes.py:load"]
    named = [word for name in chosen for word in ("--backend", name)]
    arguments = ("compare", "net.py:build", *named, "--exporter", "torchscript", "-o", "report")
    code, out, err = call(*arguments)
    assert code == 0, err
    assert out.startswith("ALIGNED on all 4 candidates: ")
    document = json.loads((folder / "report" / "report.json").read_text())
    assert [row["name"] for row in document["candidates"]] == chosen
    assert all(row["compared"] == row["taps"] > 0 for row in document["candidates"])
    assert "Candidates side by side" in call("report", "report")[1]


def test_a_candidate_that_does_not_run_is_no_pass(call: Call) -> None:
    """The others are compared all the same; the exit code says that not all is well."""
    arguments = ("--backend", "runtimes.py:broken", "--backend", "ort", "--exporter", "torchscript")
    code, out, err = call("compare", "net.py:build", *arguments)
    assert code == 1, err
    assert out.startswith("INCONCLUSIVE: runtimes.py:broken could not be compared; ort: aligned")
    assert "ValueError: no licence" in out


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("teapot", "no backend 'teapot'; known: ort"),
        ("runtimes.py:nothing", "has no 'nothing'"),
        ("runtimes.py:number", "runtimes.py:number is int, not a callable"),
        ("runtimes.py:broken", "runtimes.py:broken could not load the model: ValueError: no licence"),
        ("ort:rocket", "no execution provider 'rocket'"),
    ],
)
def test_a_backend_that_cannot_be_used_is_one_line(call: Call, name: str, message: str) -> None:
    """Exit code 2, no traceback."""
    code, _, err = call("compare", "net.py:build", "--backend", name, "--exporter", "torchscript")
    assert code == 2
    errors = [line for line in err.splitlines() if line.startswith("alignkit: error:")]
    assert len(errors) == 1
    assert message in errors[0]
    assert "Traceback" not in err


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_file_is_captured_on_a_backend(folder: Path, call: Call) -> None:
    """Two runtimes' dumps of one file agree; a dump holds one run."""
    torch.onnx.export(torch.nn.Linear(4, 2), (torch.ones(1, 4),), folder / "m.onnx", dynamo=False)
    np.save(folder / "x.npy", np.linspace(-1, 1, 4, dtype=np.float32).reshape(1, 4))
    for name in ("ort", *OTHERS):
        arguments = ("capture", "m.onnx", "--inputs", "x.npy", "--backend", name, "-o", f"{name}.safetensors")
        code, _, err = call(*arguments)
        assert code == 0, err
    for name in OTHERS:
        code, out, err = call("diff", "ort.safetensors", f"{name}.safetensors")
        assert code == 0, out + err
    twice = ("capture", "m.onnx", "--inputs", "x.npy", "--backend", "ort", "--backend", "reference")
    code, _, err = call(*twice, "-o", "two.safetensors")
    assert code == 2
    assert "--backend once" in err


@pytest.mark.filterwarnings("ignore")  # of the older exporter and of the models themselves
@pytest.mark.parametrize("name", ["resnet18", "bert", "lstm"])
def test_healthy_models_are_aligned_on_every_backend(name: str) -> None:
    """Other kernels, other fusions: what differs is rounding, far from the limit of 30 floors."""
    built = zoo.resolve(name).build()
    found = alignkit.compare(
        built.model,
        built.args,
        built.kwargs,
        exporter="torchscript",
        export_options=built.export_options.get("torchscript"),
        backend=OTHERS,
    )
    assert found.aligned, str(found)
    for row in found.data.candidates:
        assert row.compared > 0.9 * row.taps
        assert any(glance.noise_ratio is not None for glance in row.layers.values())
        assert (row.worst_ratio or 0.0) < 10, (row.name, row.worst_tap)  # None: exact on this processor


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "node", "how", "module", "cause"),
    [
        ("four-blocks", "/block2/block2.2/Relu", "operator", "block2.2", "exporter"),
        ("bert", "/classifier/Gemm", "weight", "classifier", "weights"),
    ],
)
def test_a_tampered_node_is_named_on_every_backend(
    name: str, node: str, how: str, module: str, cause: str, tmp_path: Path
) -> None:
    """In a plain file that nobody marked: the right layer, the right cause, whatever runs it."""
    case = zoo.resolve(name)
    built, plain = case.build(), plain_file(case, "torchscript")
    tamper_node(plain, tmp_path / "wrong.onnx", lambda found: found.name.endswith(node), how)
    found = alignkit.compare(
        built.model, built.args, built.kwargs, onnx=tmp_path / "wrong.onnx", backend=OTHERS
    )
    for row in found.data.candidates:
        assert (row.culprit, row.cause) == (f"{module}#0[0]", cause), row.name
