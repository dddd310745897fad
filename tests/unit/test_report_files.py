"""Saving and loading a report: complete or not at all, and never over what is not ours."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from alignkit.errors import ReportError
from alignkit.records import ReportData
from alignkit.report import Report, files
from alignkit.report.files import load_report, save_report
from alignkit.report.schema import report_to_dict
from alignkit.report.table import render_csv
from tests.sample_report import sample_report

PLOTS = {
    "error_by_layer.png",
    "error_by_layer.svg",
    "error_distribution.png",
    "error_distribution.svg",
}


@pytest.fixture
def report() -> ReportData:
    return sample_report(12)


@pytest.fixture
def quick_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """One byte per plot, for the tests that look at the folder only."""

    def plots(report: ReportData) -> dict[str, bytes]:
        names = PLOTS if report.histograms else {name for name in PLOTS if "by_layer" in name}
        return dict.fromkeys(sorted(names), b"x")

    monkeypatch.setattr(files, "render_plots", plots)


def snapshot(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def fail(*args: object) -> str:
    raise RuntimeError("renderer broke")


def test_save_writes_the_whole_report(report: ReportData, tmp_path: Path) -> None:
    """The folder is created with its parents and holds page, table, data and real plots, nothing else."""
    folder = Report(report).save(tmp_path / "a" / "b")
    assert folder == tmp_path / "a" / "b"
    contents = snapshot(folder)
    assert contents.keys() == {"index.html", "layers.csv", "report.json", *PLOTS}
    assert contents["layers.csv"] == render_csv(report).encode()
    assert contents["index.html"].lower().startswith(b"<!doctype html>")
    assert contents["error_by_layer.png"].startswith(b"\x89PNG")


@pytest.mark.usefixtures("quick_plots")
@pytest.mark.parametrize("name", ["", "report.json"])
def test_load_reads_what_was_saved(report: ReportData, tmp_path: Path, name: str) -> None:
    """A folder and its report.json give the same report back."""
    folder = save_report(report, tmp_path / "out")
    loaded = Report.load(folder / name)
    assert loaded.to_dict() == report_to_dict(report)
    assert loaded.layers[0] == report.layers[0]


@pytest.mark.usefixtures("quick_plots")
def test_unpaired_surrogate_survives(report: ReportData, tmp_path: Path) -> None:
    """A name that UTF-8 cannot encode is saved and read back as it is."""
    odd = replace(report, layers=[replace(report.layers[0], tap="bad \udc80 name")])
    assert load_report(save_report(odd, tmp_path / "out")).layers[0].tap == "bad \udc80 name"


@pytest.mark.usefixtures("quick_plots")
def test_empty_folder_is_taken(report: ReportData, tmp_path: Path) -> None:
    """A folder that the user made beforehand will do."""
    assert save_report(report, tmp_path) == tmp_path
    assert (tmp_path / "report.json").is_file()


@pytest.mark.usefixtures("quick_plots")
def test_older_report_is_kept_unless_forced(report: ReportData, tmp_path: Path) -> None:
    """Saving twice is refused in one line that names the way out; force replaces the report."""
    save_report(report, tmp_path)
    before = snapshot(tmp_path)
    other = sample_report(5, aligned=True)
    with pytest.raises(ReportError, match=r"already holds a report.*force") as caught:
        save_report(other, tmp_path)
    assert "\n" not in str(caught.value)
    assert snapshot(tmp_path) == before
    save_report(other, tmp_path, force=True)
    assert report_to_dict(load_report(tmp_path)) == report_to_dict(other)


@pytest.mark.usefixtures("quick_plots")
def test_force_leaves_no_plot_of_the_older_report(report: ReportData, tmp_path: Path) -> None:
    """A plot that the new report lacks does not stay behind; files that are not ours do."""
    save_report(report, tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    save_report(replace(report, histograms=()), tmp_path, force=True)
    assert snapshot(tmp_path).keys() == {
        "index.html",
        "layers.csv",
        "report.json",
        "error_by_layer.png",
        "error_by_layer.svg",
        "notes.txt",
    }


@pytest.mark.usefixtures("quick_plots")
@pytest.mark.parametrize("content", ["mine", '{"schema": "other/1"}', "[]", "\ud800"])
def test_foreign_folder_is_refused(report: ReportData, tmp_path: Path, content: str) -> None:
    """A folder with other things in it, even a report.json of another tool, is not written to."""
    (tmp_path / "report.json").write_bytes(content.encode("utf-8", "surrogatepass"))
    before = snapshot(tmp_path)
    with pytest.raises(ReportError, match="is not empty and holds no report"):
        save_report(report, tmp_path)
    assert snapshot(tmp_path) == before


@pytest.mark.usefixtures("quick_plots")
def test_force_adds_to_a_foreign_folder(report: ReportData, tmp_path: Path) -> None:
    """With force the report is written, and files of other names stay, plots' names included."""
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "error_distribution.png").write_text("mine")
    save_report(replace(report, histograms=()), tmp_path, force=True)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert (tmp_path / "error_distribution.png").read_text() == "mine"
    assert load_report(tmp_path)


@pytest.mark.usefixtures("quick_plots")
@pytest.mark.parametrize("force", [True, False])
def test_file_is_no_folder(report: ReportData, tmp_path: Path, force: bool) -> None:
    """A file at the path, or above it, is one clear error and stays as it is."""
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(ReportError, match="it is a file"):
        save_report(report, file, force=force)
    with pytest.raises(ReportError, match="file is a file"):
        save_report(report, file / "below", force=force)
    assert file.read_text() == "mine"


@pytest.mark.usefixtures("quick_plots")
def test_unwritable_folder_is_refused(
    report: ReportData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder without the right to write is told before anything is rendered (root always has it)."""

    def denied(path: object, mode: int) -> bool:
        return not mode & os.W_OK

    monkeypatch.setattr(os, "access", denied)
    monkeypatch.setattr(files, "render_html", fail)
    with pytest.raises(ReportError, match="is not writable"):
        save_report(report, tmp_path)
    with pytest.raises(ReportError, match="is not writable"):
        save_report(report, tmp_path / "new" / "deeper")
    assert not (tmp_path / "new").exists()


@pytest.mark.usefixtures("quick_plots")
@pytest.mark.parametrize("renderer", ["render_html", "render_csv", "render_plots", "report_to_json"])
def test_crash_in_a_renderer_leaves_nothing(
    report: ReportData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renderer: str
) -> None:
    """Whichever renderer fails, no file is there and not even the folder; with force the old report stays."""
    older = save_report(report, tmp_path / "older")
    before = snapshot(older)
    monkeypatch.setattr(files, renderer, fail)
    with pytest.raises(RuntimeError, match="renderer broke"):
        save_report(report, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    with pytest.raises(RuntimeError, match="renderer broke"):
        save_report(report, older, force=True)
    assert snapshot(older) == before


def full_disk(source: object, target: object) -> None:
    raise OSError(28, "No space left on device")


def interrupt(source: object, target: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.usefixtures("quick_plots")
@pytest.mark.parametrize(("replacement", "error"), [(full_disk, ReportError), (interrupt, KeyboardInterrupt)])
def test_failed_write_leaves_no_temporary_file(
    report: ReportData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    replacement: Callable[[object, object], None],
    error: type[BaseException],
) -> None:
    """When a file cannot get its name, the temporary ones go; files that were there stay."""
    (tmp_path / "notes.txt").write_text("mine")
    monkeypatch.setattr(os, "replace", replacement)
    with pytest.raises(error):
        save_report(report, tmp_path, force=True)
    assert snapshot(tmp_path) == {"notes.txt": b"mine"}


@pytest.mark.usefixtures("quick_plots")
def test_data_gets_its_name_last(report: ReportData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """report.json stands for a complete folder, so it is renamed after all others."""
    order: list[str] = []
    rename = os.replace

    def recording(source: Path, target: Path) -> None:
        order.append(target.name)
        rename(source, target)

    monkeypatch.setattr(os, "replace", recording)
    save_report(report, tmp_path)
    assert order[-1] == "report.json"
    assert set(order) == snapshot(tmp_path).keys()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not json", "no valid JSON"),
        (b'{"schema": "alignkit.report/99"}', "schema 'alignkit.report/99', expected 'alignkit.report/1'"),
        (b"[1, 2]", "schema None"),
        (b'{"schema": "alignkit.report/1", "aligned": true}', "damaged report"),
        (b"\xff\xfe", "not UTF-8"),
        (b"[" * 200_000, "not a report"),
    ],
)
def test_load_tells_what_is_wrong(tmp_path: Path, content: bytes, message: str) -> None:
    """A file that is no report is one line with the path and the reason."""
    (tmp_path / "report.json").write_bytes(content)
    with pytest.raises(ReportError, match=message) as caught:
        load_report(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_load_tells_what_is_not_there(tmp_path: Path) -> None:
    """A wrong path and a folder without a report are told apart."""
    with pytest.raises(ReportError, match="no such file or folder"):
        load_report(tmp_path / "nowhere")
    with pytest.raises(ReportError, match=r"the folder holds no report\.json"):
        load_report(tmp_path)


@pytest.mark.usefixtures("quick_plots")
def test_saved_json_is_strict(report: ReportData, tmp_path: Path) -> None:
    """The file holds no NaN or Infinity token, also when the report has such numbers."""
    wild = replace(report, layers=[replace(report.layers[0], noise_ratio=float("inf"))])
    text = (save_report(wild, tmp_path) / "report.json").read_text(encoding="utf-8")
    tokens: list[str] = []
    json.loads(text, parse_constant=tokens.append)
    assert tokens == []
