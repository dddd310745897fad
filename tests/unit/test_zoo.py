"""The zoo keeps its promises: every case exports, runs and agrees with eager, without alignkit."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
import torch.nn.functional as F

from tests import zoo
from tests.zoo import custom, structured
from tests.zoo.files import plain_file
from tests.zoo.plain import export_plain, run_eager, run_onnxruntime
from tests.zoo.tamper import HOW, Tampering, tamper_node

CASES = tuple(zoo.CASES.values())


def _marked(case: zoo.Case, *arguments: str) -> Any:
    marks = [pytest.mark.slow] if case.slow else []
    return pytest.param(case, *arguments, id="-".join((case.name, *arguments)), marks=marks)


BY_EXPORTER = [_marked(case, exporter) for case, exporter in zoo.exportable()]
UNSUPPORTED = [_marked(case, exporter) for case in CASES for exporter in case.unsupported]


def relative_error(reference: torch.Tensor, candidate: npt.NDArray[Any]) -> float:
    """max |candidate - reference| over max |reference|; integers and booleans must be equal."""
    expected = reference.numpy()
    assert candidate.shape == expected.shape
    assert candidate.dtype == expected.dtype
    if not reference.is_floating_point():
        np.testing.assert_array_equal(candidate, expected)
        return 0.0
    difference = np.abs(candidate.astype(np.float64) - expected.astype(np.float64))
    return float(difference.max() / np.abs(expected).max())


@pytest.mark.parametrize(("case", "exporter"), BY_EXPORTER)
def test_exported_model_agrees_with_eager(case: zoo.Case, exporter: str) -> None:
    """The plain export runs in onnxruntime and gives eager's outputs, for every set of inputs."""
    built = case.build()
    path = plain_file(case, exporter)
    if not case.has_kernels:
        with pytest.raises(Exception, match=r"custom.*deform_conv2d"):
            run_onnxruntime(path, built)
        return
    for inputs in [None] if built.other_inputs is None else [None, built.other_inputs]:
        reference, candidate = run_eager(built, inputs), run_onnxruntime(path, built, inputs)
        errors = [relative_error(r, c) for r, c in zip(reference, candidate, strict=True)]
        assert max(errors) < case.tolerance, errors


@pytest.mark.parametrize(("case", "exporter"), UNSUPPORTED)
def test_unsupported_exporter_fails_as_stated(case: zoo.Case, exporter: str, tmp_path: Path) -> None:
    """An exporter that the table calls unsupported does fail, with the words of the table."""
    with pytest.raises(Exception, match=re.escape(case.unsupported[exporter])):
        export_plain(case.build(), exporter, tmp_path / "model.onnx")


@pytest.mark.parametrize("case", [_marked(case) for case in CASES])
def test_build_is_seeded_and_leaves_the_generator_alone(case: zoo.Case) -> None:
    """Two builds hold the same weights and inputs, in eval mode, whatever the caller's seed."""
    before = torch.random.get_rng_state()
    first = case.build()
    assert torch.equal(torch.random.get_rng_state(), before)
    second = case.build()
    assert not any(module.training for module in first.model.modules())
    ours, theirs = first.model.state_dict(), second.model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    for mine, yours in zip(run_eager(first), run_eager(second), strict=True):
        assert torch.equal(mine, yours)


@pytest.mark.parametrize("case", [_marked(case) for case in CASES])
def test_other_inputs_are_as_the_table_says(case: zoo.Case) -> None:
    """The other inputs run, give other outputs, and differ in shape exactly where the case says so."""
    built = case.build()
    assert bool(case.other_inputs) == (built.other_inputs is not None)
    if built.other_inputs is None:
        return
    usual, other = run_eager(built), run_eager(built, built.other_inputs)
    assert len(usual) == len(other)
    same_shapes = [u.shape for u in usual] == [o.shape for o in other]
    assert same_shapes == (case.other_inputs == "values")
    assert not (same_shapes and all(torch.equal(u, o) for u, o in zip(usual, other, strict=True)))


def test_names_are_unique_and_unknown_ones_are_listed() -> None:
    """resolve() finds every case by its name, and an unknown name is answered with the known ones."""
    assert all(zoo.resolve(case.name) is case for case in CASES)
    with pytest.raises(KeyError, match=r"no case 'resnet'.*resnet18"):
        zoo.resolve("resnet")


def test_digits_network_has_learnt() -> None:
    """The trained network is right on nine of ten digits that it has never seen."""
    built = zoo.resolve("digits-trained").build()
    _, labels = structured.load_digits()
    assert built.other_inputs is not None
    (logits,) = run_eager(built, built.other_inputs)
    accuracy = (logits.argmax(dim=1) == labels[-structured.HELD_OUT :]).float().mean()
    assert accuracy > 0.9


def test_deformable_convolution_without_offsets_is_a_convolution() -> None:
    """With offsets of zero the sampling points are those of an ordinary convolution."""
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(2, 3, 7, 9, generator=generator), torch.randn(4, 3, 3, 3, generator=generator)
    bias = torch.randn(4, generator=generator)
    got = custom.deform_conv2d(x, torch.zeros(2, 18, 7, 9), weight, bias, 1)
    torch.testing.assert_close(got, F.conv2d(x, weight, bias, padding=1), atol=1e-5, rtol=1e-5)


def test_deformable_convolution_with_whole_offsets_is_a_shift() -> None:
    """An offset of one row down and two columns right convolves the image shifted by as much."""
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(1, 2, 8, 8, generator=generator), torch.randn(3, 2, 3, 3, generator=generator)
    offset = torch.tensor([1.0, 2.0]).repeat(9)[None, :, None, None].expand(1, 18, 8, 8)
    shifted = F.pad(x, (0, 2, 0, 1))[:, :, 1:, 2:]
    got = custom.deform_conv2d(x, offset, weight, torch.zeros(3), 1)
    expected = F.conv2d(F.pad(shifted, (1, 1, 1, 1)), weight)
    torch.testing.assert_close(got[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1], atol=1e-5, rtol=1e-5)


def test_importing_twice_is_harmless() -> None:
    """A second import of the operators under the same names leaves the first registration standing."""
    code = (
        "import importlib, torch\n"
        "from tests.torchvision_import import import_torchvision\n"
        "from tests.zoo import custom\n"
        "importlib.reload(custom)\n"
        "assert import_torchvision() is import_torchvision()\n"
        "assert torch.ops.zoo.scaled_add(torch.ones(1), torch.ones(1)).item() == 3\n"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True, timeout=120)


@pytest.fixture(scope="module")
def exported() -> dict[str, Path]:
    """Files of both exporters to tamper with; the default exporter's keeps its weights in a second file."""
    wanted = {"vit": "torchscript", "mobilenet-v3-small": "torchscript", "srcnn": "dynamo", "unet": "dynamo"}
    return {name: plain_file(zoo.resolve(name), exporter) for name, exporter in wanted.items()}


TAMPERED = [
    ("srcnn", "weight"),
    ("vit", "weight"),
    ("unet", "operator"),
    ("vit", "operator"),
    ("vit", "epsilon"),
    ("vit", "axis"),
    ("mobilenet-v3-small", "slope"),
    ("mobilenet-v3-small", "alpha"),
    ("unet", "pads"),
    ("srcnn", "mode"),
]


@pytest.mark.parametrize(("name", "how"), TAMPERED)
def test_tampering_alters_one_node(name: str, how: str, exported: dict[str, Path], tmp_path: Path) -> None:
    """One node differs, the one that is named; the file still runs, and its outputs change."""
    source, target = exported[name], tmp_path / "tampered.onnx"
    tampering = tamper_node(source, target, how=how, seed=1)
    assert _changed_nodes(source, target) == [tampering.node]
    assert tampering.change
    built = zoo.resolve(name).build()
    before, after = run_onnxruntime(source, built), run_onnxruntime(target, built)
    assert [b.shape for b in before] == [a.shape for a in after]
    assert any(not np.allclose(b, a, rtol=1e-5, atol=1e-6) for b, a in zip(before, after, strict=True))


def _changed_nodes(before: Path, after: Path) -> list[str]:
    nodes = [list(onnx.load(str(path), load_external_data=False).graph.node) for path in (before, after)]
    return [new.name for old, new in zip(*nodes, strict=True) if old != new]


def test_every_way_to_tamper_is_tried() -> None:
    """The table above leaves out no way there is."""
    assert {how for _, how in TAMPERED} == HOW.keys()


def test_the_choice_of_a_node(exported: dict[str, Path], tmp_path: Path) -> None:
    """An index counts in graph order, a predicate filters, and a seed gives the same node again."""
    source = exported["srcnn"]

    def tampered(which: Any = None, seed: int = 0) -> Tampering:
        return tamper_node(source, tmp_path / "tampered.onnx", which, seed=seed)

    convolutions = [
        n for n in onnx.load(str(source), load_external_data=False).graph.node if n.op_type == "Conv"
    ]
    names = [node.name for node in convolutions]
    assert [tampered(index).node for index in range(3)] == names
    assert tampered(lambda node: node.name == names[1]).node == names[1]
    assert tampered(seed=5) == tampered(seed=5)
    assert {tampered(seed=seed).node for seed in range(20)} == set(names)
    with pytest.raises(ValueError, match="3 would do"):
        tampered(3)
    with pytest.raises(ValueError, match=r"no way 'magic'.*weight, operator"):
        tamper_node(source, tmp_path / "tampered.onnx", how="magic")
