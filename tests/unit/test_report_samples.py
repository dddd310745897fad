"""The report of a data set: its samples, its layers' figures over them, and the inputs it keeps."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from alignkit.errors import ReportError
from alignkit.load import load_inputs
from alignkit.records import SampleRow, Spread
from alignkit.report import Report
from alignkit.report.html import render_html
from alignkit.report.markdown import render_markdown
from alignkit.report.samples import failing_shapes, listed_samples, listed_spreads, sample_reasons
from alignkit.report.schema import report_from_json, report_to_dict, report_to_json
from alignkit.report.table import COLUMNS, SPREAD_COLUMNS, render_csv, to_pandas
from alignkit.report.text import render_text
from alignkit.report.words import verdict_line
from tests.sample_data_set import data_set
from tests.sample_report import sample_report

HOSTILE = "</script><img src=x onerror=alert(1)>\x1b[31m|`=1+1"


@pytest.fixture
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports are saved without their plots, which take seconds and say nothing here."""
    monkeypatch.setattr("alignkit.report.files.render_plots", lambda report: {})


@pytest.mark.parametrize(
    ("failing", "refused", "line"),
    [
        (1, 0, "DIVERGED: 1 of 2,000 samples fails: sample_0000.npz, error starts at "),
        (3, 5, "DIVERGED: 3 of 2,000 samples fail; the worst is sample_0000.npz, error starts at "),
        (0, 2, "INCONCLUSIVE: 2 of 2,000 samples could not be compared (sample_0000.npz), all others agree"),
        (0, 0, "ALIGNED: 2,000 of 2,000 samples, 30 of 30 taps compared, no layer introduces"),
    ],
)
def test_the_first_line_counts_samples(failing: int, refused: int, line: str) -> None:
    """How many of how many, which, and where."""
    assert verdict_line(data_set(failing, refused)).startswith(line)


def test_text_tells_who_fails_and_where() -> None:
    """The worst ten by name, the reasons of the others once, and the layers over all samples."""
    report = data_set(12, 3)
    text = render_text(report)
    assert "12 of 2,000 samples diverge, 3 could not be compared; all below is of the worst" in text
    assert "sample_0011.npz  diverged" in text
    assert "sample_0001.npz  diverged" not in text, "the eleventh worst"
    assert "sample_0012.npz, sample_0013.npz, sample_0014.npz: it is damaged" in text
    assert "Layers over all samples" in text
    assert "1 (less than 0.1 %)" in text
    assert "worst_sample.npz" in text


def test_one_sample_has_no_such_sections() -> None:
    """The report of one sample is as it ever was."""
    report = sample_report(30)
    for text in (render_text(report), render_markdown(report)):
        assert "Samples" not in text
        assert "over all samples" not in text
    assert render_csv(report).splitlines()[0] == ",".join(COLUMNS)


def test_the_report_is_read_back_as_it_was_written() -> None:
    """All but the inputs, which are files of their own."""
    report = data_set(2, 1, total=5)
    read = report_from_json(report_to_json(report))
    assert read.samples == report.samples
    assert read.spreads == report.spreads
    assert report_to_dict(read) == report_to_dict(report)
    assert "samples" in report_to_dict(sample_report(3))


def test_a_report_from_before_data_sets_is_read() -> None:
    """It has no samples."""
    document = report_to_dict(sample_report(3))
    del document["samples"], document["spreads"]
    assert report_from_json(json.dumps(document)).samples == []


def test_csv_and_pandas_have_the_figures_as_columns() -> None:
    """Behind the others, so that these stay where they were."""
    report = data_set(1, total=3)
    report = replace(report, spreads=list(report.spreads)[1:])
    first, second, *_ = csv.DictReader(io.StringIO(render_csv(report)))
    assert list(first) == [*COLUMNS, *SPREAD_COLUMNS]
    assert (first["samples"], second["samples"]) == ("", "3")
    assert second["samples_introduced_worst_sample"] == "sample_0000.npz"
    assert float(second["samples_noise_ratio_mean"]) == 0.5
    assert to_pandas(report)["samples_propagated_worst"][1] == 0.02


def test_what_a_sample_does_not_have_is_a_dash() -> None:
    """A sample that was not compared has no layer to name: in Markdown a dash, not a name like one."""
    line = next(
        line for line in render_markdown(data_set(0, 1, total=2)).splitlines() if "not compared" in line
    )
    assert line == "| `sample_0000.npz` | not compared | - | - | - |"


def test_names_of_samples_stay_text() -> None:
    """Whatever they hold, in every format."""
    report = data_set(1, 1, total=3, name=HOSTILE + "{}")
    page = render_html(report)
    assert "<img src" not in page
    assert "\x1b" not in render_text(report)
    assert "<img" not in render_markdown(report)
    cells = [
        row["samples_introduced_worst_sample"] for row in csv.DictReader(io.StringIO(render_csv(report)))
    ]
    assert {cell.lstrip("'") for cell in cells} == {HOSTILE + "0"}


def test_samples_are_listed_worst_first() -> None:
    """Those that fail by their ratio, those that could not be compared behind, aligned ones not at all."""
    report = data_set(2, 1, total=5)
    assert [row.name[-6:-4] for row in listed_samples(report)] == ["01", "00", "02"]
    assert listed_samples(data_set(0, total=3)) == []


def test_layers_that_are_to_blame_come_first() -> None:
    """Then those that differ in most samples; a layer without any error is not listed."""
    spreads = [Spread("quiet", 9, 0, 0), Spread("passes on", 9, 9, 0), Spread("starts it", 9, 1, 1)]
    report = replace(data_set(total=2), spreads=spreads)
    assert [one.tap for one in listed_spreads(report)] == ["starts it", "passes on"]


def test_reasons_are_given_once() -> None:
    """With the first names that share them."""
    rows = [SampleRow(str(i), None, reason="gone") for i in range(5)] + [SampleRow("x", None, reason="odd")]
    assert list(sample_reasons(rows)) == ["0, 1, 2 and 2 more: gone", "x: odd"]


def swept(bad: Sequence[tuple[int, ...]], good: Sequence[tuple[int, ...]]) -> str:
    """What is said of samples of these shapes."""
    return failing_shapes([SampleRow("", shape in good, shapes={"x": shape}) for shape in (*good, *bad)])


@pytest.mark.parametrize(
    ("bad", "good", "words"),
    [
        ([(4, 24), (4, 32)], [(1, 24), (1, 32)], "Fails at 2 of 4 shapes: all with x axis 0 = 4"),
        ([(2, 8), (4, 8)], [(1, 8)], "Fails at 2 of 3 shapes: all with x axis 0 = 2 or 4"),
        ([(2,), (4,), (8,)], [(1,)], "Fails at 3 of 4 shapes: all but those with x axis 0 = 1"),
        (
            [(4, 32)],
            [(1, 24), (1, 32), (4, 24)],
            "Fails at 1 of 4 shapes: all with x axis 0 = 4 and x axis 1 = 32",
        ),
        ([(1, 32), (4, 24)], [(1, 24), (4, 32)], "Fails at 2 of 4 shapes"),
        ([(4, 4), (1, 4)], [], "Fails at 2 of 2 shapes"),
        ([(2, 3, 4)], [(2, 3)], "Fails at 1 of 2 shapes: all with 3 axes of x"),
        ([], [(1, 24), (1, 32)], ""),
        ([(1, 24)], [], ""),
    ],
)
def test_the_shapes_that_fail_are_told_apart(
    bad: list[tuple[int, ...]], good: list[tuple[int, ...]], words: str
) -> None:
    """By one axis where that tells them, by two else, and not at all where no two do."""
    assert swept(bad, good) == words


def test_a_shape_fails_where_one_of_its_samples_does() -> None:
    """Two samples of one shape count as one shape."""
    rows = [
        SampleRow("a", True, shapes={"x": (1, 3)}),
        SampleRow("b", False, shapes={"x": (1, 3)}),
        SampleRow("c", True, shapes={"x": (2, 3)}),
    ]
    assert failing_shapes(rows) == "Fails at 1 of 2 shapes: all with x axis 0 = 1"


@pytest.mark.usefixtures("no_plots")
def test_the_worst_sample_lies_beside_the_report(tmp_path: Path) -> None:
    """As a file that can be given as inputs; the report read from there says the same."""
    report = data_set(total=3)
    Report(report).save(tmp_path / "report")
    (sample,) = load_inputs([str(tmp_path / "report" / "worst_sample.npz")])
    np.testing.assert_array_equal(sample.kwargs["x"].numpy(), np.ones((2, 4), np.float32))
    read = Report.load(tmp_path / "report")
    assert str(read) == render_text(report)
    read.save(tmp_path / "report", force=True)
    assert (tmp_path / "report" / "worst_sample.npz").exists(), "the report still points at it"


@pytest.mark.usefixtures("no_plots")
def test_a_new_report_takes_the_old_ones_inputs_away(tmp_path: Path) -> None:
    """They would be taken for its own."""
    Report(data_set(total=3)).save(tmp_path / "report")
    Report(sample_report(5)).save(tmp_path / "report", force=True)
    assert not (tmp_path / "report" / "worst_sample.npz").exists()


@pytest.mark.usefixtures("no_plots")
def test_inputs_have_no_other_names(tmp_path: Path) -> None:
    """A report never writes where it was not asked to; an input may have any name inside the file."""
    odd = replace(data_set(total=3), kept_inputs={"../x.npz": {"x": np.ones(1)}})
    with pytest.raises(ReportError, match=r"no file of inputs: '\.\./x\.npz'"):
        Report(odd).save(tmp_path / "report")
    named = replace(odd, kept_inputs={"worst_sample.npz": {"file": np.ones(2), "input.1": np.zeros(1)}})
    Report(named).save(tmp_path / "report")
    with np.load(tmp_path / "report" / "worst_sample.npz") as archive:
        assert sorted(archive.files) == ["file", "input.1"]
