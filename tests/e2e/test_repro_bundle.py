"""Bundles of faults in real models, saved with a report and run as their receiver would run them."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from alignkit.diagnose.repro import bundle_name, make_bundle
from alignkit.report.files import save_report
from tests import zoo
from tests.repro_bench import Fault, culprit, operators, spoil
from tests.sample_report import sample_report

# case, exporter, way to tamper, operator, cause
FAULTS = {
    "resnet18-padding": ("resnet18", "torchscript", "pads", "Conv", "exporter"),
    "bert-weight": ("bert", "torchscript", "weight", "MatMul", "weights"),
    "dynamo-epsilon": ("four-blocks", "dynamo", "epsilon", "BatchNormalization", "exporter"),
}


@dataclass(frozen=True)
class Saved:
    """A fault, and its bundle in a saved report."""

    fault: Fault
    folder: Path


@pytest.fixture(scope="module", params=FAULTS)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    name, exporter, how, operator, cause = FAULTS[request.param]
    folder = tmp_path_factory.mktemp("fault")
    fault = spoil(zoo.resolve(name), folder, exporter, how, lambda node: node.op_type == operator)
    accused = culprit(fault.bench.tap, cause, op=operator)
    bundle = make_bundle(accused, fault.bench)
    assert not isinstance(bundle, str), bundle
    place = f"repro/{bundle_name(fault.bench.tap)}"
    sample = sample_report(12)
    report = replace(sample, culprits=[replace(accused, repro=place)], bundles={place: bundle}, histograms=())
    return Saved(fault, save_report(report, folder / "report") / place)


def call(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Python with ``command`` in the bundle's folder."""
    return subprocess.run([sys.executable, *command], cwd=folder, capture_output=True, text=True)


def largest_error(folder: Path) -> float:
    """max |output - expected| of a bundle, measured without its script."""
    session = onnxruntime.InferenceSession(folder / "segment.onnx", providers=["CPUExecutionProvider"])
    inputs, expected = np.load(folder / "inputs.npz"), np.load(folder / "expected.npz")["expected"]
    names = [value.name for value in session.get_inputs()]
    (output,) = session.run(None, {name: inputs[f"input_{i}"] for i, name in enumerate(names)})
    return float(np.abs(np.asarray(output, np.float64) - expected).max())


def repair(model: onnx.ModelProto, healthy: onnx.ModelProto) -> None:
    """Give every node the attributes, every weight the values that the healthy file has."""
    attributes = {node.name: node.attribute for node in healthy.graph.node}
    weights = {tensor.name: tensor for tensor in healthy.graph.initializer}
    for node in model.graph.node:
        del node.attribute[:]
        node.attribute.extend(attributes[node.name])
    for tensor in model.graph.initializer:
        name = tensor.name
        tensor.CopyFrom(weights[name.removesuffix("_tampered")])
        tensor.name = name


def test_a_saved_bundle_fails_until_its_segment_is_repaired(saved: Saved) -> None:
    """repro.py exits 1 and prints the error; with the right attribute or weight back, it exits 0."""
    folder, fault = saved.folder, saved.fault
    broken = (folder / "segment.onnx").read_bytes()
    model = onnx.load_from_string(broken)
    onnx.checker.check_model(model, full_check=True)
    assert fault.tampering.op in operators(model)
    assert fault.tampering.node in [node.name for node in model.graph.node]

    done = call(folder, "repro.py")
    assert done.returncode == 1, done.stderr
    printed = re.search(r"max \|output - expected\| = (\S+)", done.stdout)
    assert printed
    error = largest_error(folder)
    assert error > fault.bench.allowed
    assert float(printed[1]) == pytest.approx(error, rel=1e-4)
    assert repr(fault.bench.tap) in done.stdout
    tested = call(folder, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_repro.py")
    assert tested.returncode == 1, tested.stdout
    assert "The error is there." in tested.stdout

    repair(model, fault.healthy)
    try:
        onnx.save(model, folder / "segment.onnx")
        done = call(folder, "repro.py")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "The error is gone." in done.stdout
        tested = call(folder, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_repro.py")
        assert tested.returncode == 0, tested.stdout
    finally:
        (folder / "segment.onnx").write_bytes(broken)


@pytest.mark.parametrize("level", ["disable", "basic", "extended", "all"])
def test_a_fault_of_the_file_is_there_at_every_level(saved: Saved, level: str) -> None:
    """The option asks another level: what the file itself says wrongly no level heals."""
    done = call(saved.folder, "repro.py", "--optimization", level)
    assert done.returncode == 1, done.stderr
    assert f"optimization {level}" in done.stdout


def test_a_bundle_needs_nothing_but_the_runtime_and_numpy(saved: Saved) -> None:
    """The script loads neither torch nor onnx nor this package."""
    code = (
        "import runpy, sys\n"
        "try: runpy.run_path('repro.py', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'onnx', 'alignkit', 'ml_dtypes', 'pytest'} & sys.modules.keys()))"
    )
    assert call(saved.folder, "-c", code).stdout.splitlines()[-1] == "[]"
