"""The HTML report in a real browser, opened from a file, as a user would."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import quote

import pytest

from alignkit.records import Culprit, ReportData, Verdict
from alignkit.report.html import render_html
from tests.sample_report import sample_report

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
    """The banner says DIVERGED, and the culprit card names module, op, cause and the repro command."""
    report = sample_report()
    page = open_report(report).page
    culprit = report.culprits[0]
    expect(page).to_have_title("DIVERGED · alignkit report")
    expect(page.locator("h1")).to_have_text("DIVERGED")
    expect(page.locator("#verdict-lead")).to_contain_text(culprit.module)
    card = page.locator(".culprit")
    for text in (culprit.module, culprit.op, culprit.cause, *culprit.evidence, culprit.advice):
        expect(card).to_contain_text(text)
    expect(card).to_contain_text(f"python {culprit.repro}")
    expect(page.locator("#outputs-table tbody tr")).to_have_count(len(report.outputs))
    expect(page.locator("#coverage-body")).to_contain_text(next(iter(report.coverage.reasons)))
    expect(page.locator("#notes-list")).to_contain_text(report.notes[0])


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


def test_hostile_names_stay_text(open_report: Open) -> None:
    """Markup in any name is shown as it is written; no element is made of it and no dialog opens."""
    report = sample_report(30)
    row = replace(report.layers[0], tap=HOSTILE, module=HOSTILE, module_type=HOSTILE, reason=HOSTILE)
    culprit = Culprit(
        HOSTILE, HOSTILE, HOSTILE, HOSTILE, "high", (HOSTILE,), HOSTILE, (HOSTILE,), HOSTILE, HOSTILE
    )
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
    assert grid.get_by_role("columnheader").filter(has=page.get_by_role("button")).count() == 15
    active = grid.get_attribute("aria-activedescendant")
    expect(page.locator(f"#{active}")).to_have_attribute("aria-selected", "true")
