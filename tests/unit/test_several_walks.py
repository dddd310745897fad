"""Candidates and steps go through the samples several times: every time they are the same samples."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

import alignkit
from alignkit.commands.subject import load_subject
from alignkit.errors import CompareError, InputError, ModelError, PassError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's older exporter and tracer
TORCHSCRIPT = {"exporter": "torchscript"}


class Baked(nn.Linear):
    """A branch that is frozen as the example takes it: large inputs differ."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y * 2 if float(x.max()) > 5 else y


def baked() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(Baked(4, 4), nn.ReLU()).eval()


SAMPLES = (torch.ones(1, 4), 2 * torch.ones(1, 4), 9 * torch.ones(1, 4))


class Shuffled:
    """Gives its samples in another order each time, in one and the same memory."""

    def __init__(self) -> None:
        self.memory = torch.empty(1, 4)
        self.walks = 0

    def __iter__(self) -> Iterator[Tensor]:
        self.walks += 1
        for index in range(len(SAMPLES)):
            self.memory.copy_(SAMPLES[(index + self.walks) % len(SAMPLES)])
            yield self.memory


@pytest.mark.parametrize("options", [{"backend": ["ort", "reference"]}, {"passes": ["ort-optimize:basic"]}])
@pytest.mark.parametrize("inputs", [Shuffled, lambda: iter(SAMPLES)], ids=["shuffled", "once"])
def test_each_candidate_sees_every_sample(options: dict[str, list[str]], inputs: object) -> None:
    """Also where they come in another order each time, or only once."""
    given = inputs()  # type: ignore[operator]
    report = alignkit.compare(baked(), SAMPLES[0], inputs=given, **options, **TORCHSCRIPT)
    assert [row.aligned for row in report.data.candidates] == [False, False]
    assert sorted(row.aligned is True for row in report.samples) == [False, True, True]


def test_a_generator_that_a_file_holds_is_not_used_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sample that is exported with is compared as well, and comes again."""
    text = """
        import torch
        made = (torch.full((1, 4), float(n)) for n in (1, 2, 9))
        def build():
            return torch.nn.Linear(4, 4).eval()
    """
    (tmp_path / "held.py").write_text(textwrap.dedent(text))
    monkeypatch.chdir(tmp_path)
    from alignkit.cli import build_parser

    arguments = build_parser().parse_args(["compare", "held.py:build", "--inputs", "held.py:made"])
    _, example, samples = load_subject(arguments, [])
    for _ in range(2):
        assert [float(lazy.load().args[0][0, 0]) for lazy in samples] == [1, 2, 9]
    assert float(example.args[0][0, 0]) == 1


def test_a_refused_sample_hides_no_culprit() -> None:
    """The step that diverges is shown, not the one before, which merely could not take a sample."""

    def spoil(model: onnx.ModelProto) -> onnx.ModelProto:
        next(node for node in model.graph.node if node.op_type == "Relu").op_type = "Sigmoid"
        return model

    inputs = [SAMPLES[0], torch.ones(2, 5), SAMPLES[1]]
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU()).eval()
    report = alignkit.compare(model, SAMPLES[0], inputs=inputs, passes=[spoil], **TORCHSCRIPT)
    assert [row.aligned for row in report.data.candidates] == [None, False]
    assert report.culprit is not None
    assert (report.culprit.module, report.culprit.cause) == ("1", "optimizer")
    assert not any("outputs differ" in note for note in report.data.notes)


def test_what_cannot_be_joined_is_refused_in_a_line() -> None:
    """Passes on several backends, hooks on a traced module, options of another call."""
    model = nn.Sequential(nn.Linear(4, 4)).eval()
    with pytest.raises(PassError, match="one backend at a time"):
        alignkit.compare(model, SAMPLES[0], passes=["onnxslim"], backend=["ort", "reference"], **TORCHSCRIPT)
    with pytest.raises(ModelError, match="takes no hooks"):
        alignkit.Debugger(torch.jit.trace(model, SAMPLES[0]))
    with pytest.raises(InputError, match="takes no passes="):
        alignkit.Debugger(model).compare("m.onnx", SAMPLES[0], passes=["fp16"])


def test_a_sample_that_does_not_fit_does_not_calibrate() -> None:
    """The others do, and it is a row with its reason."""
    inputs = [SAMPLES[0], torch.ones(2, 5), SAMPLES[1]]
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU()).eval()
    report = alignkit.compare(model, SAMPLES[0], inputs=inputs, passes=["quantize-static"], **TORCHSCRIPT)
    assert [row.compared > 0 for row in report.data.candidates] == [True, True]


def test_the_first_sample_is_exported_where_there_is_no_example() -> None:
    """As on the command line."""
    model = nn.Sequential(nn.Linear(4, 4)).eval()
    assert alignkit.compare(model, inputs=list(SAMPLES), **TORCHSCRIPT).aligned


def test_candidates_of_a_marked_file_need_samples_that_come_again(tmp_path: Path) -> None:
    """A generator would be empty for the second one."""
    model, path = nn.Sequential(nn.Linear(4, 4)).eval(), tmp_path / "m.onnx"
    with alignkit.Debugger(model) as debugger:
        torch.onnx.export(model, (SAMPLES[0],), str(path), dynamo=False)
    with pytest.raises(CompareError, match="give a list"):
        debugger.compare(path, iter(SAMPLES), backend=["ort", "reference"])


def test_dead_layers_are_not_taken_for_one_another(tmp_path: Path) -> None:
    """Tensors of zeros identify nothing: what a later sample tells apart is no fault."""

    class Dead(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x).relu() + self.b(x).relu()

    torch.manual_seed(0)
    model, zero = Dead().eval(), torch.zeros(1, 4)
    torch.onnx.export(model, (zero,), str(tmp_path / "dead.onnx"), dynamo=False, input_names=["x"])
    file = onnx.load(tmp_path / "dead.onnx")
    names = {name: f"t{i}" for i, name in enumerate(n for node in file.graph.node[:-1] for n in node.output)}
    for index, node in enumerate(file.graph.node):
        node.name = f"n{index}"
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    onnx.save(file, tmp_path / "renamed.onnx")
    inputs = [zero, torch.from_numpy(np.ones((1, 4), np.float32))]
    assert alignkit.compare(model, zero, inputs=inputs, onnx=tmp_path / "renamed.onnx").aligned
