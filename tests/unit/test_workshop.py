"""The workshop: what a diagnosis may run again, and for how long."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import nn

from alignkit import workshop as module
from alignkit.backends import OnnxRuntime
from alignkit.errors import ModelError
from alignkit.instrument import Selection
from alignkit.progress import Progress
from alignkit.settings import Files, Settings
from alignkit.trial import Trial
from alignkit.workshop import Workshop
from tests.diagnosis import Forward, baked_trial, compared, data

X = data(2, 4)


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Trial:
    return baked_trial(tmp_path_factory.mktemp("workshop"))


def workshop(trial: Trial, progress: Progress | None = None) -> Workshop:
    files = Files(trial.marked.folder / "marked.onnx", None)
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
