"""Surveys: every sample of a data set judged as it would be alone, in the memory of one."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import alignkit
from alignkit.errors import AlignkitError, CompareError, InputError
from alignkit.report import Report
from alignkit.survey import keep_inputs
from tests.diagnosis import Forward, Summed, data
from tests.zoo.plain import quiet_exporter


class Ceiling(nn.Module):
    """Computes something else in the file wherever a value is beyond 2."""

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(max=2.0) if torch.onnx.is_in_onnx_export() else x + 0.0


class Capped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cap, self.last = Ceiling(), nn.Linear(4, 3)

    def forward(self, x: Tensor, k: Tensor | None = None) -> Tensor:
        result: Tensor = self.last(self.cap(x))
        return result


def capped() -> nn.Module:
    torch.manual_seed(0)
    return Capped().eval()


def compare(model: nn.Module, inputs: Any, **options: Any) -> Report:
    return alignkit.compare(model, data(2, 4).clamp(-1, 1), inputs=inputs, exporter="torchscript", **options)


def low(seed: int) -> Tensor:
    return data(2, 4, seed=seed).clamp(-1, 1)


HIGH = torch.full((2, 4), 3.0)


@pytest.fixture(scope="module")
def report() -> Report:
    """Ten samples through a generator, of which number 7 alone shows the fault."""
    return compare(capped(), (HIGH if i == 7 else low(i) for i in range(10)))


def test_the_one_sample_that_fails_is_named_and_shown(report: Report) -> None:
    """In the verdict, in its row, and by all the layers of the report."""
    assert not report.aligned
    assert repr(report).startswith("<Report DIVERGED: 1 of 10 samples fails: sample 7, error starts at cap")
    failing = [row for row in report.samples if not row.aligned]
    assert [(row.name, row.tap) for row in failing] == [("sample 7", "cap#0[0]")]
    assert report.culprit is not None
    assert (report.culprit.tap, report.culprit.cause) == ("cap#0[0]", "export-branch")
    assert report.data.settings["shown"] == "sample 7"


def test_the_figures_are_those_of_all_samples(report: Report) -> None:
    """The layer to blame is wrong in one of ten, by 1 there and by nothing elsewhere."""
    spread = next(one for one in report.spreads if one.tap == "cap#0[0]")
    assert (spread.compared, spread.differs, spread.introduces) == (10, 1, 1)
    assert spread.introduced is not None
    assert (spread.introduced.worst, spread.introduced.worst_sample) == (1.0, "sample 7")
    assert spread.introduced.mean == pytest.approx(0.1)
    assert {row.shapes["x"] for row in report.samples} == {(2, 4)}


def test_the_worst_sample_is_kept(report: Report) -> None:
    """By the forward's own names, beside what was exported with."""
    kept = report.data.kept_inputs
    assert kept.keys() == {"worst_sample.npz", "example.npz"}
    np.testing.assert_array_equal(kept["worst_sample.npz"]["x"], HIGH.numpy())


def flips() -> nn.Module:
    """Rounds what a layer gives: in the file another whole number now and then, and nobody's fault."""
    torch.manual_seed(0)
    return Forward(lambda m, x: torch.round(m.b(m.a(x)) * 1e5), a=Summed(64, 64), b=Summed(64, 64))


def healthy() -> nn.Module:
    torch.manual_seed(0)
    a, b = nn.Linear(64, 64), nn.Linear(64, 8)
    return Forward(lambda m, x: m.b(m.a(x).tanh()).softmax(-1), a=a, b=b)


def cut() -> nn.Module:
    """Wrong in the file where a value is large, through every layer behind it."""
    torch.manual_seed(0)
    return Forward(
        lambda m, x: m.b(m.cap(m.a(x) * 2)), a=nn.Linear(64, 64), cap=Ceiling(), b=nn.Linear(64, 8)
    )


@pytest.mark.parametrize("build", [healthy, flips, cut])
def test_a_sample_is_judged_as_it_would_be_alone(build: Callable[[], nn.Module]) -> None:
    """Aligned or not, with float64 runs or without."""
    inputs = [data(4, 64, seed=i) * (0.2 + 0.3 * i) for i in range(5)]
    together = alignkit.compare(build(), inputs[0], inputs=inputs, exporter="torchscript")
    alone = [alignkit.compare(build(), inputs[0], inputs=x, exporter="torchscript") for x in inputs]
    assert [row.aligned for row in together.samples] == [one.aligned for one in alone]
    assert together.aligned is all(one.aligned for one in alone)
    if build is cut:
        assert {row.aligned for row in together.samples} == {True, False}


def test_one_sample_is_held_at_a_time() -> None:
    """Besides it the worst so far (a copy), whatever their number."""
    alive: list[weakref.ref[Tensor]] = []
    most = 0

    def generate() -> Iterator[Tensor]:
        nonlocal most
        for i in range(6):
            most = max(most, sum(ref() is not None for ref in alive))
            x = low(i)
            alive.append(weakref.ref(x))
            yield x
            del x

    assert compare(capped(), generate()).aligned
    assert len(alive) == 6
    assert most == 0, "when a sample is asked for, none of those before is held"


def test_a_buffer_that_is_written_again_keeps_the_worst_sample() -> None:
    """A loader may give every sample in the same memory."""
    buffer = torch.empty(2, 4)

    def generate() -> Iterator[Tensor]:
        for i in range(4):
            yield buffer.copy_(HIGH if i == 1 else low(i))

    found = compare(capped(), generate())
    assert [row.aligned for row in found.samples] == [True, False, True, True]
    np.testing.assert_array_equal(found.data.kept_inputs["worst_sample.npz"]["x"], HIGH.numpy())
    assert not any("run again" in note for note in found.notes)


def test_a_sample_that_cannot_be_compared_is_a_row() -> None:
    """Its reason is there, the others are compared, and the whole is neither aligned nor diverged."""
    inputs = [torch.ones(2, 5), low(1), torch.ones(3, 4), low(2)]
    found = compare(capped(), inputs)
    assert [row.aligned for row in found.samples] == [None, True, None, True]
    assert "forward raises" in found.samples[0].reason
    assert "the ONNX graph takes [2, 4]" in found.samples[2].reason
    assert not found.aligned
    assert repr(found).startswith("<Report INCONCLUSIVE: 2 of 4 samples could not be compared (sample 0)")
    assert found.culprits == ()


def test_where_nothing_could_be_compared_it_is_an_error() -> None:
    """Of one sample its own, of several the first one's with their number."""
    with pytest.raises(AlignkitError, match="forward raises"):
        compare(capped(), [torch.ones(2, 5)])
    with pytest.raises(
        CompareError, match=r"none of 2 samples could be compared\. The first, sample 0: the mo"
    ):
        compare(capped(), [torch.ones(2, 5), torch.ones(2, 6)])
    with pytest.raises(CompareError, match="inputs is empty"):
        compare(capped(), iter([]))
    with pytest.raises(CompareError, match=r"none of 2 samples.*the ONNX graph takes \[2, 4\]"):
        compare(capped(), iter([torch.ones(3, 4), torch.ones(5, 4)]))


def test_a_generator_that_fails_loses_nothing_before_it() -> None:
    """What came before is in the report; the end is a row."""

    def generate() -> Iterator[Tensor]:
        yield low(0)
        yield HIGH
        raise OSError("the disk is gone")

    found = compare(capped(), generate())
    assert [row.aligned for row in found.samples] == [True, False, None]
    assert "the disk is gone" in found.samples[-1].reason


def test_a_data_set_of_one_sample_is_that_sample() -> None:
    """Also where that shows only at its end: no row of samples, no statistics."""
    found = compare(capped(), iter([low(1)]))
    assert found.aligned
    assert (found.samples, found.spreads) == ((), ())


def test_the_debugger_takes_a_data_set_as_well(tmp_path: Any) -> None:
    """Around the user's own export call."""
    model = capped()
    with quiet_exporter(), alignkit.Debugger(model) as debugger:
        torch.onnx.export(model, (low(0),), str(tmp_path / "m.onnx"), dynamo=False)
    found = debugger.compare(tmp_path / "m.onnx", (x for x in (low(1), HIGH)))
    assert [row.aligned for row in found.samples] == [True, False]


def test_a_file_without_taps_takes_a_data_set_as_well(tmp_path: Any) -> None:
    """Mapped on its first sample."""
    model = capped()
    with quiet_exporter():
        torch.onnx.export(model, (low(0),), str(tmp_path / "m.onnx"), dynamo=False)
    found = compare(model, [low(1), HIGH, low(2)], onnx=tmp_path / "m.onnx")
    assert [row.aligned for row in found.samples] == [True, False, True]
    assert found.data.settings["shown"] == "sample 1"


def test_inputs_that_a_file_cannot_hold_are_not_kept() -> None:
    """More than tensors, or a type that numpy does not know; positional ones without a name are counted."""
    model = capped()
    named = keep_inputs(model, alignkit.Sample((data(2, 4),), {"k": data(1)}), None)
    assert named["worst_sample.npz"].keys() == {"x", "k"}
    counted = keep_inputs(healthy(), alignkit.Sample((data(2, 4), data(2, 4))), None)
    assert counted["worst_sample.npz"].keys() == {"arg0", "arg1"}
    for args in (((data(2, 4), data(2, 4)),), (data(2, 4).bfloat16(),), (data(2, 4), None)):
        assert keep_inputs(model, alignkit.Sample(args), None) == {}


def test_pairs_of_generators_that_differ_in_number() -> None:
    """One line, though it shows only at the end."""
    with pytest.raises(InputError, match="differ in their number"):
        compare(capped(), iter([low(0), low(1)]), candidate_inputs=iter([low(0)]))
