"""Several candidates in one report: how reports are joined, and what every format says of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from alignkit.errors import BackendError, CompareError
from alignkit.records import Coverage, ReportData
from alignkit.report.candidates import candidate_listing
from alignkit.report.html import render_html
from alignkit.report.markdown import render_markdown
from alignkit.report.schema import report_from_json, report_to_json
from alignkit.report.text import render_text
from alignkit.report.words import verdict_line
from alignkit.side_by_side import join_reports
from tests.conftest import GoldenCheck
from tests.sample_report import sample_candidates, sample_report

RIGHT, WRONG = sample_report(30, aligned=True), sample_report(30)
FAILED = BackendError("OpenVINO is not installed.")


def test_the_first_that_diverges_is_shown() -> None:
    """With all that belongs to it; the rows keep the order in which the candidates were named."""
    joined = join_reports({"ort": RIGHT, "2 onnxsim": WRONG, "3 fp16": WRONG})
    assert (joined.layers, joined.culprits) == (WRONG.layers, WRONG.culprits)
    assert joined.settings["candidate"] == "2 onnxsim"
    assert [(row.name, row.aligned) for row in joined.candidates] == [
        ("ort", True),
        ("2 onnxsim", False),
        ("3 fp16", False),
    ]
    assert not joined.aligned
    assert joined.candidates[1].culprit == WRONG.culprits[0].tap
    assert joined.candidates[1].worst_tap == WRONG.culprits[0].tap
    assert list(joined.candidates[1].layers) == [row.tap for row in WRONG.layers]


def test_all_aligned_is_aligned_and_shows_the_first() -> None:
    """None of them has a culprit."""
    joined = join_reports({"a": RIGHT, "b": RIGHT})
    assert joined.aligned
    assert joined.settings["candidate"] == "a"
    assert [row.culprit for row in joined.candidates] == [None, None]


def test_one_that_could_not_be_compared_is_no_pass() -> None:
    """Its row holds the reason; where that is true of all, there is no report."""
    joined = join_reports({"openvino": FAILED, "ort": RIGHT})
    assert not joined.aligned
    assert joined.settings["candidate"] == "ort"
    assert (joined.candidates[0].aligned, joined.candidates[0].reason) == (None, str(FAILED))
    with pytest.raises(CompareError, match="not installed"):
        join_reports({"openvino": FAILED})


def test_a_file_that_does_not_run_is_said_of_its_candidate() -> None:
    """Its layers may be right all the same."""
    outputs = tuple(replace(row, verdict=type(row.verdict)("skipped")) for row in RIGHT.outputs)
    note = "The file as deployed does not run: OpenVINO has no Det"
    stopped = replace(RIGHT, outputs=outputs, notes=(note,))
    joined = join_reports({"ort": RIGHT, "openvino": stopped})
    assert [row.reason for row in joined.candidates] == ["", note]


@pytest.mark.parametrize(
    ("found", "line"),
    [
        ({"ort": RIGHT, "openvino": WRONG}, "DIVERGED on openvino: error starts at "),
        ({"ort": WRONG, "openvino": WRONG}, "DIVERGED on ort, openvino: error starts at "),
        (
            dict.fromkeys(("one long name", "another long name", "c"), WRONG),
            "DIVERGED on one long name and 2 oth",
        ),
        ({"ort": RIGHT, "openvino": RIGHT}, "ALIGNED on ort, openvino: 30 of 30 taps compared, "),
        (
            dict.fromkeys(("ort", "openvino", "reference"), RIGHT),
            "ALIGNED on all 3 candidates: 30 of 30 taps ",
        ),
        ({"ort": RIGHT, "openvino": FAILED}, "INCONCLUSIVE: openvino could not be compared; ort: aligned"),
        ({"ort": WRONG, "openvino": FAILED}, "DIVERGED on ort: error starts at "),
    ],
)
def test_the_verdict_says_on_which(found: dict[str, ReportData | BackendError], line: str) -> None:
    """In one line that fits a terminal."""
    said = verdict_line(join_reports(found))
    assert said.startswith(line)
    assert len(said) <= 100


def test_an_aligned_verdict_counts_for_the_one_that_was_compared_least() -> None:
    """Not for the one that happens to be shown."""
    fewer = replace(RIGHT, coverage=Coverage(20, 10, {"skipped": 10}))
    assert "20 of 30 taps" in verdict_line(join_reports({"a": RIGHT, "b": fewer}))


def test_a_report_of_one_candidate_has_no_section() -> None:
    """In no format."""
    assert "side by side" not in render_text(WRONG)
    assert "side by side" not in render_markdown(WRONG)


def test_every_format_shows_every_candidate() -> None:
    """Name and verdict, and the reason of the one that did not run."""
    report = sample_candidates(WRONG)
    for render in (render_text, render_markdown, render_html):
        text = render(report)
        for row in report.candidates:
            assert row.name in text, row.name
            assert row.reason in text
    listing = candidate_listing(report)
    assert {len(row) for row in listing.rows} == {len(listing.columns)}


def test_candidates_survive_the_file() -> None:
    """``report.json`` holds them whole."""
    report = sample_candidates(WRONG)
    assert tuple(report_from_json(report_to_json(report)).candidates) == report.candidates


def test_names_of_candidates_stay_text() -> None:
    """A callable and a step of a pass may be called anything."""
    hostile = "</script><img src=x onerror=alert(1)>|`\n\x1b[31m"
    report = join_reports({hostile: WRONG, "b": BackendError(hostile)})
    html, text, markdown = render_html(report), render_text(report), render_markdown(report)
    assert "<img" not in html
    assert "\x1b" not in text + markdown
    assert "<img" not in markdown
    table = [line for line in markdown.splitlines() if line.startswith("| ")]
    assert len({line.replace("\\|", "").count("|") for line in table[:3]}) == 1


def test_golden_text(golden: GoldenCheck) -> None:
    """The console's whole page."""
    golden("candidates_report.txt", render_text(sample_candidates(WRONG)))


def test_golden_markdown(golden: GoldenCheck) -> None:
    """What a review comment shows."""
    golden("candidates_report.md", render_markdown(sample_candidates(WRONG)))
