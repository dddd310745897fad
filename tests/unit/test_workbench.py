"""The workbench: what experiments run again, on which inputs, and how often."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from alignkit import workbench as module
from alignkit.backends import OnnxRuntime
from alignkit.errors import ModelError
from alignkit.records import LayerRow, TapKind, Verdict
from alignkit.settings import Files, Sample, Settings
from alignkit.trial import Trial
from alignkit.workbench import Workbench, allowed_error
from tests.diagnosis import Forward, baked_trial, compared, data, only

X = data(2, 4)


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Trial:
    return baked_trial(tmp_path_factory.mktemp("workbench"))


def workbench(trial: Trial, example: Sample | None = None) -> Workbench:
    files = Files(trial.marked.folder / "marked.onnx", None, example=example)
    return Workbench(trial, files, Settings(exporter="torchscript", run=OnnxRuntime(threads=1)))


def test_the_exports_own_inputs_are_asked_about_where_others_are_compared_on(trial: Trial) -> None:
    """There the baked-in number is right; on the compared ones it is not."""
    tap = "(model)#0[0]"
    assert workbench(trial, Sample((X,)))._on_example(tap) == pytest.approx(0.0, abs=1e-6)
    found = trial.introduced(tap)
    assert found is not None
    assert np.abs(found - trial.reference.values[tap]).max() > 1e-2


def test_where_the_exports_inputs_are_compared_on_there_is_nothing_to_ask(trial: Trial) -> None:
    """The same arguments, also when only keywords tell samples apart; or no export at all."""
    assert workbench(trial, trial.sample)._on_example("a#0[0]") is None
    assert workbench(trial, None)._on_example("a#0[0]") is None
    fed_otherwise = Sample(trial.sample.args, trial.sample.kwargs, ((X,), {}))
    assert workbench(trial, fed_otherwise)._on_example("a#0[0]") is None


@pytest.mark.parametrize(
    ("dtype", "floor", "allowed"),
    [
        (np.float32, 1e-6, 30e-6),
        (np.float32, None, 30 * 2.0**-23 * 2),
        (np.float16, None, 30 * 2.0**-10 * 2),
        (np.int64, None, 0.0),
        (np.bool_, None, 0.0),
    ],
)
def test_what_counts_as_rounding(dtype: Any, floor: float | None, allowed: float) -> None:
    """A measured floor, else the last place of the largest finite element; integers are exact."""
    row = LayerRow("a", "a", TapKind.MODULE, "", None, None, None, Verdict.SHAPE, noise_floor=floor)
    values = np.array([1, 3, 2]).astype(dtype)
    if dtype in (np.float32, np.float16):
        values = np.append(values, dtype("inf"))
    assert allowed_error(row, values) == pytest.approx(allowed)


def test_sizes_of_the_export_that_the_compared_inputs_lack(trial: Trial) -> None:
    """Those alone can tell that a size was baked in."""
    assert workbench(trial, Sample((torch.zeros(7, 4),)))._baked() == (7,)
    assert workbench(trial, Sample((torch.zeros(2, 4),)))._baked() == ()
    assert workbench(trial, None)._baked() == ()


def test_one_eager_run_in_a_way_serves_all_culprits(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen culprits do not take sixteen runs."""
    ways: list[str] = []
    replay = module.capture_replayed

    def counted(*args: Any, **options: Any) -> Any:
        ways.append(args[5])
        return replay(*args, **options)

    monkeypatch.setattr(module, "capture_replayed", counted)
    asked = workbench(trial)
    for _ in range(3):
        asked._replayed("eval")
        asked._replayed("torchscript")
    assert ways == ["eval", "torchscript"]


def test_an_eager_run_that_fails_is_a_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other experiments still decide, here the runtime's own inputs."""
    replay = module.capture_replayed

    def fail(*args: Any, **options: Any) -> Any:
        if args[5] == "torchscript":
            raise ModelError("no such branch.")
        return replay(*args, **options)

    monkeypatch.setattr(module, "capture_replayed", fail)
    model = Forward(lambda m, x: m.a(x) * x.abs().max().item(), a=nn.Linear(4, 4))
    culprit = only(compared(model, X, inputs=data(2, 4, seed=1)))
    said = {one.name: one.reading for one in culprit.experiments}
    assert said["eager PyTorch, export flags set"] == "could not run: no such branch."
    assert culprit.cause == "trace-constant"
