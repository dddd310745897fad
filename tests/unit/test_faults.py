"""The fault suite's own machinery: where a node stands, what is damaged, how a report is judged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from alignkit.records import Culprit
from tests.faults.__main__ import main
from tests.faults.case import Fault, FaultCase, Prepared
from tests.faults.cases import CASES, resolve
from tests.faults.hosts import marked_file, segmenter
from tests.faults.injected import inject
from tests.faults.injectors import INJECTORS
from tests.faults.places import callers, find_place, shows
from tests.faults.score import Score, count, judge, run_case
from tests.faults.table import render_table, render_totals
from tests.zoo.case import EXPORTERS, Built

A_SCORE = Score("organic/x", "dynamo", "organic", "a", "weights", "a", "weights", True, True, 1, 0.1)


def culprit(module: str, cause: str = "exporter") -> Culprit:
    return Culprit(f"{module}#0[0]", module, "", cause, "high", (), "", ())


def prepared(*faults: Fault) -> Prepared:
    return Prepared(segmenter().model, (), faults=faults)


@pytest.fixture(scope="module")
def marked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Built, Path]:
    """The small U-Net and its export with taps."""
    folder = tmp_path_factory.mktemp("marked")
    return marked_file("unit-segmenter", segmenter, "torchscript", folder)


def test_there_are_enough_cases_of_every_kind() -> None:
    """At least forty faults and fourteen controls through each exporter, two faults at once among them."""
    for exporter in EXPORTERS:
        cases = [case for case in CASES.values() if exporter in case.exporters]
        controls = [case for case in cases if case.is_control]
        assert len(controls) >= 14
        assert len(cases) - len(controls) >= 40
    kinds = {case.kind for case in CASES.values()}
    assert kinds == {"injected", "two faults", "organic", "inputs", "weights", "runtime", "control"}
    assert all(case.why for case in CASES.values())


def test_a_node_stands_in_the_module_that_its_scope_names(marked: tuple[Built, Path]) -> None:
    """The place found by the taps is the one that the exporter wrote into the node's name."""
    built, path = marked
    model, calls = onnx.load(str(path)), callers(built)

    places = {
        node.name: place.module
        for node in model.graph.node
        if node.op_type != "Debug" and (place := find_place(model, node, calls)) is not None
    }

    for scope in ("down/down.0", "pool", "bottom/bottom.1", "up", "head"):
        found = {module for name, module in places.items() if name.startswith(f"/{scope}/")}
        assert found == {scope.rpartition("/")[2]}
    assert {module for name, module in places.items() if name.startswith("/Concat")} == {"(model)"}


@pytest.mark.parametrize("how", ["weight", "transposed", "concat", "rounding", "bias"])
def test_an_injection_is_repeatable_and_changes_one_file_only(
    how: str, marked: tuple[Built, Path], tmp_path: Path
) -> None:
    """The same seed damages the same node in the same way; the source is left as it was."""
    built, path = marked
    before = path.read_bytes()

    first = inject(built, path, tmp_path / "a.onnx", how, seed=5)
    second = inject(built, path, tmp_path / "b.onnx", how, seed=5)

    assert first == second
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes() != before
    assert path.read_bytes() == before


def test_past_the_last_node_an_injector_refuses(marked: tuple[Built, Path], tmp_path: Path) -> None:
    """Every way counts its nodes and says when there is no other."""
    for how, injector in INJECTORS.items():
        with pytest.raises(ValueError, match=r"nodes?"):
            injector(marked[1], tmp_path / f"{how}.onnx", 10_000)


def test_only_a_visible_finite_change_of_the_same_shape_counts() -> None:
    """A change below a thousandth of the scale, another shape or a NaN is no injection."""
    value = np.array([1.0, 2.0])
    assert shows([value], [value + 0.01])
    assert not shows([value], [value + 0.001])
    assert not shows([value], [value[:1]])
    assert not shows([value], [value * np.nan])


def test_the_first_culprit_must_be_the_first_fault() -> None:
    """A right module in second place is wrong; a further culprit behind the right one is not."""
    case = prepared(Fault.at("a", "exporter"))
    assert judge(case, [culprit("a"), culprit("b")], aligned=False) == (True, True)
    assert judge(case, [culprit("b"), culprit("a")], aligned=False) == (False, True)
    assert judge(case, [culprit("a", "unknown")], aligned=False) == (True, False)
    assert judge(case, [], aligned=True) == (False, False)


def test_of_two_faults_both_must_be_named() -> None:
    """One of two is half of the truth; both with their causes are all of it."""
    case = prepared(Fault.at("a", "weights"), Fault.at(("b", "c"), ("runtime", "optimizer")))
    assert judge(case, [culprit("a", "weights")], aligned=False) == (False, False)
    both = [culprit("a", "weights"), culprit("c", "optimizer")]
    assert judge(case, both, aligned=False) == (True, True)


def test_a_control_is_right_when_nothing_is_blamed() -> None:
    """Any culprit is wrong, and so is a verdict of divergence without one."""
    assert judge(prepared(), [], aligned=True) == (True, True)
    assert judge(prepared(), [], aligned=False) == (False, False)
    assert judge(prepared(), [culprit("a")], aligned=False) == (False, False)


def test_a_case_that_raises_is_wrong_and_says_so(tmp_path: Path) -> None:
    """An exception takes the place of the report; the run goes on."""

    def build(exporter: str, folder: Path) -> Prepared:
        raise ValueError("no such place")

    score = run_case(FaultCase("organic/broken", "organic", build, "it raises"), "dynamo", tmp_path)

    assert not score.module_right
    assert not score.cause_right
    assert "ValueError: no such place" in score.failure
    assert "no such place" in render_table([score])


def test_the_totals_hold_the_figures_to_reach() -> None:
    """95 % of the modules, 90 % of the causes, and no control; a control blamed spoils all."""
    no_cause = replace(A_SCORE, cause_right=False)
    control = replace(A_SCORE, kind="control", blamed=0)
    assert count([*[A_SCORE] * 18, *[no_cause] * 2, control]).reached
    assert not count([*[A_SCORE] * 17, *[no_cause] * 3, control]).reached
    assert not count([*[A_SCORE] * 18, *[replace(A_SCORE, module_right=False)] * 2]).reached
    assert not count([A_SCORE, replace(control, module_right=False)]).reached
    assert "1 of 1 (100.0%)" in render_totals(count([A_SCORE, control]))


def test_a_shift_moves_the_injected_faults_only() -> None:
    """Other seeds are other places of the same damage; every other case is as it was."""
    assert resolve("two/resnet/weight-41+epsilon-42", 100).name == "two/resnet/weight-141+epsilon-142"
    assert resolve("organic/item", 100) is CASES["organic/item"]


def test_an_unknown_case_is_refused_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    """A glob that matches nothing is wrong usage, not a run that passes."""
    assert main(["--only", "nothing/*"]) == 2
    assert "injected/" in capsys.readouterr().err
    with pytest.raises(KeyError, match="organic/item"):
        resolve("organic/nothing")
