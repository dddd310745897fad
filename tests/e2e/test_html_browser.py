"""The HTML report in a real browser, opened from a file, as a user would."""

from __future__ import annotations

import io
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image

from alignkit.records import Culprit, Experiment, ReportData, Verdict
from alignkit.report import words
from alignkit.report.html import render_html
from alignkit.report.words import repro_command, share_words
from tests.sample_data_set import data_set
from tests.sample_report import sample_candidates, sample_metrics, sample_report

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
if CHROMIUM is None and not os.environ.get("CI"):
    pytest.skip("no browser: install chromium or set CHROMIUM", allow_module_level=True)

from playwright.sync_api import Browser, Page, expect, sync_playwright  # noqa: E402

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
HOSTILE = "</script><img src=x onerror=alert(1)>"
ROWS = "#layers-body tr"
_WATCH_TASKS = """() => {
  window.longest = 0;
  new PerformanceObserver(list => {
    for (const task of list.getEntries()) window.longest = Math.max(window.longest, task.duration);
  }).observe({entryTypes: ["longtask"]});
}"""


@dataclass
class Opened:
    """A report in a browser page, with all that the page said, asked for and popped up."""

    page: Page
    url: str
    console: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)

    def taps(self) -> list[str]:
        return self.page.locator(f"{ROWS} td.c-tap").all_text_contents()

    def selected(self) -> str:
        return self.page.locator(f"{ROWS}[aria-selected=true] td.c-tap").text_content() or ""


Open = Callable[..., Opened]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_report(browser: Browser, tmp_path: Path) -> Iterator[Open]:
    """Opens a report from file://; afterwards the page must have logged nothing and asked for nothing."""
    context = browser.new_context(viewport={"width": 1400, "height": 900}, color_scheme="light")
    opened: list[Opened] = []

    def open_(report: ReportData, fragment: str = "") -> Opened:
        path = tmp_path / f"report{len(opened)}.html"
        path.write_text(render_html(report), encoding="utf-8")
        result = Opened(context.new_page(), path.as_uri())
        opened.append(result)
        _listen(result)
        result.page.goto(result.url + fragment)
        return result

    yield open_
    for result in opened:
        assert result.console == []
        assert [url for url in result.requests if url.split("#")[0] != result.url] == []
        assert result.dialogs == []
    context.close()


def _listen(opened: Opened) -> None:
    page = opened.page
    page.on("console", lambda message: opened.console.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: opened.console.append(f"error: {error}"))
    page.on("request", lambda request: opened.requests.append(request.url))

    def note_dialog(dialog: object) -> None:
        opened.dialogs.append(str(dialog))

    page.on("dialog", note_dialog)


def _chip(page: Page, verdict: Verdict) -> None:
    page.locator(f"#chips [data-verdict={verdict.value}]").click()


def test_diverged_report_shows_verdict_and_culprit(open_report: Open) -> None:
    """The banner says DIVERGED, and the culprit card names module, op, cause and advice."""
    report = sample_report()
    page = open_report(report).page
    culprit = report.culprits[0]
    expect(page).to_have_title("DIVERGED · alignkit report")
    expect(page.locator("h1")).to_have_text("DIVERGED")
    expect(page.locator("#verdict-lead")).to_contain_text(culprit.module)
    card = page.locator(".culprit")
    for text in (culprit.module, culprit.op, culprit.cause, *culprit.evidence, culprit.advice):
        expect(card).to_contain_text(text)
    expect(page.locator("#outputs-table tbody tr")).to_have_count(len(report.outputs))
    expect(page.locator("#coverage-body")).to_contain_text(next(iter(report.coverage.reasons)))
    expect(page.locator("#notes-list")).to_contain_text(report.notes[0])


def test_culprit_card_tells_the_whole_diagnosis(open_report: Open) -> None:
    """Source line, operation, nodes, cause, each experiment, cost, advice, how-to and repro command."""
    report = sample_report()
    culprit = report.culprits[0]
    card = open_report(report).page.locator(".culprit")
    for text in (
        "BatchNorm2d",
        culprit.source or "",
        culprit.source_line or "",
        "batch_norm → BatchNormalization",
        "high confidence",
        "The exported graph computes something else.",
        share_words(culprit.output_share),
        "README.md#one-layer-differs-on-every-input",
        culprit.tap,
        *culprit.onnx_nodes,
    ):
        expect(card).to_contain_text(text)
    expect(card.locator(".command code")).to_have_text(repro_command(culprit))
    table = card.get_by_role("table")
    expect(table.get_by_role("columnheader")).to_have_text(["Experiment", "Error", "Reading"])
    rows = [row.get_by_role("cell").all_text_contents() for row in table.locator("tbody tr").all()]
    assert [reading for _, reading in rows] == [e.reading for e in culprit.experiments]
    assert [error for error, _ in rows] == ["0", "0", "0.0241", "0.0241", "\N{EN DASH}"]


def test_culprit_card_comes_first(open_report: Open) -> None:
    """Below the verdict nothing precedes the diagnosis, and its command needs no scrolling on a laptop."""
    page = open_report(sample_report()).page
    sections = [s for s in page.locator("main > section, main > div").all() if s.is_visible()]
    assert [s.get_attribute("id") for s in sections[:3]] == ["verdict", "culprits", "chart-section"]
    expect(page.locator(".culprit .command")).to_be_in_viewport()
    expect(page.locator(".culprit .experiments")).to_be_in_viewport()


def test_culprit_of_which_little_is_known(open_report: Open) -> None:
    """Without source, experiments, share and bundle there are no empty headings."""
    report = sample_report(30)
    bare = Culprit(report.culprits[0].tap, "m", "", "unknown", "low", (), "", ())
    card = open_report(replace(report, culprits=[bare])).page.locator(".culprit")
    expect(card.locator("h3")).to_have_text(["Cause", "What to do", "Tap"])
    for part in (".source", ".experiments", ".command", ".meter"):
        expect(card.locator(part)).to_have_count(0)


def test_how_to_is_a_link_where_its_address_is_complete(
    open_report: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A README on the web is linked; one that lies with the project, but not beside the page, is named."""
    card = open_report(sample_report()).page.locator(".culprit")
    expect(card.get_by_role("link")).to_have_count(0)
    monkeypatch.setattr(words, "README", "https://example.org/README")
    link = open_report(sample_report()).page.locator(".culprit").get_by_role("link")
    expect(link).to_have_text("One layer differs on every input")
    expect(link).to_have_attribute("href", "https://example.org/README#one-layer-differs-on-every-input")


@pytest.mark.parametrize(("count", "opened"), [(1, 1), (3, 3), (4, 1)])
def test_several_culprits_have_a_card_each(open_report: Open, count: int, opened: int) -> None:
    """Up to three cards are open; of more, the first only."""
    report = sample_report()
    culprits = [replace(report.culprits[0], module=f"block.{i}") for i in range(count)]
    page = open_report(replace(report, culprits=culprits)).page
    expect(page.locator(".culprit-name")).to_have_text([c.module for c in culprits])
    expect(page.locator(".culprit[open]")).to_have_count(opened)
    expect(page.locator(".culprit").first).to_have_attribute("open", "")


def test_repro_command_is_copied(open_report: Open) -> None:
    """The button puts the command on the clipboard and says so."""
    report = sample_report()
    page = open_report(report).page
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    button = page.get_by_role("button", name="Copy the repro command")
    button.click()
    expect(button).to_have_text("Copied")
    expect(page.get_by_role("status").filter(has_text="Copied: the repro command")).to_have_count(1)
    assert page.evaluate("navigator.clipboard.readText()") == repro_command(report.culprits[0])


@pytest.mark.parametrize("copies", [True, False])
def test_copying_without_a_clipboard(open_report: Open, copies: bool) -> None:
    """Refused the clipboard, the page copies by a selection; refused that too, the command is selected."""
    report = sample_report()
    page = open_report(report).page
    page.evaluate(
        """copies => {
            navigator.clipboard.writeText = () => Promise.reject(new Error("refused"));
            document.execCommand = () => {
                window.copied = document.activeElement.value;
                return copies;
            };
        }""",
        copies,
    )
    button = page.get_by_role("button", name="Copy the repro command")
    button.click()
    expect(button).to_have_text("Copied" if copies else "Press Ctrl+C")
    command = repro_command(report.culprits[0])
    assert page.evaluate("window.copied") == command
    assert page.evaluate("String(getSelection())") == ("" if copies else command)


def test_deep_link_to_a_culprit(open_report: Open) -> None:
    """#culprit= opens the card of that tap and brings it into view; an unknown one is said."""
    report = sample_report()
    culprits = [replace(report.culprits[0], tap=row.tap, module=row.module) for row in report.layers[30:36]]
    opened = open_report(replace(report, culprits=culprits), f"#culprit={quote(culprits[4].tap, safe='')}")
    page = opened.page
    card = page.locator(".culprit.linked")
    expect(card).to_have_attribute("open", "")
    expect(card).to_contain_text(culprits[4].tap)
    expect(card.locator("summary")).to_be_in_viewport()
    expect(card.locator("summary")).to_be_focused()
    page.evaluate("location.hash = 'culprit=nobody'")
    expect(page.locator("#chart-readout")).to_contain_text("no culprit nobody")


def test_detail_of_a_culprit_leads_to_its_card(open_report: Open) -> None:
    """The row of a culprit has a button to its diagnosis; other rows have none."""
    page = open_report(sample_report()).page
    to_card = page.get_by_role("button", name="Show the diagnosis")
    page.locator(f"{ROWS}[data-verdict=introduced]").click()
    to_card.click()
    expect(page.locator(".culprit.linked summary")).to_be_in_viewport()
    page.locator(f"{ROWS}[data-verdict=propagated]").first.click()
    expect(to_card).to_have_count(0)


def test_aligned_report_has_no_culprit(open_report: Open) -> None:
    """The banner says ALIGNED and no culprit section is shown."""
    page = open_report(sample_report(aligned=True)).page
    expect(page).to_have_title("ALIGNED · alignkit report")
    expect(page.locator("h1")).to_have_text("ALIGNED")
    expect(page.locator("#culprits")).to_be_hidden()


def test_empty_report_opens(open_report: Open) -> None:
    """A report without rows, outputs, timings and histograms is shown without an error."""
    report = replace(sample_report(0), outputs=(), timings={}, notes=(), environment={}, settings={})
    page = open_report(report).page
    expect(page.locator("#empty")).to_be_visible()
    expect(page.locator("#chart-section")).to_be_hidden()


def test_columns_sort_both_ways(open_report: Open) -> None:
    """The first click on a figure puts the worst row on top, the second the best, missing ones last."""
    opened = open_report(sample_report())
    page = opened.page
    header = page.locator("th[data-key=introduced_max_abs]")
    header.get_by_role("button").click()
    expect(header).to_have_attribute("aria-sort", "descending")
    page.locator("#scroller").evaluate("node => { node.scrollTop = 0; }")
    expect(page.locator(ROWS).first).to_have_attribute("data-verdict", "introduced")
    header.get_by_role("button").click()
    expect(header).to_have_attribute("aria-sort", "ascending")
    expect(page.locator(f"{ROWS} td.c-introduced_max_abs").first).to_have_text("0")
    page.locator("#scroller").evaluate("node => { node.scrollTop = node.scrollHeight; }")
    expect(page.locator(f"{ROWS} td.c-introduced_max_abs").last).to_have_text("\N{EN DASH}")


def test_verdict_chips_filter_the_table(open_report: Open) -> None:
    """Chips count their rows and combine; the table holds the chosen verdicts only."""
    report = sample_report()
    page = open_report(report).page
    expected = sum(row.verdict in (Verdict.SHAPE, Verdict.DTYPE) for row in report.layers)
    assert expected == 2
    _chip(page, Verdict.SHAPE)
    expect(page.locator(ROWS)).to_have_count(1)
    _chip(page, Verdict.DTYPE)
    expect(page.locator(ROWS)).to_have_count(expected)
    ok = page.locator("#chips [data-verdict=ok]")
    expect(ok).to_contain_text(str(sum(row.verdict.is_ok for row in report.layers)))
    page.locator("#clear").click()
    expect(page.locator("#count")).to_have_text(f"{len(report.layers)} rows")


def test_search_narrows_and_says_when_nothing_matches(open_report: Open) -> None:
    """All words must occur in a row's names; no match shows a message instead of an empty grid."""
    report = sample_report()
    opened = open_report(report)
    opened.page.locator("#search").fill("BATCHNORM2D layer1.1")
    expected = [r.tap for r in report.layers if r.module_type == "BatchNorm2d" and "layer1.1" in r.tap]
    assert expected
    assert opened.taps() == expected
    opened.page.locator("#search").fill("no such tap")
    expect(opened.page.locator("#empty")).to_be_visible()


def test_module_tree_filters_the_subtree(open_report: Open) -> None:
    """A click on a module keeps its rows and those of its children; siblings with its prefix go."""
    report = sample_report(120)
    opened = open_report(report)
    item = opened.page.get_by_role("treeitem", name="layer1, worst")
    item.locator("> .node .node-name").click()
    expected = [row.tap for row in report.layers if row.module.split(".")[0] == "layer1"]
    expect(opened.page.locator("#count")).to_have_text(f"{len(expected)} of {len(report.layers)} rows")
    opened.page.keyboard.press("ArrowRight")
    opened.page.keyboard.press("ArrowDown")
    opened.page.keyboard.press("Enter")
    assert opened.taps() == [tap for tap in expected if tap.startswith("layer1.0")]


@pytest.mark.parametrize("name", [None, HOSTILE, "50% of a+b & c=d#0[0]"])
def test_deep_link_selects_and_scrolls(open_report: Open, name: str | None) -> None:
    """#tap= opens the row's details and brings it into view, whatever characters its name holds."""
    report = sample_report(600)
    row = replace(report.layers[450], tap=name or report.layers[450].tap)
    layers = [*report.layers[:450], row, *report.layers[451:]]
    opened = open_report(replace(report, layers=layers), f"#tap={quote(row.tap, safe='')}")
    expect(opened.page.locator("#detail h3")).to_have_text(row.tap)
    expect(opened.page.locator("#row-450")).to_be_in_viewport()
    assert opened.selected() == row.tap


def test_deep_link_is_followed_on_hashchange(open_report: Open) -> None:
    """Editing the address selects another row, even one that the filters hide; filters are kept in it."""
    report = sample_report()
    opened = open_report(report)
    _chip(opened.page, Verdict.SHAPE)
    assert "verdict=shape" in opened.page.url
    target = report.layers[2].tap
    opened.page.evaluate("tap => { location.hash = `tap=${encodeURIComponent(tap)}`; }", target)
    expect(opened.page.locator("#detail h3")).to_have_text(target)
    assert opened.selected() == target


def test_filters_survive_a_reload(open_report: Open) -> None:
    """Search, verdict, module and order are kept in the address."""
    opened = open_report(sample_report())
    opened.page.locator("#search").fill("bn")
    _chip(opened.page, Verdict.PROPAGATED)
    opened.page.locator("th[data-key=tap]").get_by_role("button").click()
    before = opened.taps()
    opened.page.reload()
    assert opened.taps() == before
    expect(opened.page.locator("#search")).to_have_value("bn")
    expect(opened.page.locator("th[data-key=tap]")).to_have_attribute("aria-sort", "ascending")


def test_unknown_tap_in_the_link_is_said(open_report: Open) -> None:
    """A link to a tap that is not there, or cannot be decoded, says so and shows the report."""
    page = open_report(sample_report(), "#tap=gone%ZZ").page
    expect(page.locator("#chart-readout")).to_contain_text("no tap named gone%ZZ")
    expect(page.locator("#detail")).to_be_hidden()


def test_keyboard_drives_the_report(open_report: Open) -> None:
    """Slash searches, j/k and the arrows move, Enter opens, Escape closes, ? shows the keys."""
    report = sample_report()
    opened = open_report(report)
    keyboard, taps = opened.page.keyboard, [row.tap for row in report.layers]
    start = taps.index(report.culprits[0].tap)
    assert opened.selected() == taps[start]
    keyboard.press("j")
    keyboard.press("j")
    keyboard.press("k")
    assert opened.selected() == taps[start + 1]
    keyboard.press("Enter")
    expect(opened.page.locator("#detail h3")).to_have_text(taps[start + 1])
    keyboard.press("Escape")
    expect(opened.page.locator("#detail")).to_be_hidden()
    keyboard.press("ArrowDown")
    assert opened.selected() == taps[start + 2]
    keyboard.press("?")
    expect(opened.page.get_by_role("dialog")).to_be_visible()
    keyboard.press("Escape")
    expect(opened.page.get_by_role("dialog")).to_be_hidden()
    keyboard.press("/")
    keyboard.type("jk?")
    expect(opened.page.locator("#search")).to_have_value("jk?")


def test_detail_panel_shows_every_figure(open_report: Open) -> None:
    """Both sides' figures, the worst element, the rule, the ONNX value and the histogram are shown."""
    report = sample_report()
    row = next(row for row in report.layers if row.verdict is Verdict.INTRODUCED)
    page = open_report(report).page
    page.locator(f"{ROWS}[data-verdict=introduced]").click()
    detail = page.locator("#detail")
    assert row.introduced is not None
    for text in (
        row.tap,
        row.reason,
        row.tolerance,
        row.onnx_value or "",
        row.source or "",
        str(row.introduced.worst_candidate),
    ):
        expect(detail).to_contain_text(text)
    expect(detail.locator(".figures thead th")).to_have_text(["Propagated", "Introduced"])
    expect(detail.get_by_role("row", name="Max abs error")).to_have_text("Max abs error0.02410.0241")
    histogram = next(h for h in report.histograms if h.tap == row.tap)
    expect(detail.locator(".bin")).to_have_count(len(histogram.counts) + 1)


def test_chart_click_selects_and_hover_explains(open_report: Open) -> None:
    """The pixel of a row answers with that row, in the tooltip and as the selection."""
    report = sample_report(40)
    opened = open_report(report)
    chart = opened.page.locator("#chart")
    box = chart.bounding_box()
    assert box is not None
    left, right = 58, 14
    x = left + (7 + 0.5) / 40 * (box["width"] - left - right)
    chart.hover(position={"x": x, "y": 80})
    expect(opened.page.locator("#tooltip")).to_contain_text(report.layers[7].tap)
    chart.click(position={"x": x, "y": 80})
    assert opened.selected() == report.layers[7].tap


def test_chart_drag_zooms(open_report: Open) -> None:
    """A drag narrows the chart to the rows under it, and a button undoes it."""
    page = open_report(sample_report(40)).page
    box = page.locator("#chart").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 200, box["y"] + 80)
    page.mouse.down()
    page.mouse.move(box["x"] + 500, box["y"] + 80)
    page.mouse.up()
    reset = page.get_by_role("button", name="Reset zoom")
    reset.click()
    expect(reset).to_be_hidden()


@pytest.mark.parametrize("layers", [5_000, 50_000])
def test_large_reports_stay_small_in_the_document(open_report: Open, layers: int) -> None:
    """Only the rows in view are in the document, at the top, at the end and after sorting."""
    started = time.perf_counter()
    opened = open_report(sample_report(layers))
    expect(opened.page.locator(ROWS).first).to_be_visible()
    print(f"{layers} rows: rendered, written and opened in {time.perf_counter() - started:.2f} s")
    timing = "performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd"
    print(f"  of which the browser: {opened.page.evaluate(timing):.0f} ms")
    assert 0 < opened.page.locator(ROWS).count() < 200
    assert opened.page.get_by_role("treeitem").count() < 300
    opened.page.locator("#layers").focus()
    opened.page.keyboard.press("End")
    expect(opened.page.locator(f"#row-{layers - 1}")).to_be_in_viewport()
    opened.page.locator("th[data-key=tap]").get_by_role("button").click()
    assert 0 < opened.page.locator(ROWS).count() < 200
    expect(opened.page.locator("#layers")).to_have_attribute("aria-rowcount", str(layers + 2))
    opened.page.evaluate(_WATCH_TASKS)
    opened.page.locator("#search").press_sequentially("batchnorm2d layer1.1")
    expect(opened.page.locator(ROWS).first).to_contain_text("layer1.1")
    assert 0 < opened.page.locator(ROWS).count() < 200
    print(f"  longest task while typing into the search: {opened.page.evaluate('window.longest'):.0f} ms")


def test_hostile_names_stay_text(open_report: Open) -> None:
    """Markup in any name is shown as it is written; no element is made of it and no dialog opens."""
    report = sample_report(30)
    row = replace(report.layers[0], tap=HOSTILE, module=HOSTILE, module_type=HOSTILE, reason=HOSTILE)
    tried = (Experiment(HOSTILE, 1.0, HOSTILE),)
    where = (HOSTILE,) * 4
    culprit = Culprit(*where, "high", (HOSTILE,), HOSTILE, (HOSTILE,), *where, tried, 0.5)
    report = replace(
        report,
        culprits=[culprit],
        layers=[row, *report.layers[1:]],
        notes=[HOSTILE],
        settings={"exporter": HOSTILE},
        environment={HOSTILE: HOSTILE},
        timings={HOSTILE: 1.0},
    )
    opened = open_report(report)
    opened.page.locator("#row-0").click()
    expect(opened.page.locator("#row-0 td.c-tap")).to_have_text(HOSTILE)
    expect(opened.page.locator("#detail h3")).to_have_text(HOSTILE)
    expect(opened.page.locator(".culprit-name")).to_have_text(HOSTILE)
    expect(opened.page.locator("#notes-list li")).to_have_text(HOSTILE)
    expect(opened.page.get_by_role("treeitem").nth(1).locator(".node-name")).to_have_text(HOSTILE)
    assert opened.page.locator("img").count() == 0


def test_theme_toggle_switches_and_is_remembered(open_report: Open) -> None:
    """The button turns the page dark, and the next visit is dark as well."""
    page = open_report(sample_report(30)).page
    background = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(background)
    page.get_by_role("button", name="Switch to dark mode").click()
    dark = page.evaluate(background)
    assert light != dark
    page.reload()
    assert page.evaluate(background) == dark
    page.get_by_role("button", name="Switch to light mode").click()
    assert page.evaluate(background) == light


def test_system_theme_is_followed(browser: Browser, tmp_path: Path) -> None:
    """Without a choice of one's own, the system's colour scheme decides."""
    path = tmp_path / "report.html"
    path.write_text(render_html(sample_report(5)), encoding="utf-8")
    colours = []
    for scheme in ("light", "dark"):
        context = browser.new_context(color_scheme=scheme)
        page = context.new_page()
        page.goto(path.as_uri())
        colours.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        context.close()
    assert colours[0] != colours[1]


def test_policy_blocks_what_was_not_rendered(browser: Browser, tmp_path: Path) -> None:
    """The policy works, rather than merely being there: a script added to the file does not run."""
    html = render_html(sample_report(5)).replace("</body>", "<script>window.added = 1</script></body>")
    path = tmp_path / "report.html"
    path.write_text(html, encoding="utf-8")
    page = browser.new_page()
    errors: list[str] = []
    page.on("console", lambda message: errors.append(message.text))
    page.goto(path.as_uri())
    assert page.evaluate("window.added") is None
    assert any("Content Security Policy" in text for text in errors)
    page.close()


def test_printing_shows_the_rows_out_of_view(open_report: Open) -> None:
    """Before printing, all rows of the filter are put into the document, and taken out afterwards."""
    page = open_report(sample_report(300)).page
    assert page.locator(ROWS).count() < 200
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    expect(page.locator(ROWS)).to_have_count(300)
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert page.locator(ROWS).count() < 200


def test_roles_are_those_of_a_grid(open_report: Open) -> None:
    """The table is a grid with labelled columns, and the active row is announced."""
    page = open_report(sample_report()).page
    grid = page.get_by_role("grid", name="Layers")
    expect(grid).to_be_visible()
    heads = grid.get_by_role("columnheader").filter(has=page.get_by_role("button"))
    assert heads.first.text_content() == "#"
    assert heads.count() == grid.locator("#layers-body tr").first.get_by_role("gridcell").count()
    active = grid.get_attribute("aria-activedescendant")
    expect(page.locator(f"#{active}")).to_have_attribute("aria-selected", "true")


@pytest.mark.parametrize("width", [420, 800, 1400, 1900])
@pytest.mark.parametrize("detail", [False, True])
def test_columns_fit_by_themselves(open_report: Open, width: int, detail: bool) -> None:
    """The default columns need no sideways scrolling, names of taps are whole, and so is the page."""
    page = open_report(sample_report()).page
    page.set_viewport_size({"width": width, "height": 900})
    if detail:
        page.locator(ROWS).first.click()
    fits = "node => node.scrollWidth <= node.clientWidth"
    expect(page.locator("#frame")).not_to_have_class("table-frame more-right")
    assert page.locator("#scroller").evaluate(fits)
    assert page.locator("html").evaluate(fits)
    if width >= 1400:
        cut = "nodes => nodes.filter(node => node.scrollWidth > node.clientWidth).length"
        assert page.locator("#layers-body .tap span").evaluate_all(cut) == 0


def test_column_without_any_figure_is_not_shown_by_itself(open_report: Open) -> None:
    """Room is given to columns that say something."""
    report = sample_report(30)
    for source, shown in (("net.py:1", 1), (None, 0)):
        rows = [replace(row, source=source) for row in report.layers]
        page = open_report(replace(report, layers=rows)).page
        page.set_viewport_size({"width": 1900, "height": 900})
        expect(page.locator("th[data-key=cosine]")).to_have_count(1)
        expect(page.locator("th[data-key=source]")).to_have_count(shown)


def test_chosen_columns_stay_and_say_that_there_is_more(open_report: Open) -> None:
    """Columns that were chosen survive a reload; beyond the width a shadow tells so; one click undoes it."""
    report = sample_report()
    page = open_report(report).page
    frame = page.locator("#frame")
    before = page.locator("#layers-head .labels th").count()
    page.locator("#columns-menu summary").click()
    for box in page.locator("#column-list input").all():
        box.check()
    expect(page.locator("#layers-head .labels th")).to_have_count(16)
    page.reload()
    expect(page.locator("#layers-head .labels th")).to_have_count(16)
    expect(frame).to_have_class("table-frame more-right")
    page.locator("#scroller").evaluate("node => { node.scrollLeft = node.scrollWidth; }")
    expect(frame).to_have_class("table-frame more-left")
    source = next(row.source for row in report.layers if row.verdict is Verdict.INTRODUCED)
    expect(page.locator(f"{ROWS}[data-verdict=introduced] td").last).to_have_text(source or "")
    page.locator("#columns-menu summary").click()
    page.get_by_role("button", name="As many as fit").click()
    expect(page.locator("#layers-head .labels th")).to_have_count(before)
    page.keyboard.press("Escape")
    expect(page.locator("#column-list")).to_be_hidden()


def test_ulps_of_healthy_rows_do_not_alarm(open_report: Open) -> None:
    """A large ULP distance is muted and explained where the row is right, and plain where it is wrong."""
    report = sample_report(30)
    metrics = replace(sample_metrics(1e-7), ulp_max=2_000_000)
    layers = [
        replace(report.layers[0], propagated=metrics, verdict=Verdict.OK),
        replace(report.layers[1], propagated=metrics, verdict=Verdict.PROPAGATED),
    ]
    page = open_report(replace(report, layers=layers)).page
    figure = page.locator("#detail").get_by_role("row", name="Max ULP").get_by_role("cell").first
    page.locator("#row-0").click()
    expect(figure.locator(".quiet")).to_have_text("2,000,000")
    expect(figure.locator(".quiet")).to_have_attribute("title", re.compile("near zero"))
    page.locator("#row-1").click()
    expect(figure).to_have_text("2,000,000")
    expect(figure.locator(".quiet")).to_have_count(0)


def test_chart_draws_no_line_over_zeros(open_report: Open) -> None:
    """Between two errors with a zero between them there is nothing at the errors' height."""
    report = sample_report(3, aligned=True)
    big, none = sample_metrics(4e-3), sample_metrics(0.0)
    layers = [
        replace(row, introduced=metrics, propagated=none, noise_floor=None)
        for row, metrics in zip(report.layers, (big, none, big), strict=True)
    ]
    page = open_report(replace(report, layers=layers)).page
    page.wait_for_function("document.getElementById('canvas').width > 300")
    with Image.open(io.BytesIO(page.locator("#canvas").screenshot())) as image:
        pixels = np.asarray(image.convert("RGB"), dtype=int)
    plot = pixels[24 : -24 - 28 - 30, 58:-14]  # without axes, the band of zeros and what reaches into it
    orange = np.nonzero(plot[..., 0] - plot[..., 2] > 80)[1] / plot.shape[1]
    assert ((orange > 0.1) & (orange < 0.25)).sum() > 10  # the first row's mark
    assert not ((orange > 0.25) & (orange < 0.75)).any()


def test_candidates_stand_side_by_side(open_report: Open) -> None:
    """One row each with its verdict in words, and the layers that not every candidate has right."""
    report = sample_candidates(sample_report())
    page = open_report(report).page
    expect(page.locator("h1")).to_have_text("DIVERGED on 2 onnxsim")
    table = page.locator("#candidates-table tbody tr")
    expect(table).to_have_count(3)
    for row, verdict in zip(report.candidates, ("aligned", "diverged", "not compared"), strict=True):
        line = table.filter(has_text=row.name)
        expect(line).to_contain_text(verdict)
        expect(line).to_contain_text(row.reason)
    wrong = [row for row in report.layers if row.verdict is not Verdict.OK]
    matrix = page.locator("#matrix tbody tr")
    expect(matrix.first).to_be_hidden()
    page.locator("#matrix-title").click()
    expect(matrix).to_have_count(len(wrong))
    expect(page.locator("#matrix thead th")).to_have_text(["Layer", "ort:cpu", "2 onnxsim"])
    expect(matrix.first).to_contain_text(wrong[0].tap)
    expect(matrix.first.locator(".badge")).to_have_text(
        [re.compile("ok"), re.compile(wrong[0].verdict.value)]
    )
    page.locator("#matrix-all").click()
    expect(matrix).to_have_count(len(report.layers))
    page.locator("#matrix-all").click()
    expect(matrix).to_have_count(len(wrong))
    matrix.first.locator("button").click()
    expect(page.locator("#detail")).to_contain_text(wrong[0].tap)


def test_a_report_of_one_candidate_has_no_such_section(open_report: Open) -> None:
    """Neither the section nor its link."""
    page = open_report(sample_report()).page
    expect(page.locator("#candidates")).to_be_hidden()
    expect(page.locator("#sections")).not_to_contain_text("Candidates")


def test_a_report_without_outputs_that_ran_says_so(open_report: Open) -> None:
    """What agrees is then no more than layers."""
    report = sample_report(12, aligned=True)
    page = open_report(report).page
    expect(page.locator("#verdict-lead")).to_have_text("Every compared tap agrees with PyTorch.")
    skipped = [replace(row, verdict=Verdict.SKIPPED) for row in report.outputs]
    page = open_report(replace(report, outputs=skipped)).page
    expect(page.locator("#verdict-lead")).to_contain_text("PyTorch. No output could be compared.")


def test_samples_are_listed_and_sorted(open_report: Open) -> None:
    """Those that fail first; a click on a heading sorts, a second one the other way; never all at once."""
    page = open_report(data_set(3, 2, total=2000)).page
    expect(page.locator("#verdict-lead")).to_contain_text("3 of 2,000 samples fail.")
    names = page.locator("#samples-table tbody td:first-child")
    expect(names).to_have_count(200)
    expect(page.locator("#samples-more")).to_contain_text("The first 200 of 2,000 samples")
    assert [name[7:11] for name in names.all_text_contents()[:6]] == [
        "0002",
        "0001",
        "0000",
        "0003",
        "0004",
        "0005",
    ]
    heading = page.get_by_role("button", name="Sample", exact=True)
    heading.click()
    assert names.first.text_content() == "sample_0000.npz"
    expect(heading).to_be_focused()
    heading.click()
    assert names.first.text_content() == "sample_1999.npz"
    expect(page.locator("#samples-table th[aria-sort=descending]")).to_have_text("Sample")


def test_detail_shows_a_layer_over_all_samples(open_report: Open) -> None:
    """How often it differs, and its mean and worst errors with the sample that has them."""
    report = data_set(3, total=2000)
    page = open_report(report, f"#tap={quote(report.layers[4].tap)}").page
    detail = page.locator("#detail")
    expect(detail).to_contain_text("is to blame in 0.05 % of 2,000 samples.")
    expect(detail.get_by_role("row", name="Introduced max abs")).to_contain_text("sample_0000.npz")


def test_one_sample_has_no_list_of_samples(open_report: Open) -> None:
    """And hostile names of samples stay text."""
    expect(open_report(sample_report()).page.locator("#samples")).to_be_hidden()
    page = open_report(data_set(1, 1, total=3, name=HOSTILE + "{}")).page
    expect(page.locator("#samples-table tbody td").first).to_have_text(HOSTILE + "0")
