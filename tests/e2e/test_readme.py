"""The README tells the truth: its example prints what it says, its map names what is there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(marker: str) -> str:
    """The fenced block under ``<!-- marker -->``."""
    found = re.search(rf"<!-- {marker} -->\n```\w+\n(.*?)```", README, re.DOTALL)
    assert found is not None, f"the README has no block {marker!r}"
    return found[1]


def test_example_prints_what_the_readme_says() -> None:
    """The ten lines of Python run as written and give the output shown under them."""
    run = subprocess.run(
        [sys.executable, "-c", block("example")], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert [line.split() for line in run.stdout.splitlines()] == [
        line.split() for line in block("example output").splitlines()
    ]


def test_map_of_the_code_is_complete() -> None:
    """Every module and package at the top of alignkit is in the map, and nothing else is."""
    section = README.split("## Map of the code")[1].split("## ")[0]
    named = set(re.findall(r"[\w]+\.py|[\w]+/", section)) - {"alignkit/"}
    there = {
        path.name + ("/" if path.is_dir() else "")
        for path in (ROOT / "alignkit").iterdir()
        if (path.suffix == ".py" and not path.name.startswith("__"))
        or (path.is_dir() and (path / "__init__.py").exists())
    }
    unexplained = there - named - {"progress.py", "environment.py", "tensors.py", "untouched.py"}
    assert not unexplained
    assert named <= there


def test_test_command_is_found_by_ci() -> None:
    """The block that ``.ci/run`` executes ends in pytest, whose summary must come last."""
    assert (
        block("tests")
        .strip()
        .splitlines()[-1]
        .rsplit("&&", 1)[-1]
        .strip()
        .startswith(".venv/bin/python -m pytest")
    )
