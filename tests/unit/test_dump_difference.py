"""Two dumps become a report: joined by name, judged in any tier, and blamed only where that is fair."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from alignkit.dump import About, Dump, DumpedTap, compare_dumps, read_dump, write_dump
from alignkit.dump.records import FULL, STATISTICS
from alignkit.errors import CompareError
from alignkit.records import Array, ReportData, Source, TapKind, Verdict
from alignkit.report import Report
from alignkit.report.renderers import RENDERERS
from alignkit.tolerance import Tolerances

X = {"x": np.linspace(0, 1, 4, dtype=np.float32)}
CHAIN = {
    "a": np.linspace(-1, 1, 600, dtype=np.float32).reshape(20, 30),
    "b": np.linspace(1, 2, 600, dtype=np.float32),
    "c": np.array([1, 2, 3], np.int64),
}
Dumper = Callable[..., Dump]
TIER_PAIRS = [(one, other) for one in (FULL, STATISTICS) for other in (FULL, STATISTICS)]


@pytest.fixture
def dumped(tmp_path: Path) -> Dumper:
    """``dumped(arrays, taps=…, …)`` writes a dump and opens it."""

    def dump(
        arrays: Mapping[str, Array],
        taps: tuple[DumpedTap, ...] | None = None,
        inputs: Mapping[str, Array] = X,
        tier: str = FULL,
        **about: object,
    ) -> Dump:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.safetensors"
        entries = taps or tuple(DumpedTap(name) for name in arrays)
        tensors = {f"tap/{name}": value for name, value in arrays.items()}
        tensors.update({f"input/{name}": value for name, value in inputs.items()})
        given = tuple(DumpedTap(name) for name in inputs)
        write_dump(path, About(tier, taps=entries, inputs=given, **about), tensors.items())  # type: ignore[arg-type]
        return read_dump(path)

    return dump


def verdicts(report: ReportData) -> dict[str, Verdict]:
    return {row.tap: row.verdict for row in report.layers}


def changed(name: str, by: float) -> dict[str, Array]:
    return {**CHAIN, name: CHAIN[name] + CHAIN[name].dtype.type(by)}


@pytest.mark.parametrize(("one", "other"), TIER_PAIRS)
def test_equal_runs_are_aligned_in_every_tier(dumped: Dumper, one: str, other: str) -> None:
    """And the report says that its errors are propagated ones."""
    report = compare_dumps(dumped(CHAIN, tier=one), dumped(CHAIN, tier=other), Tolerances())
    assert report.aligned
    assert report.coverage.compared == 3
    assert "errors are propagated" in report.notes[0]
    assert all(row.introduced is None for row in report.layers)
    assert any("Compared by statistics" in note for note in report.notes) == (STATISTICS in (one, other))


@pytest.mark.parametrize(("one", "other"), TIER_PAIRS)
@pytest.mark.parametrize(("name", "by"), [("a", 1e-2), ("b", 1e-3), ("c", 1)])
def test_a_changed_tap_differs_in_every_tier(
    dumped: Dumper, one: str, other: str, name: str, by: float
) -> None:
    """Floats beyond tolerance, integers by one; the others stay right, and the first is where it starts."""
    report = compare_dumps(dumped(CHAIN, tier=one), dumped(changed(name, by), tier=other), Tolerances())
    assert not report.aligned
    expected = {tap: Verdict.PROPAGATED if tap == name else Verdict.OK for tap in CHAIN}
    assert verdicts(report) == expected
    (culprit,) = report.culprits
    assert (culprit.tap, culprit.cause, culprit.confidence) == (name, "unknown", "low")
    assert culprit.evidence[0].startswith("first tap in order that differs beyond tolerance; ")


def test_full_tensors_give_every_metric(dumped: Dumper) -> None:
    """As in any other report, a histogram included."""
    report = compare_dumps(dumped(CHAIN), dumped(changed("a", 0.5)), Tolerances())
    error = report.layers[0].propagated
    assert error is not None
    assert error.max_abs == pytest.approx(0.5)
    assert None not in (error.cosine, error.sqnr_db, error.max_rel, error.mean_abs, error.ulp_max)
    assert (error.mismatched, error.worst_index is None) == (1.0, False)
    assert [histogram.tap for histogram in report.histograms] == ["a"]


def test_statistics_say_what_they_rest_on(dumped: Dumper) -> None:
    """A row names its estimate and what stays possible; figures that nobody knows are None."""
    report = compare_dumps(dumped(CHAIN, tier=STATISTICS), dumped(changed("a", 0.5)), Tolerances())
    row = report.layers[0]
    assert row.propagated is not None
    assert row.reason.startswith("by statistics: rms error about 0.")
    assert (row.propagated.cosine, row.propagated.ulp_max, row.propagated.worst_index) == (None, None, None)
    assert report.layers[1].reason == "the same bit for bit, by its digest"
    assert report.histograms == []


def test_tolerances_of_the_user_judge(dumped: Dumper) -> None:
    """Both ways, in both tiers."""
    for tier in (FULL, STATISTICS):
        sides = dumped(CHAIN, tier=tier), dumped(changed("a", 1e-3), tier=tier)
        assert compare_dumps(*sides, Tolerances(atol=1e-2)).aligned
        assert not compare_dumps(*sides, Tolerances(atol=1e-4)).aligned
        assert compare_dumps(*sides, Tolerances(by_name={"a": (0.0, 1e-2)})).aligned


def test_missing_taps_are_rows(dumped: Dumper) -> None:
    """On either side, in the reference's order, those of the candidate last."""
    taps = (DumpedTap("a"), DumpedTap("gone", absent="a nested tensor has no array"), DumpedTap("left"))
    left = dumped({"a": CHAIN["a"], "left": CHAIN["b"]}, taps)
    right = dumped({"right": CHAIN["b"], "a": CHAIN["a"], "gone": CHAIN["b"]})
    report = compare_dumps(left, right, Tolerances())
    assert [(row.tap, row.verdict.value, row.reason) for row in report.layers] == [
        ("a", "ok", ""),
        ("gone", "skipped", "a nested tensor has no array"),
        ("left", "missing", "in the reference dump only"),
        ("right", "missing", "in the candidate dump only"),
    ]
    assert report.aligned
    assert (report.coverage.compared, report.coverage.not_compared) == (1, 3)


@pytest.mark.parametrize("tier", [FULL, STATISTICS])
def test_what_cannot_be_subtracted_has_its_own_verdict(dumped: Dumper, tier: str) -> None:
    """Another shape, another kind of dtype, NaN on one side."""
    spoilt = {
        "a": CHAIN["a"].T,
        "b": np.where(np.arange(600) == 3, np.nan, CHAIN["b"]).astype(np.float32),
        "c": CHAIN["c"].astype(np.float32),
    }
    report = compare_dumps(dumped(CHAIN, tier=tier), dumped(spoilt, tier=tier), Tolerances())
    assert verdicts(report) == {"a": Verdict.SHAPE, "b": Verdict.NONFINITE, "c": Verdict.DTYPE}
    reasons = [row.reason for row in report.layers]
    assert reasons[0] == "shape [30, 20] in the candidate, [20, 30] in the reference"
    assert reasons[1].startswith("of 600 elements, NaN or infinite: 0 in the reference, 1 in the candidate")
    assert reasons[2] == "float32 in the candidate, int64 in the reference"


def test_no_common_tap_is_an_error(dumped: Dumper) -> None:
    """It names some of both sides, since names are what it hangs on."""
    with pytest.raises(CompareError, match=r"have no tap in common: a, b …, but y …; .*by name alone"):
        compare_dumps(dumped({"a": X["x"], "b": X["x"]}), dumped({"y": X["x"]}), Tolerances())


def test_nothing_compared_is_an_error(dumped: Dumper) -> None:
    """A pass over nothing would be no pass."""
    taps = (DumpedTap("a", absent="a sparse tensor has no dense array"), DumpedTap("b"))
    left, right = dumped({"b": X["x"]}, taps), dumped({"a": X["x"]})
    with pytest.raises(CompareError, match="no tap could be compared: skipped: a sparse tensor"):
        compare_dumps(left, right, Tolerances())


@pytest.mark.parametrize("tier", [FULL, STATISTICS])
@pytest.mark.parametrize("other", [X["x"] * 2, X["x"][:2], X["x"].astype(np.int64)])
def test_different_inputs_are_an_error(dumped: Dumper, tier: str, other: Array) -> None:
    """Then no layer is to blame for anything."""
    left, right = dumped(CHAIN, tier=tier), dumped(CHAIN, inputs={"x": other}, tier=tier)
    with pytest.raises(CompareError, match="the two runs were fed different inputs: 'x' differs"):
        compare_dumps(left, right, Tolerances())


def test_inputs_that_differ_by_rounding_are_a_note(dumped: Dumper) -> None:
    """As those of a float64 pipeline do beside float32."""
    wide = np.linspace(0, 1, 4) / 3
    sides = [dumped(CHAIN, inputs={"x": values}) for values in (wide, wide.astype(np.float32))]
    report = compare_dumps(*sides, Tolerances())
    assert any("Input 'x' differs between the runs by rounding" in note for note in report.notes)


def test_inputs_of_other_names_are_a_note(dumped: Dumper) -> None:
    """They cannot be compared; a difference in the first tap is then nobody's."""
    left, right = dumped(CHAIN), dumped(changed("a", 1), inputs={"input.1": X["x"]})
    report = compare_dumps(left, right, Tolerances())
    assert any("no name in common (x and input.1)" in note for note in report.notes)
    assert report.culprits == ()
    assert any("the inputs were not compared, so it may start earlier" in note for note in report.notes)


def test_the_start_is_named_by_what_it_reads(dumped: Dumper) -> None:
    """Taps before it that were not compared do not matter where it does not read them."""
    taps = (
        DumpedTap("a", reads=()),
        DumpedTap("lonely", reads=()),
        DumpedTap("hidden", reads=("a",), absent="strings are no numbers"),
        DumpedTap("b", reads=("hidden",), op="Gemm", onnx_node="/b/Gemm", owner="head",
                  source=Source("net.py:3", "b = f(a)")),
    )  # fmt: skip
    left = dumped({**CHAIN, "lonely": X["x"]}, taps)
    (culprit,) = compare_dumps(left, dumped(changed("b", 1)), Tolerances()).culprits
    assert culprit.evidence == ("first tap in order that differs beyond tolerance; its inputs agree (a)",)
    assert (culprit.tap, culprit.module, culprit.op, culprit.onnx_nodes) == (
        "b",
        "head",
        "Gemm",
        ("/b/Gemm",),
    )
    assert (culprit.source, culprit.source_line) == ("net.py:3", "b = f(a)")


def test_the_start_is_not_named_behind_what_nobody_saw(dumped: Dumper) -> None:
    """It may lie in a tap that was not compared; a note says which differs first."""
    left = dumped({"hidden": X["x"], **CHAIN})
    report = compare_dumps(left, dumped(changed("b", 1)), Tolerances())
    assert report.culprits == ()
    assert not report.aligned
    expected = "The first tap that differs is b; 1 of the 2 taps before it were not compared"
    assert any(note.startswith(expected) for note in report.notes)


def test_a_tap_of_the_inputs_alone(dumped: Dumper) -> None:
    """It may be the start, since the inputs agree."""
    left = dumped(CHAIN, (DumpedTap("a", reads=()), DumpedTap("b"), DumpedTap("c")))
    (culprit,) = compare_dumps(left, dumped(changed("a", 1)), Tolerances()).culprits
    assert "computed from the model's inputs alone, which agree" in culprit.evidence[0]


def test_outputs_are_those_that_both_have(dumped: Dumper) -> None:
    """One that the candidate lacks is a note."""
    report = compare_dumps(dumped(CHAIN, outputs=("b", "c")), dumped({"b": CHAIN["b"]}), Tolerances())
    assert [row.name for row in report.outputs] == ["b"]
    assert any("Output 'c' of the reference is not among" in note for note in report.notes)


def test_input_taps_that_repeat_are_left_out(dumped: Dumper) -> None:
    """As in any report; but not where one side saw another tensor there."""
    same = (DumpedTap("a#0[0]"), DumpedTap("b#0:in[0]", tensor="tap/a#0[0]"))
    own = tuple(replace(tap, tensor="") for tap in same)
    arrays = {tap.name: CHAIN["a"] for tap in same}
    once, twice = dumped({"a#0[0]": CHAIN["a"]}, same), dumped(arrays, own)
    assert list(verdicts(compare_dumps(once, once, Tolerances()))) == ["a#0[0]"]
    rows = compare_dumps(once, twice, Tolerances()).layers
    assert [row.kind for row in rows] == [TapKind.MODULE, TapKind.INPUT]


@pytest.mark.parametrize("tier", [FULL, STATISTICS])
def test_every_renderer_takes_the_report(dumped: Dumper, tier: str, tmp_path: Path) -> None:
    """And it can be saved and loaded again."""
    about = {"outputs": ("b",), "producer": "numpy", "versions": {"numpy": "2"}, "notes": ("random",)}
    left = dumped(CHAIN, **about)
    report = Report(compare_dumps(left, dumped(changed("a", 1), tier=tier, **about), Tolerances()))
    for name in RENDERERS:
        assert report.render(name)
    assert "DIVERGED: error starts at a" in str(report)
    assert "From the reference dump: random" in report.notes
    report.save(tmp_path / "report")
    assert Report.load(tmp_path / "report").to_dict() == report.to_dict()


def test_dumps_of_one_name_are_told_apart(dumped: Dumper, tmp_path: Path) -> None:
    """By the folders that they lie in."""
    for where in ("before", "after"):
        (tmp_path / where).mkdir()
        shutil.copy(dumped(CHAIN).path, tmp_path / where / "run.safetensors")
    sides = (read_dump(tmp_path / where / "run.safetensors") for where in ("before", "after"))
    said = compare_dumps(*sides, Tolerances()).environment
    assert said["reference"].startswith("before/run.safetensors (")
    assert said["candidate"].startswith("after/run.safetensors (")
