"""The pictures: drawn for any report, the same every time, and without touching the user's matplotlib."""

from __future__ import annotations

import io
import math
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt
import pytest
from matplotlib.collections import LineCollection
from PIL import Image

from alignkit.errors import ReportError
from alignkit.records import Coverage, ErrorHistogram, ReportData, Verdict
from alignkit.report import plots
from alignkit.report.plots import PLOT_NAMES, render_plots
from alignkit.report.words import max_abs
from tests.sample_report import sample_metrics, sample_report

ROOT = Path(__file__).parents[2]  # so that a fresh interpreter finds the package, installed or not

HOSTILE = [
    "$\\frac{",
    "a$b$c_d^e",
    "层.注意力",
    "</svg><script>",
    "\x1b[31m\x00\n\ud800",
    "x" * 300,
    "",
    "_x",
]


def texts(picture: bytes) -> str:
    """All text in an SVG; fails when it is not well-formed."""
    return " ".join(ElementTree.fromstring(picture).itertext())


def series_of(report: ReportData) -> dict[str, npt.NDArray[np.float64]]:
    """Label -> x and y (the two columns) of each series in the upper panel."""
    with plots._own_style():
        axes = plots._draw_error_by_layer(report).axes[0]
        return {str(line.get_label()): np.asarray(line.get_xydata(), np.float64) for line in axes.get_lines()}


@pytest.mark.parametrize("count", [1, 60])
def test_both_pictures_in_both_formats(count: int) -> None:
    """Each picture is a PNG of readable size and a well-formed SVG that names the culprit."""
    report = sample_report(count)
    pictures = render_plots(report)
    assert pictures.keys() == PLOT_NAMES
    for name, content in pictures.items():
        if name.endswith(".png"):
            width, height = Image.open(io.BytesIO(content)).size
            assert 700 <= width <= 1700
            assert 400 <= height <= 1000
    text = texts(pictures["error_by_layer.svg"])
    assert report.culprits[0].tap in text
    assert "propagated" in text
    assert "noise floor" in text
    assert report.culprits[0].tap in texts(pictures["error_distribution.svg"])


def test_five_thousand_taps_stay_small() -> None:
    """With thousands of taps the pictures stay small, the culprit named and the axis without names."""
    report = sample_report(5000)
    pictures = render_plots(report)
    assert max(map(len, pictures.values())) < 600_000
    text = texts(pictures["error_by_layer.svg"])
    assert text.count(report.culprits[0].tap) == 1
    assert report.layers[7].tap not in text
    assert "ok (2000)" in text


def test_few_taps_are_all_named() -> None:
    """With few taps each has its name on the axis."""
    report = replace(sample_report(12, aligned=True), histograms=())
    text = texts(render_plots(report)["error_by_layer.svg"])
    assert all(row.tap in text for row in report.layers)


def test_same_report_same_bytes() -> None:
    """No date, no random id: a report under version control does not change by itself."""
    report = sample_report(3)
    assert render_plots(report) == render_plots(report)


def test_distribution_is_absent_without_histograms() -> None:
    """No histogram, no picture of one."""
    pictures = render_plots(replace(sample_report(5), histograms=()))
    assert pictures.keys() == {"error_by_layer.png", "error_by_layer.svg"}


@pytest.mark.parametrize(
    ("known", "title"),
    [(1, "one tap"), (6, "all 6 taps"), (7, "the 6 worst of 7 taps")],
)
def test_distribution_says_how_many_of_how_many(known: int, title: str) -> None:
    """The title claims a choice only where one was made."""
    report = sample_report(12)
    report = replace(report, histograms=report.histograms[:known])
    assert f"Distribution of the error: {title}" in texts(render_plots(report)["error_distribution.svg"])


def test_series_are_the_decades_of_the_rows() -> None:
    """Each series is log10 of its column in execution order; zeros and gaps are no points of it."""
    report = sample_report(30)
    series = series_of(report)
    columns: dict[str, list[float | None]] = {
        "propagated": [max_abs(row.propagated) for row in report.layers],
        "introduced": [max_abs(row.introduced) for row in report.layers],
        "noise floor": [row.noise_floor for row in report.layers],
    }
    for label, column in columns.items():
        x, y = series[label].T
        np.testing.assert_array_equal(x, range(30))
        np.testing.assert_allclose(y, [math.log10(value) if value else math.nan for value in column])


def test_zeros_lie_in_their_own_band() -> None:
    """Exact zeros are drawn below every positive value, in the band whose tick reads 0."""
    report = sample_report(30, aligned=True)
    rows = [replace(row, introduced=sample_metrics(0.0)) for row in report.layers]
    zeros = replace(report, layers=rows)
    lowest = min(
        np.nanmin(points[:, 1]) for label, points in series_of(zeros).items() if label != "introduced"
    )
    with plots._own_style():
        axes = plots._draw_error_by_layer(zeros).axes[0]
        found = [collection for collection in axes.collections if isinstance(collection, LineCollection)]
        runs = [np.asarray(run) for collection in found for run in collection.get_segments()]
        zero_tick = axes.get_yticks()[0]
        assert axes.get_yticklabels()[0].get_text() == "0"
    assert all(run[:, 1].max() < math.floor(lowest) for run in runs)
    across = [run for run in runs if run[0, 0] < 0 and run[1, 0] > 29]
    assert [run[0, 1] for run in across] == [pytest.approx(zero_tick)]


def test_many_culprits_are_named_up_to_five() -> None:
    """The first five culprits stand in the picture, the others are counted."""
    report = replace(sample_report(60), histograms=())
    culprits = [replace(report.culprits[0], tap=row.tap) for row in report.layers[40:48]]
    text = texts(render_plots(replace(report, culprits=culprits))["error_by_layer.svg"])
    assert [culprit.tap in text for culprit in culprits] == [True] * 5 + [False] * 3
    assert "(and 3 more)" in text


def test_hostile_names_are_shown_as_they_are() -> None:
    """No name is taken for mathematics or markup, and none crashes the drawing."""
    report = sample_report(len(HOSTILE))
    rows = [replace(row, tap=name) for row, name in zip(report.layers, HOSTILE, strict=True)]
    culprits = [replace(report.culprits[0], tap=name, module=name) for name in HOSTILE]
    histograms = [replace(report.histograms[0], tap=name) for name in HOSTILE[:6]]
    hostile = replace(report, layers=rows, culprits=culprits, histograms=histograms)
    pictures = render_plots(hostile)
    for picture in (pictures["error_by_layer.svg"], pictures["error_distribution.svg"]):
        text = texts(picture)
        for name in [*HOSTILE[:4], "\\x1b[31m\\x00\\n\\ud800"]:
            assert name in text
        assert b"<script" not in picture


@pytest.mark.parametrize(
    "report",
    [
        ReportData(False, (), (), (), Coverage(0, 0)),
        replace(sample_report(3), histograms=[ErrorHistogram("t", (), (), 7)]),
        replace(
            sample_report(3),
            layers=[
                replace(
                    row, verdict=Verdict.NONFINITE, introduced=None, propagated=None, noise_floor=math.nan
                )
                for row in sample_report(3).layers
            ],
        ),
        replace(
            sample_report(2),
            layers=[
                replace(row, introduced=sample_metrics(1e-300), noise_floor=math.inf, propagated=None)
                for row in sample_report(2).layers
            ],
        ),
    ],
    ids=["empty", "only zeros", "no figures", "extremes"],
)
def test_odd_reports_are_drawn(report: ReportData) -> None:
    """Reports without taps, figures or finite numbers still give a picture."""
    pictures = render_plots(report)
    assert texts(pictures["error_by_layer.svg"])
    assert pictures["error_by_layer.png"].startswith(b"\x89PNG")


def test_users_settings_neither_matter_nor_change() -> None:
    """The pictures ignore the user's matplotlib settings and leave them as they were."""
    report = sample_report(2)
    expected = render_plots(report)
    with matplotlib.rc_context({"font.size": 22, "axes.grid": True, "lines.linewidth": 9}):
        before = dict(matplotlib.rcParams)
        assert render_plots(report) == expected
        assert dict(matplotlib.rcParams) == before


def test_pyplot_stays_out() -> None:
    """Drawing neither imports pyplot nor chooses a backend."""
    script = (
        "import sys\n"
        "from alignkit.records import Coverage, ReportData\n"
        "from alignkit.report.plots import render_plots\n"
        "assert 'matplotlib' not in sys.modules\n"
        "render_plots(ReportData(True, (), (), (), Coverage(0, 0)))\n"
        "print('matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_missing_matplotlib_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without matplotlib the error names the remedy."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ReportError, match="pip install matplotlib"):
        render_plots(sample_report(5))
