"""Causes: each is found by the experiment that decides it, and a failing one decides nothing."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

from alignkit.diagnose import causes
from alignkit.diagnose.advice import ADVICE
from alignkit.diagnose.causes import OUT_OF_TIME, find_cause
from alignkit.diagnose.model_experiments import LIKE_ONNX, OTHERWISE, UNCHANGED
from alignkit.errors import ModelError
from alignkit.records import Array, Verdict
from tests.diagnosis import Forward, Summed, X, compared, data, only, readings, run_segment, wrong_bench
from tests.repro_bench import run_onnxruntime, text_bench

NEG = "g (float[3, 4] x) => (float[3, 4] y) { y = Neg(x) }"
SCALE = "g (float[3, 4] x) => (float[3, 4] y) { y = Mul(x, w) }"
EXPORTERS = pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])


def eager(**values: Any) -> Any:
    """Eager PyTorch in other ways: ``values`` by way, what ONNX computes by default being -X."""
    return lambda way, tap: values.get(way, X)


# ---------------------------------------------------------------- training mode and random numbers
def test_batch_statistics_are_train_mode() -> None:
    """The default exporter drops BatchNorm's training flag; live dropout draws numbers of its own."""
    model = Forward(
        lambda m, x: m.b(m.drop(m.norm(m.a(x)))),
        a=nn.Linear(4, 64),
        norm=nn.BatchNorm1d(64),
        drop=nn.Dropout(),
        b=nn.Linear(64, 2),
    ).train()
    report = compared(model, data(6, 4), exporter="dynamo")
    assert [(c.module, c.cause, c.confidence) for c in report.culprits] == [
        ("norm", "train-mode", "high"),
        ("drop", "train-mode", "high"),
    ]
    norm, drop = report.culprits
    assert "in training mode: norm" in norm.evidence
    assert readings(norm)["eager PyTorch in evaluation mode"] == LIKE_ONNX
    assert readings(drop)["eager PyTorch with another seed"] == OTHERWISE


def test_a_model_in_training_mode_may_have_another_fault() -> None:
    """Training mode does not act on this value: what was baked in is what is named."""
    model = Forward(
        lambda m, x: m.b(F.relu(m.a(x))) * x.abs().max().item(),
        a=nn.Linear(4, 8),
        b=nn.Linear(8, 2),
        idle=nn.Dropout(),
    ).train()
    culprit = only(compared(model, data(6, 4), inputs=data(6, 4, seed=1)))
    assert culprit.cause == "trace-constant"
    assert readings(culprit)["eager PyTorch in evaluation mode"] == UNCHANGED


def test_a_training_layer_with_stale_weights_has_stale_weights() -> None:
    """Evaluation mode changes the value, but not to what ONNX computes: a suspicion, no proof."""
    w = np.float32(3) * np.ones((3, 4), np.float32)
    bench = wrong_bench(
        SCALE,
        2 * X,
        weights={"w": w},
        training=("(model)",),
        state=lambda: {"w": w * 0 + 2},
        eager=eager(**{**same(2 * X), "eval": 7 * X}),
    )
    assert find_cause(bench).name == "weights"


def test_a_suspicion_stands_where_nothing_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training mode acts on the value and no other question can be answered."""
    monkeypatch.setattr(ReferenceEvaluator, "run", broken)
    bench = wrong_bench(
        NEG, X, candidate=X + 5, training=("bn",), eager=eager(eval=7 * X), run=broken, run_without=broken
    )
    cause = find_cause(bench)
    assert (cause.name, cause.confidence) == ("train-mode", "low")
    assert cause.evidence == ("in training mode: bn",)


@EXPORTERS
def test_random_numbers_in_evaluation_mode_are_nondeterministic(exporter: str) -> None:
    """Another seed changes the value, although nothing is in training mode."""
    model = Forward(lambda m, x: m.a(x + torch.rand_like(x)), a=nn.Linear(4, 4))
    culprit = only(compared(model, data(2, 4), exporter=exporter))
    assert (culprit.module, culprit.cause, culprit.confidence) == ("(model)", "nondeterministic", "high")


# ---------------------------------------------------------------- export
class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if torch.onnx.is_in_onnx_export() else x * 3


@pytest.mark.parametrize(
    "branching",
    [
        Branching(),
        Forward(lambda m, x: x * 2 if torch.jit.is_tracing() else x * 3),
    ],
    ids=["is_in_onnx_export", "is_tracing"],
)
def test_a_branch_taken_in_exports_is_an_export_branch(branching: nn.Module) -> None:
    """Its module and the operation inside it are named, with the line."""
    culprit = only(compared(Forward(lambda m, x: m.b(m.a(x)), a=nn.Linear(4, 4), b=branching), data(2, 4)))
    assert (culprit.module, culprit.operation, culprit.cause) == ("b", "mul", "export-branch")
    assert culprit.confidence == "high"
    assert "x * 2 if" in (culprit.source_line or "")


def test_the_default_exporters_flags_are_its_own() -> None:
    """``torch.compiler.is_exporting`` is set by it alone."""

    def forward(m: Any, x: Tensor) -> Tensor:
        return m.a(x * 2 if torch.compiler.is_exporting() else x * 3)

    culprit = only(compared(Forward(forward, a=nn.Linear(4, 4)), data(2, 4), exporter="dynamo"))
    assert (culprit.module, culprit.operation, culprit.cause) == ("(model)", "mul", "export-branch")


def test_a_branch_that_agrees_on_the_exports_inputs_is_no_baked_constant() -> None:
    """Eager under the flags computes what ONNX does on these inputs: that is the proof."""

    def forward(m: Any, x: Tensor) -> Tensor:
        return m.a(x) * (x.abs().sign() if torch.onnx.is_in_onnx_export() else x.sign())

    model = Forward(forward, a=nn.Linear(4, 4))
    assert only(compared(model, data(2, 4).abs(), inputs=-data(2, 4).abs())).cause == "export-branch"


DYNAMIC = {"input_names": ["x"], "dynamic_axes": {"x": {0: "n"}}}


def loop(m: Any, x: Tensor) -> Tensor:
    total = torch.zeros_like(x[0])
    for i in range(x.shape[0]):
        total = total + m.a(x[i])
    return total


@pytest.mark.parametrize(
    "forward",
    [
        pytest.param(lambda m, x: m.a(x) * x.abs().max().item(), id="item"),
        pytest.param(lambda m, x: m.a(x) / len(x), id="len"),
        pytest.param(loop, id="loop"),
    ],
)
def test_a_value_of_the_exports_inputs_is_a_trace_constant(forward: Any) -> None:
    """Right on the inputs of the export, wrong on others: of other values, or of another shape."""
    model = Forward(forward, a=nn.Linear(4, 4))
    culprit = only(compared(model, data(2, 4), inputs=data(5, 4, seed=1), export_options=DYNAMIC))
    assert (culprit.module, culprit.cause, culprit.confidence) == ("(model)", "trace-constant", "high")
    assert readings(culprit)["the export's own inputs"] == "agrees with PyTorch"


def test_other_values_of_the_same_size_prove_a_constant_less_surely() -> None:
    """An operation that the exporter translates otherwise for some values only looks alike."""
    model = Forward(lambda m, x: m.a(x) * x.abs().max().item(), a=nn.Linear(4, 4))
    culprit = only(compared(model, data(2, 4), inputs=data(2, 4, seed=1)))
    assert (culprit.cause, culprit.confidence) == ("trace-constant", "medium")


def test_a_value_given_by_keyword_is_a_trace_constant_too() -> None:
    """The samples differ in their keyword arguments alone."""
    model = Forward(lambda m, x: m.a(x) * x.abs().max().item(), a=nn.Linear(4, 4))
    model.forward = lambda x: Forward.forward(model, x)  # type: ignore[method-assign,assignment]
    culprit = only(compared(model, (), {"x": data(2, 4)}, inputs={"x": data(2, 4, seed=1)}))
    assert culprit.cause == "trace-constant"


def test_a_baked_shape_is_a_trace_constant() -> None:
    """The graph computes a tensor of another shape; it holds the export's size."""
    model = Forward(lambda m, x: m.a(x).sum(1) + torch.zeros(len(x), 1), a=nn.Linear(4, 4))
    report = compared(model, data(2, 4), inputs=data(5, 4), export_options=DYNAMIC)
    culprit = only(report)
    row = next(row for row in report.layers if row.tap == culprit.tap)
    assert row.verdict is Verdict.SHAPE
    assert culprit.cause == "trace-constant"


def test_a_kernel_that_fails_on_other_shapes_is_a_trace_constant() -> None:
    """Nothing was computed, and still the export's own inputs tell."""
    model = Forward(lambda m, x: m.a(x).view(len(x), 2, 2).flatten(1), a=nn.Linear(4, 4))
    culprit = only(compared(model, data(2, 4), inputs=data(4, 4), export_options=DYNAMIC))
    assert culprit.cause == "trace-constant"
    assert any("failed in Reshape" in line for line in culprit.evidence)
    assert "it holds 2, a size of the export's inputs" in culprit.evidence
    assert readings(culprit)["ONNX Runtime, optimisation off"].startswith("could not run: ")


# ---------------------------------------------------------------- graph and runtime
def test_the_weights_are_named_with_their_difference() -> None:
    """The graph holds another version of the parameter."""
    stale, current = np.full((3, 4), 3, np.float32), np.full((3, 4), 2, np.float32)
    bench = wrong_bench(
        SCALE, 2 * X, weights={"w": stale}, state=lambda: {"w": current}, eager=eager(**same(2 * X))
    )
    cause = find_cause(bench)
    assert (cause.name, cause.confidence) == ("weights", "high")
    assert cause.experiments[-1].reading == "w differs"
    assert cause.experiments[-1].error == 1.0


def same(value: Array) -> Mapping[str, Array]:
    return dict.fromkeys(("eval", "reseeded", "dynamo"), value)


def broken(*args: Any) -> Any:
    raise RuntimeError("gave up")


def plus_one_from_basic(model: bytes, feeds: Mapping[str, Array], level: str) -> Mapping[str, Array]:
    values = run_onnxruntime(model, feeds, "disable")
    return {name: value + (level != "disable") for name, value in values.items()}


def without_constant_folding(
    model: bytes, feeds: Mapping[str, Array], names: Sequence[str]
) -> Mapping[str, Array]:
    values = run_onnxruntime(model, feeds, "disable")
    return {name: value + ("ConstantFolding" not in names) for name, value in values.items()}


def test_an_optimiser_is_named_with_its_level_and_transformer() -> None:
    """Right with optimisation off, wrong from the lowest level on, right without one transformer."""
    bench = wrong_bench(
        NEG,
        -X,
        candidate=-X + 1,
        eager=eager(**same(-X)),
        run=plus_one_from_basic,
        run_without=without_constant_folding,
    )
    cause = find_cause(bench)
    assert (cause.name, cause.confidence) == ("optimizer", "high")
    assert [one.name for one in cause.experiments[-3:]] == [
        "ONNX Runtime, optimisation off",
        "ONNX Runtime, optimisation 'basic'",
        "ONNX Runtime without ConstantFolding",
    ]


def test_a_segment_that_is_right_on_its_own_names_no_transformer() -> None:
    """Wrong within the whole alone: the optimiser, less surely, and no transformer is picked at random."""
    asked: list[Sequence[str]] = []

    def run_without(model: bytes, feeds: Mapping[str, Array], names: Sequence[str]) -> Any:
        asked.append(names)
        return run_onnxruntime(model, feeds, "all")

    cause = find_cause(
        wrong_bench(NEG, -X, candidate=-X + 1, eager=eager(**same(-X)), run_without=run_without)
    )
    assert (cause.name, cause.confidence, asked) == ("optimizer", "medium", [])
    assert cause.evidence == ("on its own the segment is right at every level",)


def test_a_wrong_kernel_is_the_runtimes_fault() -> None:
    """Another reader of the same graph computes what PyTorch does."""

    def run(model: bytes, feeds: Mapping[str, Array], level: str) -> Mapping[str, Array]:
        return {name: value + 1 for name, value in run_onnxruntime(model, feeds, level).items()}

    cause = find_cause(wrong_bench(NEG, -X, candidate=-X + 1, eager=eager(**same(-X)), run=run))
    assert (cause.name, cause.confidence) == ("runtime", "high")
    assert cause.experiments[-1].name == "ONNX reference evaluator"


def test_a_graph_that_says_something_else_is_the_exporters_fault() -> None:
    """Both readers of the graph agree with one another and not with PyTorch."""
    cause = find_cause(wrong_bench(NEG, X, eager=eager()))
    assert (cause.name, cause.confidence) == ("exporter", "high")


@pytest.mark.parametrize(
    ("expected", "name", "confidence"), [(X, "exporter", "medium"), (-X, "runtime", "medium")]
)
def test_where_the_evaluator_cannot_run_float64_decides(
    expected: Array, name: str, confidence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With less confidence: the same runtime, but other kernels."""
    monkeypatch.setattr(ReferenceEvaluator, "run", broken)

    def run(model: bytes, feeds: Mapping[str, Array], level: str) -> Mapping[str, Array]:
        wrong = feeds["x"].dtype == np.float32
        return {key: value + wrong for key, value in run_onnxruntime(model, feeds, level).items()}

    cause = find_cause(wrong_bench(NEG, expected, candidate=-X + 1, eager=eager(**same(expected)), run=run))
    assert (cause.name, cause.confidence) == (name, confidence)
    assert "gave up" in cause.experiments[-2].reading


def test_three_readers_of_three_opinions_prove_little() -> None:
    """An evaluator that is wrong itself does not clear or blame anyone with confidence."""
    cause = find_cause(wrong_bench(NEG, X, candidate=X + 5, eager=eager(), run=broken))
    assert (cause.name, cause.confidence) == ("exporter", "low")


def test_within_float_rounding_only_the_users_own_tolerance_is_exceeded() -> None:
    """Nothing is wrong with the layers: ``precision``, without an experiment on anything."""
    model = Forward(lambda m, x: m.b(m.a(x)), a=Summed(64, 64), b=Summed(64, 8))
    report = compared(model, data(8, 64), rtol=0.0, atol=1e-12)
    assert report.culprits
    assert {culprit.cause for culprit in report.culprits} == {"precision"}
    assert not compared(model, data(8, 64)).culprits


# ---------------------------------------------------------------- failures and time
def test_where_nothing_can_be_run_the_cause_is_unknown_and_the_readings_say_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every question is asked, and none of their errors escapes."""
    monkeypatch.setattr(ReferenceEvaluator, "run", broken)

    def no_forward(way: str, tap: str) -> None:
        raise ModelError(f"no forward {way}")

    bench = wrong_bench(
        NEG,
        X,
        candidate=-X,
        training=("bn",),
        run=broken,
        run_without=broken,
        state=broken,
        eager=no_forward,
        on_example=broken,
    )
    cause = find_cause(bench)
    assert (cause.name, cause.confidence) == ("unknown", "low")
    said = readings(cause)
    assert said["eager PyTorch in evaluation mode"] == "could not run: no forward eval"
    assert said["eager PyTorch, export flags set"] == "could not run: no forward dynamo"
    assert said["ONNX reference evaluator"] == "could not run: RuntimeError: gave up"
    assert said["the export's inputs"] == "could not run: RuntimeError: gave up"
    assert said["weights"] == "could not run: RuntimeError: gave up"
    assert all(one.error is None for one in cause.experiments)
    assert len(said) == 8


def test_a_question_that_fails_does_not_keep_a_later_one_from_deciding() -> None:
    """The weights cannot be read; the evaluator still decides."""
    cause = find_cause(wrong_bench(NEG, X, state=broken, eager=eager()))
    assert (cause.name, cause.confidence) == ("exporter", "high")
    assert readings(cause)["weights"] == "could not run: RuntimeError: gave up"


def test_questions_after_the_deadline_are_not_asked() -> None:
    """They stand in the table with the reason; what was found before stands."""
    cause = find_cause(wrong_bench(NEG, X, eager=broken), seconds=0.0)
    assert (cause.name, cause.confidence) == ("unknown", "low")
    assert {one.reading for one in cause.experiments} == {OUT_OF_TIME}
    assert len(cause.experiments) == len(causes._QUESTIONS)


def test_time_runs_while_questions_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first takes all of it: only the others are left out."""
    ticks = itertools.count()
    monkeypatch.setattr(causes, "countdown", lambda seconds: lambda: seconds - next(ticks))
    cause = find_cause(wrong_bench(NEG, X, eager=eager(), training=("bn",)), seconds=2.0)
    assert [one.reading for one in cause.experiments[:2]] == [UNCHANGED, UNCHANGED]
    assert {one.reading for one in cause.experiments[2:]} == {OUT_OF_TIME}


def test_the_question_being_asked_is_told() -> None:
    """A progress line can say which experiment is running."""
    told: list[str] = []

    @contextmanager
    def stage(question: str) -> Any:
        told.append(question)
        yield

    find_cause(wrong_bench(NEG, X, eager=eager()), stage)
    assert told[0] == "training mode"
    assert told[-1] == "other evaluations"


def test_there_is_advice_for_every_cause() -> None:
    """A table a reader can act on, with nothing left out."""
    assert set(ADVICE) == {
        *("exporter", "trace-constant", "train-mode", "export-branch", "runtime", "optimizer"),
        *("precision", "input", "weights", "nondeterministic", "unknown"),
    }
    assert all(text.endswith(".") for text in ADVICE.values())


def test_the_candidate_of_a_test_bench_is_what_the_runtime_computes() -> None:
    """The benches above are wrong where they say they are."""
    assert (run_segment(text_bench(NEG, {"x": X}, X, allowed=0.0)) == -X).all()
