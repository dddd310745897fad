"""The HTML report as text: self-contained, locked down by its policy, its data intact."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from alignkit.records import ReportData
from alignkit.report import html as html_module
from alignkit.report.html import SCRIPTS, render_html
from alignkit.report.schema import report_from_json, report_to_dict
from alignkit.report.text import render_text
from alignkit.report.words import verdict_line
from tests.sample_report import sample_report

HOSTILE = "</script><img src=x onerror=alert(1)>\u2028<!--&amp;\ud800"


class _Elements(HTMLParser):
    """Start tags with their attributes, and the text of each script and style element."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {"script": [], "style": [], "title": []}
        self._inside: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in self.texts:
            self._inside = tag
            self.texts[tag].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == self._inside:
            self._inside = None

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.texts[self._inside][-1] += data


def _parse(html: str) -> _Elements:
    elements = _Elements()
    elements.feed(html)
    return elements


def _data(html: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(_parse(html).texts["script"][0])
    return document


def _rows_of(columns: dict[str, list[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _hostile_report() -> ReportData:
    report = sample_report(30)
    row = replace(report.layers[0], tap=HOSTILE, module=HOSTILE, reason=HOSTILE, onnx_value=HOSTILE)
    return replace(report, layers=[row, *report.layers[1:]], notes=[HOSTILE], settings={HOSTILE: HOSTILE})


@pytest.mark.parametrize(("aligned", "word"), [(True, "ALIGNED"), (False, "DIVERGED")])
def test_verdict_is_readable_without_scripts(aligned: bool, word: str) -> None:
    """The title and the heading say the verdict in words, whatever the browser runs."""
    html = render_html(sample_report(aligned=aligned))
    assert _parse(html).texts["title"] == [f"{word} · alignkit report"]
    assert f'<h1 id="verdict-word">{word}</h1>' in html


def test_nothing_outside_the_file_is_named() -> None:
    """No element points anywhere but into the document, and no URL occurs in it at all."""
    html = render_html(sample_report())
    assert re.findall(r"(?:https?:)?//[\w-]+\.\w+", html) == []
    for tag, attributes in _parse(html).tags:
        for name in {"src", "href", "action", "data", "srcset", "poster"} & attributes.keys():
            assert (attributes[name] or "").startswith(("#", "data:")), (tag, attributes)


def test_policy_allows_exactly_the_inlined_script_and_style() -> None:
    """The hashes in the policy are those of the texts in the file; everything else is forbidden."""
    elements = _parse(render_html(sample_report()))
    policy = next(a["content"] or "" for t, a in elements.tags if t == "meta" and "http-equiv" in a)
    directives = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    (style,), (_, script) = elements.texts["style"], elements.texts["script"]
    for directive, text in (("style-src", style), ("script-src", script)):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert directives.pop(directive) == f"'sha256-{digest}'"
    assert directives == {
        "default-src": "'none'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }


def test_no_markup_that_the_policy_would_block() -> None:
    """No element carries a style attribute or an inline event handler."""
    for tag, attributes in _parse(render_html(sample_report())).tags:
        blocked = [name for name in attributes if name == "style" or name.startswith("on")]
        assert blocked == [], tag


@pytest.mark.parametrize("layers", [0, 1, 60])
def test_data_parses_back_to_the_report(layers: int) -> None:
    """The embedded data is the whole report, and words: turned into rows again, it is report.json."""
    report = sample_report(layers)
    document = _data(render_html(report))
    assert len(document.pop("culprit_words")) == len(report.culprits)
    assert document.pop("verdict_line") == verdict_line(report)
    assert (document.pop("sample_words"), document.pop("sensitivity_advice")) == ([], "")
    document["layers"] = _rows_of(document["layers"])
    assert document == report_to_dict(report)
    assert report_to_dict(report_from_json(json.dumps(document))) == report_to_dict(report)


def test_hostile_names_stay_inside_the_data() -> None:
    """A name that closes the script element, opens a comment or breaks UTF-8 changes no markup."""
    html, plain = render_html(_hostile_report()), render_html(sample_report(30))
    assert _parse(html).tags == _parse(plain).tags
    assert "<img" not in html
    assert html.encode("utf-8")
    assert _data(html)["layers"]["module"][0] == HOSTILE


def test_culprits_are_said_in_the_words_of_the_other_formats() -> None:
    """Cost, how-to and repro command come with the data: the page has no second wording of them."""
    report = sample_report(30)
    (words,) = _data(render_html(report))["culprit_words"]
    text = " ".join(render_text(report).split())
    assert words.pop("operation") == "batch_norm → BatchNormalization"
    assert {key for key, value in words.items() if not value or value not in text} == set()
    assert set(words) == {"module_type", "meaning", "share", "symptom", "how_to", "command"}


def test_every_script_is_in_the_page_once() -> None:
    """The scripts beside the module are those of the list, each in the page, in its order."""
    folder = Path(str(html_module.__file__)).parent
    assert sorted(SCRIPTS) == sorted(path.name for path in folder.glob("*.js"))
    script = _parse(render_html(sample_report(3))).texts["script"][1]
    places = [script.index((folder / name).read_text(encoding="utf-8")) for name in SCRIPTS]
    assert places == sorted(places)


def test_large_integers_keep_their_last_digit() -> None:
    """Worst values beyond 2**53 are strings, since a browser would show two different ones as equal."""
    report = sample_report(30)
    assert report.layers[0].propagated is not None
    metrics = replace(report.layers[0].propagated, worst_reference=2**60 + 1, worst_candidate=True)
    row = replace(report.layers[0], propagated=metrics)
    columns = _data(render_html(replace(report, layers=[row])))["layers"]
    assert columns["worst_reference"] == [str(2**60 + 1)]
    assert columns["worst_candidate"] == [True]


def test_rendering_is_reproducible() -> None:
    """The same report gives the same bytes: no clock, no random identifiers."""
    assert render_html(sample_report(20)) == render_html(sample_report(20))
