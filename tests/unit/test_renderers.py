"""One report through every renderer: what each must say, and that no name can break out of it."""

from __future__ import annotations

import csv
import html.parser
import io
import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignkit.errors import ReportError
from alignkit.records import (
    Coverage,
    Culprit,
    Experiment,
    LayerRow,
    OutputRow,
    ReportData,
    TapKind,
    Verdict,
)
from alignkit.report import Report, table
from alignkit.report.html import render_html
from alignkit.report.layers import worst_layers
from alignkit.report.markdown import code, escape, render_markdown
from alignkit.report.renderers import RENDERERS, resolve_renderer
from alignkit.report.schema import layer_to_dict, report_from_json, report_to_dict, report_to_json
from alignkit.report.table import COLUMNS, render_csv
from alignkit.report.text import render_text
from alignkit.report.words import (
    CAUSES,
    display_width,
    how_to_address,
    one_line,
    repro_command,
    share_words,
    shorten_middle,
    symptom_of,
    verdict_line,
)
from tests.conftest import GoldenCheck
from tests.sample_report import sample_metrics, sample_report

ROOT = Path(__file__).parents[2]  # so that a fresh interpreter finds the package, installed or not

HOSTILE = [
    "</script><img src=x onerror=alert(1)>",
    "=1+1",
    "+cmd|' /C calc'!A0",
    "-2+3",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "a|b",
    "`tick`",
    "line\nbreak",
    "\x1b[31mred",
    'quote"comma,',
    "$\\frac{",
    "\ud800",
    "层",
    "",
]


@pytest.fixture
def report() -> ReportData:
    return sample_report(30)


def rounded(report: ReportData) -> ReportData:
    """``report`` with six digits per number: the last bits of a logarithm differ between platforms."""

    def six_digits(text: str) -> float:
        return float(f"{float(text):.6g}")

    return report_from_json(json.dumps(json.loads(report_to_json(report), parse_float=six_digits)))


def row(tap: str, **changes: object) -> LayerRow:
    values: dict[str, object] = {
        "tap": tap,
        "module": tap,
        "kind": TapKind.MODULE,
        "module_type": "Conv2d",
        "shape": (1, 3),
        "dtype": "float32",
        "onnx_value": tap,
        "verdict": Verdict.OK,
        "propagated": sample_metrics(1e-7),
        "introduced": sample_metrics(1e-7),
        "noise_floor": 1e-7,
        "noise_ratio": 1.0,
        "source": "net.py:7",
    }
    return LayerRow(**{**values, **changes})  # type: ignore[arg-type]


def bare(aligned: bool, layers: list[LayerRow], coverage: Coverage, **changes: object) -> ReportData:
    return replace(ReportData(aligned, (), layers, (), coverage), **changes)  # type: ignore[arg-type]


def hostile_report(names: list[str]) -> ReportData:
    """Every text field of a report is one of ``names`` in turn."""
    rows = [row(n, module_type=n, onnx_value=n, reason=n, tolerance=n, dtype=n) for n in names]
    tried = [(Experiment(n, 1.0, n), Experiment(n, None, n)) for n in names]
    culprits = [
        Culprit(n, n, n, n, n, (n, n), n, (n,), n, n, n, n, tried[i], 0.5) for i, n in enumerate(names)
    ]
    outputs = [OutputRow(n, n, (1,), n, Verdict.PROPAGATED, n, sample_metrics(), None) for n in names]
    coverage = Coverage(len(names), len(names), dict.fromkeys(names, 1))
    return ReportData(
        False, culprits, rows, outputs, coverage, names, (), {n: n for n in names}, {n: n for n in names}
    )


@pytest.mark.parametrize("name", RENDERERS)
def test_every_format_names_the_culprit(name: str, report: ReportData) -> None:
    """Whatever the format, the first culprit is in it."""
    assert report.culprits[0].tap in Report(report).render(name)


@pytest.mark.parametrize("name", RENDERERS)
def test_every_format_is_a_pure_function(name: str, report: ReportData) -> None:
    """Rendering twice gives the same text, for a full, an aligned and an empty report."""
    empty = bare(False, [], Coverage(0, 0))
    for data in (report, sample_report(30, aligned=True), empty):
        assert RENDERERS[name](data) == RENDERERS[name](data)


@pytest.mark.parametrize(
    ("name", "file"),
    [("text", "report.txt"), ("csv", "layers.csv"), ("md", "report.md"), ("json", "report.json")],
)
def test_golden(name: str, file: str, report: ReportData, golden: GoldenCheck) -> None:
    """The format of a diverged report changes only on purpose."""
    golden(f"diverged_{file}", RENDERERS[name](rounded(report)))


def test_golden_aligned_text(golden: GoldenCheck) -> None:
    """The console summary of an aligned report changes only on purpose."""
    golden("aligned_report.txt", render_text(rounded(sample_report(12, aligned=True))))


def test_unknown_format_lists_the_known_ones() -> None:
    """A wrong format name is answered with all right ones."""
    with pytest.raises(ReportError, match="no report format 'pdf'; known: text, csv, json, html, md"):
        resolve_renderer("pdf")


def test_own_renderer_is_taken_as_it_is(report: ReportData) -> None:
    """``render`` takes a function as well as a name."""
    assert Report(report).render(lambda data: f"{len(data.layers)} rows") == "30 rows"


# The verdict line


def test_first_line_names_where_the_error_starts(report: ReportData) -> None:
    """A diverged report opens with module and op of the first culprit."""
    assert (
        render_text(report).splitlines()[0] == "DIVERGED: error starts at layer1.1.bn1 (BatchNormalization)"
    )


def test_first_line_of_an_aligned_report_counts_the_taps() -> None:
    """An aligned report opens with how much was compared."""
    first = render_text(sample_report(12, aligned=True)).splitlines()[0]
    assert first == "ALIGNED: 12 of 12 taps compared, no layer introduces more than float rounding"


def test_first_line_says_that_no_output_could_be_compared() -> None:
    """A runtime that cannot compute any of them leaves a verdict on some layers alone."""
    skipped = OutputRow("logits", "t", (1,), "float32", Verdict.SKIPPED)
    data = bare(True, [row("t")], Coverage(1, 0), outputs=[skipped])
    assert verdict_line(data).endswith("float rounding; no output could be compared")
    seen = replace(skipped, name="hidden", verdict=Verdict.OK, plain=sample_metrics(0.0))
    assert verdict_line(replace(data, outputs=[skipped, seen])).endswith("float rounding")


@pytest.mark.parametrize("aligned", [True, False])
def test_nothing_compared_is_never_aligned(aligned: bool) -> None:
    """With no compared tap no format says ALIGNED, whatever the flag."""
    data = bare(aligned, [], Coverage(0, 7, {"the file has no taps": 7}))
    assert verdict_line(data) == "INCONCLUSIVE: none of 7 taps was compared, so nothing is known"
    assert "ALIGNED" not in render_text(data)
    assert "ALIGNED" not in render_markdown(data)


def test_wrong_output_without_culprit_is_diverged() -> None:
    """A wrong output is named even where no tap was compared or could be blamed."""
    output = OutputRow("logits", "t", (1,), "float32", Verdict.PROPAGATED, plain=sample_metrics(0.1))
    blind = bare(False, [], Coverage(0, 1), outputs=[output])
    seeing = bare(False, [row("t")], Coverage(1, 0), outputs=[output])
    assert verdict_line(blind) == "DIVERGED: output logits is wrong, no tap was compared"
    assert verdict_line(seeing) == "DIVERGED: output logits is wrong, no layer could be blamed"


def test_wrong_taps_without_culprit_are_counted() -> None:
    """Taps that differ are counted when neither a culprit nor an output is wrong; missing ones are told."""
    wrong = bare(False, [row("t", verdict=Verdict.PROPAGATED), row("u")], Coverage(2, 0))
    missing = bare(False, [row("t", verdict=Verdict.MISSING), row("u")], Coverage(1, 1))
    assert verdict_line(wrong) == "DIVERGED: 1 of 2 compared taps differ, no layer could be blamed"
    assert verdict_line(missing) == "DIVERGED: 1 of 2 taps compared and right, the rest is not known"


# The worst layers


def test_worst_layers_rank_by_ratio_then_introduced_error() -> None:
    """Noise ratio decides, introduced max_abs breaks ties, and ten rows are enough."""
    rows = [
        row(f"t{i}", noise_ratio=float(i % 7), introduced=sample_metrics(1e-7 * (1 + i))) for i in range(21)
    ]
    ranked = worst_layers(bare(True, rows, Coverage(21, 0)))
    assert [r.tap for r in ranked] == ["t20", "t13", "t6", "t19", "t12", "t5", "t18", "t11", "t4", "t17"]


def test_worst_layers_put_what_has_no_number_above_rounding() -> None:
    """Introduced error first, then NaN and wrong shapes, then mere rounding; exact rows are left out."""
    rows = [
        row("rounding", noise_ratio=2.0),
        row("shape", verdict=Verdict.SHAPE, propagated=None, introduced=None, noise_ratio=None),
        row("culprit", verdict=Verdict.INTRODUCED, noise_ratio=1e5),
        row("exact", propagated=sample_metrics(0.0), introduced=sample_metrics(0.0), noise_ratio=0.0),
        row("missing", verdict=Verdict.MISSING),
    ]
    ranked = worst_layers(bare(False, rows, Coverage(4, 1)))
    assert [r.tap for r in ranked] == ["culprit", "shape", "rounding"]


# Text


def test_text_without_colour_is_plain_ascii(report: ReportData) -> None:
    """Nothing but printable ASCII and line ends reaches a log file."""
    assert re.fullmatch(r"[\n -~]*", render_text(report))


def test_colour_adds_nothing_but_colour(report: ReportData) -> None:
    """With the control sequences removed, the coloured text is the plain one."""
    coloured = render_text(report, colour=True)
    assert coloured.startswith("\x1b[1;31mDIVERGED")
    assert re.sub(r"\x1b\[[\d;]*m", "", coloured) == render_text(report)


@pytest.mark.parametrize("width", [60, 80, 100, 160])
def test_tables_fit_the_terminal(width: int) -> None:
    """Names of any length are shortened in the middle, so that columns stay aligned within the width."""
    names = [f"encoder.{'block.' * 30}{i}.conv" for i in range(12)]
    rows = [row(name, module_type="Conv" * 20) for name in names]
    lines = render_text(bare(True, rows, Coverage(12, 0)), width=width).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("Worst layers"))
    table = lines[start + 1 : start + 12]
    assert max(map(len, table)) <= width
    assert all("..." in line and ".conv " in line for line in table[1:])
    verdict_column = table[0].index("verdict")
    assert {line[verdict_column : verdict_column + 3] for line in table[1:]} == {"ok "}


def test_text_says_what_was_not_compared_and_why(report: ReportData) -> None:
    """Every reason stands there with its number of taps; a gap in the reasons is told, too."""
    text = render_text(report)
    for reason, count in report.coverage.reasons.items():
        assert f"- {count} not compared: {reason}" in text
    unexplained = bare(True, [row("t")], Coverage(1, 5, {"in a Loop body": 3}))
    assert "- 2 not compared: no reason was recorded" in render_text(unexplained)


def test_text_gives_every_further_culprit_a_line(report: ReportData) -> None:
    """The first three culprits stand in full, the others are one line each."""
    culprits = [replace(report.culprits[0], tap=f"later.{i}") for i in range(6)]
    lines = render_text(replace(report, culprits=culprits)).splitlines()
    assert [f"  tap        later.{i}" in lines for i in range(6)] == [True] * 3 + [False] * 3
    assert [sum(line.startswith(f"  later.{i} ") for line in lines) for i in range(6)] == [0] * 3 + [1] * 3


def unwrapped(text: str) -> str:
    return " ".join(text.split())


def test_text_says_all_of_a_culprit(report: ReportData) -> None:
    """Where, why with every experiment, what it costs, what to do and the command that shows it again."""
    culprit = replace(report.culprits[0], output_share=0.25)
    text = unwrapped(render_text(replace(report, culprits=[culprit])))
    for part in (
        "module layer1.1.bn1 (BatchNorm2d)",
        "source models/resnet.py:97: out = self.bn1(self.conv1(x))",
        "operation batch_norm -> BatchNormalization",
        *culprit.onnx_nodes,
        "cause exporter (high confidence): the exported graph computes something else",
        *culprit.evidence,
        "tried experiment error reading",
        "ORT, graph optimisation off 2.41e-02 still wrong",
        "float64 - not run: the segment holds",
        "cost 25 % of the outputs' error disappears when this layer is right",
        f"advice {culprit.advice}",
        "README.md#one-layer-differs-on-every-input",
        "repro python repro/layer1-1-bn1/repro.py",
    ):
        assert part in text


def test_text_leaves_out_what_is_not_known(report: ReportData) -> None:
    """A culprit without source, experiments, share and bundle has no empty labels."""
    bare_culprit = Culprit("t", "m", "", "unknown", "low", (), "", ())
    lines = render_text(replace(report, culprits=[bare_culprit])).split("\n\n")[1].splitlines()
    assert [line.split()[0] for line in lines] == ["Culprit", "module", "tap", "cause", "how"]


def test_readings_are_wrapped_not_cut(report: ReportData) -> None:
    """A long reading of an experiment is there in full, below its own column."""
    reading = "word " * 40 + "end"
    culprit = replace(report.culprits[0], experiments=(Experiment("x" * 80, 0.5, reading),))
    text = render_text(replace(report, culprits=[culprit]))
    assert unwrapped(text).count("word") == 40
    start = next(line for line in text.splitlines() if " 5.00e-01 " in line).index("word")
    last = next(line for line in text.splitlines() if line.endswith(" end"))
    assert len(last) - len(last.lstrip()) == start


def test_text_tells_the_observer_effect(report: ReportData) -> None:
    """The outputs table says for which output the taps changed the result."""
    lines = render_text(report).splitlines()
    assert [line.split()[-1] for line in lines if re.match(r"  (logits|features)\s+propagated", line)] == [
        "no",
        "yes",
    ]


@given(st.text(), st.integers(0, 40))
def test_shortened_names_fit(text: str, width: int) -> None:
    """A shortened name never takes more columns than it may, and a short one stays as it is."""
    shortened = shorten_middle(text, width)
    assert display_width(shortened) <= width
    assert shortened == text or display_width(text) > width


@given(st.text())
def test_one_line_is_one_printable_line(text: str) -> None:
    """No control character, line end or lone surrogate is left, and printable text is untouched."""
    line = one_line(text)
    assert line.isprintable()
    assert line == text or not text.isprintable()


# A culprit in words


def test_every_cause_leads_to_a_how_to(report: ReportData) -> None:
    """Each cause has a symptom and a meaning; NaN decides over the cause, an unknown cause over nothing."""
    culprit = report.culprits[0]
    for cause, (meaning, symptom) in CAUSES.items():
        assert meaning
        assert symptom_of(replace(culprit, cause=cause)) == symptom
    assert how_to_address(symptom_of(culprit, Verdict.NONFINITE)) == "README.md#nan-from-layer-k-on"
    assert how_to_address(CAUSES["trace-constant"].symptom) == "README.md#only-some-inputs-differ"
    assert how_to_address(CAUSES["optimizer"].symptom) == "README.md#differs-only-with-optimisation-on"
    assert how_to_address(CAUSES["precision"].symptom) == "README.md#all-layers-differ-slightly"
    assert symptom_of(replace(culprit, cause="gremlins")) == ""


@pytest.mark.parametrize(
    ("share", "figure"),
    [(1.0, "100 %"), (0.4237, "42.4 %"), (0.996, "99.6 %"), (0.0, "0 %"), (1e-9, "less than 0.1 %")],
)
def test_share_is_said_in_words(share: float, figure: str) -> None:
    """The figure is a percentage that rounds neither up to all nor down to nothing."""
    assert share_words(share) == f"{figure} of the outputs' error disappears when this layer is right"


@pytest.mark.parametrize("share", [None, math.nan, math.inf])
def test_share_that_was_not_measured_is_not_said(share: float | None) -> None:
    """No figure, no sentence."""
    assert share_words(share) == ""


def test_repro_command_is_safe_to_paste(report: ReportData) -> None:
    """A folder's name is quoted for the shell; without a bundle there is no command."""
    culprit = report.culprits[0]
    assert repro_command(culprit) == "python repro/layer1-1-bn1/repro.py"
    assert repro_command(replace(culprit, repro="repro/a b; rm")) == "python 'repro/a b; rm/repro.py'"
    assert repro_command(replace(culprit, repro=None)) == ""


# JSON


def refuse(token: str) -> NoReturn:
    raise AssertionError(f"{token} is not JSON")


def test_json_is_strict() -> None:
    """NaN and infinities become null."""
    wild = replace(sample_metrics(), max_abs=math.inf, mse=math.nan, worst_candidate=-math.inf)
    data = bare(False, [row("t", introduced=wild, noise_ratio=math.inf)], Coverage(1, 0))
    tried = Experiment("t", math.inf, "diverges")
    culprit = Culprit("t", "t", "", "unknown", "low", (), "", (), experiments=(tried,), output_share=math.nan)
    document = json.loads(report_to_json(replace(data, culprits=[culprit])), parse_constant=refuse)
    assert document["culprits"][0]["experiments"][0]["error"] is None
    assert document["culprits"][0]["output_share"] is None
    layer = document["layers"][0]
    assert layer["introduced_max_abs"] is None
    assert layer["introduced_mse"] is None
    assert layer["noise_ratio"] is None


@pytest.mark.parametrize("aligned", [True, False])
def test_json_round_trip(aligned: bool) -> None:
    """What is written is read back, record by record."""
    data = sample_report(30, aligned)
    again = report_from_json(report_to_json(data))
    assert report_to_dict(again) == report_to_dict(data)
    assert list(again.layers) == list(data.layers)
    assert list(again.culprits) == list(data.culprits)
    assert list(again.outputs) == list(data.outputs)
    assert list(again.histograms) == list(data.histograms)


# Hostile names


@pytest.mark.parametrize("name", RENDERERS)
@pytest.mark.parametrize("hostile", HOSTILE)
def test_no_name_crashes_a_renderer(name: str, hostile: str) -> None:
    """Every field of the report may hold anything."""
    assert RENDERERS[name](hostile_report([hostile, "tame"]))


def test_text_shows_control_characters_as_escapes() -> None:
    """No name reaches the terminal as a control sequence or breaks a line."""
    text = render_text(hostile_report(HOSTILE))
    assert "\x1b" not in text
    assert "\r" not in text
    assert "line\\nbreak" in text
    assert "break" not in text.split()


def test_csv_neutralises_formulas_and_keeps_numbers() -> None:
    """Text that a spreadsheet would run gets a quote; a negative number, even one in text, does not."""
    metrics = replace(sample_metrics(), sqnr_db=-3.5, worst_reference="-inf", worst_candidate=-7)
    data = bare(False, [row(name, propagated=metrics) for name in HOSTILE], Coverage(len(HOSTILE), 0))
    table = list(csv.DictReader(io.StringIO(render_csv(data), newline="")))
    assert [line["tap"] for line in table] == [
        f"'{name}" if name[:1] in tuple("=+-@\t\r") else name for name in HOSTILE
    ]
    assert {(line["sqnr_db"], line["worst_reference"], line["worst_candidate"]) for line in table} == {
        ("-3.5", "-inf", "-7")
    }


@given(st.text(st.characters(exclude_characters="\0")))
def test_csv_round_trip_of_any_text(text: str) -> None:
    """A reader gets back each name, apart from the quote before a formula."""
    data = bare(True, [row(text), row("next")], Coverage(2, 0))
    first, second = csv.DictReader(io.StringIO(render_csv(data), newline=""))
    assert first["tap"] in (text, f"'{text}")
    assert second["tap"] == "next"


def test_csv_has_the_schema_of_the_json() -> None:
    """Columns are the keys of a layer in report.json, cells its values."""
    data = sample_report(30)
    table = list(csv.DictReader(io.StringIO(render_csv(data))))
    for line, layer in zip(table, data.layers, strict=True):
        flat = layer_to_dict(layer)
        assert tuple(line) == COLUMNS == tuple(flat)
        for name, cell in line.items():
            value = flat[name]
            if value is None:
                assert cell == ""
            elif isinstance(value, str):
                assert cell == value
            else:
                assert json.loads(cell) == value


def test_markdown_lets_no_name_become_markup() -> None:
    """No tag, no cell border, no mention and no code end comes from a name."""
    text = render_markdown(hostile_report(HOSTILE), limit=len(HOSTILE))
    assert "<img" not in text
    assert "</script>" not in text
    assert "</code><" not in text.replace("</code></summary>", "")
    for line in text.splitlines():
        if line.startswith("|"):
            borders = len(re.findall(r"(?<!\\)\|", line))
            assert borders in (4, 8, 9), line
    assert code("`tick`") == "<code>&#96;tick&#96;</code>"
    assert code("layer1.0.conv1#0[0]") == "`layer1.0.conv1#0[0]`"


def test_markdown_says_all_of_every_culprit(report: ReportData) -> None:
    """Each culprit is there in full; behind the first three it is folded up."""
    culprits = [replace(report.culprits[0], module=f"block.{i}") for i in range(5)]
    text = render_markdown(replace(report, culprits=culprits))
    assert [f"- **module**: `block.{i}`" in text for i in range(5)] == [True] * 5
    assert text.count("<details><summary>Culprit ") == 2
    for part in (
        "- **source**: `models/resnet.py:97`: `out = self.bn1(self.conv1(x))`",
        "- **operation**: `batch_norm` → `BatchNormalization`",
        "| ORT, graph optimisation off | 2.41e-02 | still wrong: not a graph optimisation |",
        "- **cost**: 100 % of the outputs' error disappears when this layer is right",
        "See [One layer differs on every input](README.md#one-layer-differs-on-every-input).",
        "- **repro**: `python repro/layer1-1-bn1/repro.py` in the report's folder",
    ):
        assert text.count(part) == 5


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("a|b", r"a\|b"),
        ("`x`", r"\`x\`"),
        ("<b>", "&lt;b&gt;"),
        ("align_corners is _set_", r"align_corners is \_set\_"),
        ("ping @torch.jit, see #12", "ping @<!-- -->torch.jit, see #<!-- -->12"),
        ("# heading", r"\# heading"),
        ("1. item", r"1\. item"),
        ("two\nlines", r"two\\nlines"),
    ],
)
def test_markdown_prose_is_escaped(text: str, escaped: str) -> None:
    """Each character that means something in Markdown loses its meaning, and no other changes."""
    assert escape(text) == escaped


def test_html_keeps_script_closed() -> None:
    """A name cannot end the script element that carries the data."""
    assert "</script><img" not in render_html(hostile_report(HOSTILE))


# Report


def test_report_shows_its_data(report: ReportData) -> None:
    """The properties are those of the data; ``str`` is the console summary and ``repr`` its first line."""
    shown = Report(report)
    assert shown.aligned is False
    assert shown.culprit is shown.culprits[0] is report.culprits[0]
    assert Report(sample_report(5, aligned=True)).culprit is None
    assert (shown.layers, shown.outputs, shown.coverage, shown.notes) == (
        report.layers,
        report.outputs,
        report.coverage,
        report.notes,
    )
    assert shown.to_dict() == json.loads(shown.render("json"))
    assert str(shown) == render_text(report)
    assert repr(shown) == f"<Report {str(shown).splitlines()[0]}>"


def test_notebook_frame_holds_the_whole_page() -> None:
    """A browser that unescapes ``srcdoc`` gets the HTML report; the frame may run scripts and no more."""
    frames = []

    class Frames(html.parser.HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            frames.append((tag, dict(attrs)))

    data = hostile_report(HOSTILE)
    Frames().feed(Report(data)._repr_html_())
    ((tag, attributes),) = frames
    assert tag == "iframe"
    assert attributes["srcdoc"] == render_html(data)
    assert attributes["sandbox"] == "allow-scripts"


def test_pandas_has_the_same_columns(report: ReportData) -> None:
    """One row per tap; figures are floats even where every value is missing."""
    frame = Report(report).to_pandas()
    assert tuple(frame.columns) == COLUMNS
    assert list(frame["tap"]) == [layer.tap for layer in report.layers]
    assert frame["introduced_max_abs"].idxmax() == [r.verdict for r in report.layers].index(
        Verdict.INTRODUCED
    )
    assert frame["shape"][0] == report.layers[0].shape
    empty = Report(bare(False, [row("t", propagated=None)], Coverage(0, 1))).to_pandas()
    assert empty["max_abs"].dtype == "float64"
    assert empty["relative_ratio"].dtype == "float64"
    assert list(frame["source"]) == [layer.source for layer in report.layers]


def test_every_column_is_documented() -> None:
    """The table in the module's docstring names each column, and the source line is the last."""
    documented = str(table.__doc__)
    bases = {name.removeprefix("introduced_") for name in COLUMNS}
    assert [name for name in sorted(bases) if not re.search(rf"\b{name}\b", documented)] == []
    assert COLUMNS[-1] == "source"


def test_pandas_missing_is_one_clear_line(report: ReportData, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without pandas the error names the remedy."""
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ReportError, match="pip install pandas"):
        Report(report).to_pandas()


def test_import_is_cheap() -> None:
    """Importing the report package loads none of the heavy libraries, not even for a console summary."""
    script = (
        "import sys, alignkit.report\n"
        "from alignkit.report.renderers import RENDERERS\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'pandas', 'matplotlib'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
