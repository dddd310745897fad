"""The workshop: what a diagnosis may run again, for how long, and on which inputs."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from alignkit import workshop as module
from alignkit.backends import OnnxRuntime
from alignkit.capture import capture_reference
from alignkit.errors import ModelError
from alignkit.export import export_model
from alignkit.instrument import Selection
from alignkit.progress import Progress
from alignkit.records import LayerRow, TapKind, Verdict
from alignkit.settings import Files, Sample, Settings
from alignkit.trial import Trial, open_trial
from alignkit.workshop import Workshop
from tests.diagnosis import Forward, compared, data, only

X = data(2, 4)


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Trial:
    """Two layers, of which the second has the maximum of the export's input baked in."""
    model = Forward(lambda m, x: m.b(m.a(x)) * x.abs().max().item(), a=nn.Linear(4, 4), b=nn.Linear(4, 4))
    path = tmp_path_factory.mktemp("workshop") / "marked.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        export_model(model, (X,), {}, path, exporter="torchscript", options={}, selection=Selection())
    settings = Settings(exporter="torchscript", run=OnnxRuntime(threads=1))
    sample = Sample((data(2, 4, seed=1),))
    reference = capture_reference(model, sample.args, {}, Selection())
    return open_trial(model, sample, Selection(), reference, path, settings)


def workshop(trial: Trial, example: Sample | None = None, progress: Progress | None = None) -> Workshop:
    files = Files(trial.marked.folder / "marked.onnx", None, example=example)
    return Workshop(trial, files, Settings(exporter="torchscript", run=OnnxRuntime(threads=1)), progress)


def test_experiments_may_take_as_long_as_the_comparison_export_apart(trial: Trial) -> None:
    """But never less than some seconds; what the experiments took themselves does not count."""
    now = [0.0]
    progress = Progress(quiet=True, clock=lambda: now[0])
    assert workshop(trial).seconds == 10.0
    for stage, seconds in {
        "export with taps": 500.0,
        "capture": 20.0,
        "run and measure": 15.0,
        "noise floor": 7.0,
        "weights": 90.0,
    }.items():
        with progress.stage(stage):
            now[0] += seconds
    assert workshop(trial, progress=progress).seconds == 42.0


def test_the_comparisons_stages_are_named_as_the_pipeline_names_them() -> None:
    """A stage that was renamed would silently count for nothing."""
    report = compared(Forward(lambda m, x: m.a(x), a=nn.Linear(4, 4)), X)
    assert set(module._COMPARISON) <= report.data.timings.keys()


def test_the_exports_own_inputs_are_asked_about_where_others_are_compared_on(trial: Trial) -> None:
    """There the baked-in number is right; on the compared ones it is not."""
    tap = "(model)#0[0]"
    with workshop(trial, Sample((X,))) as asked:
        assert asked._on_example(tap) == pytest.approx(0.0, abs=1e-6)
    found = trial.introduced(tap)
    assert found is not None
    assert np.abs(found - trial.reference.values[tap]).max() > 1e-2


def test_where_the_exports_inputs_are_compared_on_there_is_nothing_to_ask(trial: Trial) -> None:
    """The same arguments, also when only keywords tell samples apart; or no export at all."""
    assert workshop(trial, trial.sample)._on_example("a#0[0]") is None
    assert workshop(trial, None)._on_example("a#0[0]") is None
    fed_otherwise = Sample(trial.sample.args, trial.sample.kwargs, ((X,), {}))
    assert workshop(trial, fed_otherwise)._on_example("a#0[0]") is None


def test_the_reference_at_one_tap_heals_what_came_before_it_alone(trial: Trial) -> None:
    """At the output itself all of it, at a healthy layer nothing."""
    output = "(model)#0[0]"
    with workshop(trial) as asked:
        assert asked.error_left(output, output) == 0.0
        left = asked.error_left("a#0[0]", output)
        assert left is not None
        assert left > 1e-2
        assert asked.error_left("nowhere#0[0]", output) is None
        assert asked.error_left("a#0[0]", "nowhere#0[0]") is None


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
    assert module._allowed(row, values) == pytest.approx(allowed)


def test_sizes_of_the_export_that_the_compared_inputs_lack(trial: Trial) -> None:
    """Those alone can tell that a size was baked in."""
    assert workshop(trial, Sample((torch.zeros(7, 4),)))._baked() == (7,)
    assert workshop(trial, Sample((torch.zeros(2, 4),)))._baked() == ()
    assert workshop(trial, None)._baked() == ()


def test_one_eager_run_in_a_way_serves_all_culprits(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen culprits do not take sixteen runs."""
    ways: list[str] = []
    replay = module.capture_replayed

    def counted(*args: Any) -> Any:
        ways.append(args[5])
        return replay(*args)

    monkeypatch.setattr(module, "capture_replayed", counted)
    with workshop(trial) as asked:
        for _ in range(3):
            asked._replayed("eval")
            asked._replayed("torchscript")
    assert ways == ["eval", "torchscript"]


def test_an_eager_run_that_fails_is_a_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other experiments still decide, here the runtime's own inputs."""
    replay = module.capture_replayed

    def fail(*args: Any) -> Any:
        if args[5] == "torchscript":
            raise ModelError("no such branch.")
        return replay(*args)

    monkeypatch.setattr(module, "capture_replayed", fail)
    model = Forward(lambda m, x: m.a(x) * x.abs().max().item(), a=nn.Linear(4, 4))
    culprit = only(compared(model, X, inputs=data(2, 4, seed=1)))
    said = {one.name: one.reading for one in culprit.experiments}
    assert said["eager PyTorch, export flags set"] == "could not run: no such branch."
    assert culprit.cause == "trace-constant"


def test_a_file_of_its_own_is_gone_when_the_workshop_closes(
    trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the closer look failed."""
    folders: list[Path] = []

    def again(path: Path, *rest: Any) -> Path:
        folders.append(path.parent)
        raise ModelError("no second export.")

    files = Files(trial.marked.folder / "marked.onnx", None, again=again)
    with Workshop(trial, files, Settings(exporter="torchscript")) as asked:
        with pytest.raises(ModelError):
            asked._zoom(again, Selection(zoom=("b",)))
        assert folders[0].is_dir()
    assert not folders[0].exists()
