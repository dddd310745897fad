"""Spread: a tap's figures over samples, and a sample in brief."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignkit.records import LayerRow, OutputRow, TapKind, Verdict
from alignkit.spread import Tally, describe_sample
from tests.sample_report import sample_metrics


def row(tap: str, verdict: Verdict = Verdict.OK, error: float = 1e-7, ratio: float | None = 1.0) -> LayerRow:
    metrics = sample_metrics(error)
    return LayerRow(
        tap, tap, TapKind.MODULE, "Linear", (2,), "float32", None, verdict, "", metrics, metrics, 1e-7, ratio
    )


@given(st.lists(st.floats(0, 1e3), min_size=1, max_size=20))
def test_mean_and_worst_are_those_of_the_figures(errors: list[float]) -> None:
    """The worst is at the first sample that has it."""
    tally = Tally()
    for index, error in enumerate(errors):
        tally.add([row("a#0[0]", error=error, ratio=error)], str(index))
    (spread,) = tally.close()
    assert spread.introduced is not None
    assert spread.introduced == spread.propagated == spread.noise_ratio
    assert spread.introduced.mean == pytest.approx(sum(errors) / len(errors))
    assert spread.introduced.worst == max(errors)
    assert spread.introduced.worst_sample == str(errors.index(max(errors)))


def test_a_tap_counts_where_it_was_compared() -> None:
    """In how many samples it differs, and in how many of these it is to blame."""
    verdicts = [Verdict.OK, Verdict.PROPAGATED, Verdict.INTRODUCED, Verdict.NONFINITE, Verdict.SKIPPED]
    tally = Tally()
    for verdict in verdicts:
        tally.add([row("a#0[0]", verdict)], verdict.value)
    (spread,) = tally.close()
    assert (spread.compared, spread.differs, spread.introduces) == (4, 3, 2)


def test_a_figure_that_was_never_measured_is_none() -> None:
    """And does not count where others have it."""
    tally = Tally()
    tally.add([replace(row("a#0[0]"), introduced=None, noise_ratio=None)], "first")
    assert tally.close()[0].introduced is None
    tally.add([row("a#0[0]", error=2.0)], "second")
    (spread,) = tally.close()
    assert spread.introduced is not None
    assert (spread.introduced.mean, spread.introduced.worst_sample) == (2.0, "second")
    assert spread.propagated is not None
    assert spread.propagated.mean == pytest.approx(1.0, rel=1e-6)


def test_taps_keep_the_order_in_which_they_were_met() -> None:
    """Those that only a later sample passes come behind."""
    tally = Tally()
    tally.add([row("b#0[0]"), row("a#0[0]")], "first")
    tally.add([row("a#0[0]"), row("c#0[0]")], "second")
    assert [spread.tap for spread in tally.close()] == ["b#0[0]", "a#0[0]", "c#0[0]"]


def test_a_sample_in_brief_names_the_tap_to_blame() -> None:
    """One that introduces comes before one that merely differs, wherever they stand."""
    rows = [row("a#0[0]", Verdict.PROPAGATED), row("b#0[0]", Verdict.INTRODUCED, ratio=50.0), row("c#0[0]")]
    output = OutputRow("y", "c#0[0]", (2,), "float32", Verdict.PROPAGATED, plain=sample_metrics(0.5))
    brief = describe_sample("s", rows, [output], {"x": (2, 4)}, False)
    assert (brief.tap, brief.worst_tap, brief.worst_ratio) == ("b#0[0]", "b#0[0]", 50.0)
    assert (brief.output_error, brief.shapes, brief.aligned) == (0.5, {"x": (2, 4)}, False)
    assert describe_sample("s", rows[:1], [], {}, True).tap == "a#0[0]"
    assert describe_sample("s", rows[2:], [], {}, True).tap is None


def test_where_no_number_says_how_bad_it_is_none_is_shown() -> None:
    """Another shape has no ratio, and a healthy layer's would mislead."""
    rows = [row("a#0[0]"), row("b#0[0]", Verdict.SHAPE, ratio=None)]
    assert describe_sample("s", rows, [], {}, False).worst_ratio is None


def test_an_output_that_does_not_come_gives_its_reason() -> None:
    """The row of the sample says why."""
    output = OutputRow("y", "c#0[0]", None, None, Verdict.MISSING, "the file does not run")
    assert describe_sample("s", [row("a#0[0]")], [output], {}, False).reason == "the file does not run"
