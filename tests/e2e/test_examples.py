"""Every example runs as a user would run it, shows what it claims, and the sample reports are sound."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from alignkit.report import Report

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
NOT_EXAMPLES = {"resnet.py", "make_reports.py"}  # the model that examples share; the samples' generator

# example -> a line of its output (a regular expression) that tells that it found what it is about
TELLING = {
    "assert_aligned_in_pytest.py": r"^2 passed in ",
    "classic_debugger.py": r"^x_3 MSE: \d\.\d+e-1\d$",
    "context_manager.py": r"^TorchScript exporter: <Report ALIGNED: \d+ of \d+ taps compared",
    "digits_wrong_layer.py": r"^The spoilt file: <Report DIVERGED: error starts at features\.4 ",
    "dynamic_shapes.py": r"^baked, at lengths 5, 12 and 40: <Report DIVERGED: 2 of 3 samples fail.* at pool ",
    "find_the_operation.py": r"^up1 / interpolate \(examples/\w+\.py:\d+\) -> Resize: export-branch$",
    "model_for_cli.py": r"^DIVERGED: error starts at layer3\.1 \(Clip\)",
    "sklearn_dump.py": r"^DIVERGED",
    "wrong_preprocessing.py": r"^fed reshaped not transposed: the cause is 'input'",
}
MACHINE_PATHS = re.compile(rb"(?<![\w.])/(?:home|root|tmp|usr|Users)/|[A-Z]:\\\\?Users")


def run_script(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``examples/name`` from the repository root with this tree's alignkit."""
    return subprocess.run(
        [sys.executable, f"examples/{name}", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
    )


def test_every_example_is_run_and_listed() -> None:
    """No example is left out of the tests or of the list in its README."""
    there = {path.name for path in EXAMPLES.glob("*.py")}
    assert there - NOT_EXAMPLES == TELLING.keys()
    listed = set(re.findall(r"\]\((\w+\.py)\)", (EXAMPLES / "README.md").read_text(encoding="utf-8")))
    assert listed == there


@pytest.mark.slow
@pytest.mark.parametrize("name", TELLING)
def test_example_shows_what_it_claims(name: str) -> None:
    """The script exits with 0, which is its own verdict on itself, and prints the line it is there for."""
    run = run_script(name)
    assert run.returncode == 0, run.stdout + run.stderr
    assert re.search(TELLING[name], run.stdout, re.MULTILINE), run.stdout


@pytest.mark.slow
def test_sample_reports_can_be_made_again(tmp_path: Path) -> None:
    """The generator writes the same files, with the same verdicts and culprits, as are in ``reports/``."""
    run = run_script("make_reports.py", str(tmp_path))
    assert run.returncode == 0, run.stdout + run.stderr
    for name in ("aligned", "diverged"):
        made, kept = tmp_path / name, ROOT / "reports" / name
        assert {path.name for path in made.iterdir()} == {path.name for path in kept.iterdir()}
        new, old = Report.load(made), Report.load(kept)
        assert [row.tap for row in new.layers] == [row.tap for row in old.layers]
        assert [culprit.tap for culprit in new.culprits] == [culprit.tap for culprit in old.culprits]


@pytest.mark.parametrize(("name", "blamed"), [("aligned", []), ("diverged", [("layer3.1", "export-branch")])])
def test_sample_report_is_sound(name: str, blamed: list[tuple[str, str]]) -> None:
    """A committed sample loads, says what its folder's name says, and blames the right module alone."""
    report = Report.load(ROOT / "reports" / name)
    assert report.aligned == (name == "aligned")
    assert [(culprit.module, culprit.cause) for culprit in report.culprits] == blamed
    assert report.coverage.compared == len(report.layers) > 50


def test_sample_reports_are_small_and_name_no_machine() -> None:
    """What is committed is less than 1.5 MB and holds no path of the machine that made it."""
    files = [path for path in (ROOT / "reports").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 1.5e6
    assert [path.name for path in files if MACHINE_PATHS.search(path.read_bytes())] == []
