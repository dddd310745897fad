"""Fusions: a deployed file that is wrong as a whole is questioned, and the tap inside the fault found."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from alignkit.backends import onnxruntime
from alignkit.backends.onnxruntime import OnnxRuntime, Session
from alignkit.capture import capture_reference
from alignkit.diagnose import Fusion
from alignkit.errors import BackendError
from alignkit.export import export_model
from alignkit.fusion import question_fusion
from alignkit.instrument import Selection
from alignkit.records import OutputRow, Verdict
from alignkit.settings import Sample, Settings
from alignkit.trial import Trial, open_trial
from tests.diagnosis import Forward, compared, data

RUN = OnnxRuntime(threads=1)
OUTPUT = OutputRow(
    "y", "(model)#0[0]", (2, 4), "float32", Verdict.PROPAGATED, observer_effect=True, noise_floor=1e-6
)
Spoils = Callable[[OnnxRuntime, Collection[str]], bool]


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Trial:
    """Four layers in a row, tapped at each."""
    layers = nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(4)))
    model, x = Forward(lambda m, x: m.layers(x), layers=layers), data(2, 4)
    path = tmp_path_factory.mktemp("fusion") / "marked.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        export_model(model, (x,), {}, path, exporter="torchscript", options={}, selection=Selection())
        export_model(
            model, (x,), {}, path.with_name("plain.onnx"), exporter="torchscript", options={}, selection=None
        )
    reference = capture_reference(model, (x,), {}, Selection())
    return open_trial(
        model, Sample((x,)), Selection(), reference, path, Settings(exporter="torchscript", run=RUN)
    )


def plain_of(trial: Trial) -> Path:
    return trial.marked.folder / "plain.onnx"


def questioned(
    trial: Trial,
    monkeypatch: pytest.MonkeyPatch,
    spoils: Spoils,
    *,
    run: OnnxRuntime = RUN,
    seconds: float = 600.0,
) -> Fusion:
    """Ask in a runtime that spoils its last output where ``spoils`` says so of the settings and of the
    values that are exposed."""

    last = value_at(trial, OUTPUT.tap)

    class Spoiling(Session):
        def __init__(self, model: Path | bytes, settings: OnnxRuntime, *where: Any) -> None:
            super().__init__(model, settings, *where)
            self._spoilt = (settings, self.outputs[-1:] if isinstance(model, Path) else [last])

        def run(self, feeds: Any, names: Any = None) -> dict[str, Any]:
            values = super().run(feeds, names)
            settings, outputs = self._spoilt
            if spoils(settings, values.keys()):
                values.update({name: values[name] + 1 for name in outputs})
            return values

    monkeypatch.setattr(onnxruntime, "Session", Spoiling)
    return question_fusion(trial, plain_of(trial), run, OUTPUT, seconds)


def value_at(trial: Trial, tap: str) -> str:
    """The ONNX value that a tap observes, behind any chain of taps."""
    inflow = {debug.outflow: debug.inflow for debug in trial.marked.debugs}
    value = next(debug.inflow for debug in trial.marked.debugs if debug.tap == tap)
    while value in inflow:
        value = inflow[value]
    return value


def optimised(settings: OnnxRuntime, without: str = "") -> bool:
    return settings.optimization != "disable" and without not in settings.disabled_optimizers


@pytest.mark.parametrize("tap", ["layers.0.0#0[0]", "layers.1#0[0]", "layers.2.0#0[0]"])
def test_the_tap_that_splits_the_fusion_and_the_transformer_are_named(
    tap: str, trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Right with optimisation off, without one transformer, and with that one value exposed."""
    split = value_at(trial, tap)
    found = questioned(
        trial,
        monkeypatch,
        lambda settings, exposed: optimised(settings, "GemmActivationFusion") and split not in exposed,
    )
    assert found.heals
    assert found.tap is not None
    assert value_at(trial, found.tap) == split
    assert [(one.name, one.reading) for one in found.experiments] == [
        ("the deployed file, optimisation off", "is right"),
        ("the deployed file without GemmActivationFusion", "is right"),
    ]


def test_where_no_tap_heals_it_none_is_named(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    """The transformer is known all the same."""
    found = questioned(trial, monkeypatch, lambda settings, exposed: optimised(settings, "ConstantFolding"))
    assert (found.heals, found.tap) == (True, None)
    assert found.experiments[-1].name == "the deployed file without ConstantFolding"


def test_the_users_own_disabled_optimizers_stay_disabled(
    trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is asked of the file is asked of the product's own settings."""
    seen: list[tuple[str, ...]] = []

    def spoils(settings: OnnxRuntime, exposed: Collection[str]) -> bool:
        if settings.optimization != "disable":
            seen.append(settings.disabled_optimizers)
        return optimised(settings, "ConstantFolding")

    questioned(trial, monkeypatch, spoils, run=replace(RUN, disabled_optimizers=("PadFusion",)))
    assert seen
    assert all(names[0] == "PadFusion" for names in seen)


def test_a_file_that_is_wrong_without_optimisation_too_is_no_fusions_fault(
    trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One experiment says so; nothing is bisected."""
    found = questioned(trial, monkeypatch, lambda settings, exposed: True)
    assert (found.heals, found.tap) == (False, None)
    assert [one.reading for one in found.experiments] == ["is wrong as well"]


def test_a_file_that_does_not_run_is_a_reading(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not an exception."""

    def fail(*args: Any) -> Any:
        raise BackendError("no memory")

    monkeypatch.setattr(onnxruntime, "Session", fail)
    found = question_fusion(trial, plain_of(trial), RUN, OUTPUT)
    assert (found.heals, found.tap) == (False, None)
    assert [one.reading for one in found.experiments] == ["could not run: no memory"]


def test_out_of_time_it_answers_with_what_it_has(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    """Optimisation off heals; more transformers than it takes are named, and no tap."""
    split = value_at(trial, "layers.1#0[0]")
    found = questioned(
        trial,
        monkeypatch,
        lambda settings, exposed: optimised(settings, "PadFusion") and split not in exposed,
        seconds=0.0,
    )
    assert (found.heals, found.tap) == (True, None)
    assert "PadFusion" in found.experiments[-1].name
    assert "ConstantFolding" in found.experiments[-1].name


def test_without_a_deployed_file_nothing_is_asked(trial: Trial) -> None:
    """A file that was compared through its taps only."""
    assert question_fusion(trial, None, RUN, OUTPUT) == Fusion((), False)


def test_the_report_moves_the_culprit_to_the_tap_inside_the_fusion(monkeypatch: pytest.MonkeyPatch) -> None:
    """With its module and its line, and what the tap does as evidence."""
    model = Forward(lambda m, x: m.b(m.a(x)), a=nn.Linear(4, 4), b=nn.Tanh())
    run = Session.run

    def spoilt(self: Session, feeds: Any, names: Any = None) -> dict[str, Any]:
        """Only the plain file has a single output, and only it is spoilt."""
        values = run(self, feeds, names)
        return {name: value + np.float32(1) for name, value in values.items()} if len(values) == 1 else values

    monkeypatch.setattr(Session, "run", spoilt)
    monkeypatch.setattr("alignkit.workshop.question_fusion", lambda *args: Fusion((), True, "a#0[0]"))
    report = compared(model, data(2, 4))
    (culprit,) = report.culprits
    assert (culprit.tap, culprit.module, culprit.cause, culprit.confidence) == (
        "a#0[0]",
        "a",
        "optimizer",
        "high",
    )
    assert (
        "a tap at a#0[0] alone turns it right: the fusion that spoils it spans that value" in culprit.evidence
    )
    assert culprit.source_line is not None
    assert "m.b(m.a(x))" in culprit.source_line
