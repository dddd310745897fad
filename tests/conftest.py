"""What all tests share: golden files, the option that rewrites them, and the table of mapped files."""

from __future__ import annotations

import gc
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.shared import FOLDER

# A run starts an interpreter many times: each reads what the first has compiled.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

if "PYTEST_XDIST_WORKER" in os.environ:
    # A worker per core: threads of torch's own would only get in each other's way.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

GOLDEN = Path(__file__).parent / "golden"

GoldenCheck = Callable[[str, str], None]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite the files under tests/golden")


def pytest_configure(config: pytest.Config) -> None:
    """A folder for the files that tests share, whichever process makes them."""
    if FOLDER not in os.environ:
        os.environ[FOLDER] = tempfile.mkdtemp(prefix="alignkit-files-")
        config.add_cleanup(lambda: shutil.rmtree(os.environ.pop(FOLDER), ignore_errors=True))


def pytest_collection_finish() -> None:
    """What the tests import stays to the end: the collector need not look at it again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 10, 20)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the table that the tests of ``tests/mapping`` made, whichever processes ran them."""
    reports = [report for found in terminalreporter.stats.values() for report in found]
    calls = [report for report in reports if getattr(report, "when", "") == "call"]
    properties = [pair for report in calls for pair in report.user_properties]
    rows = [row for name, text in properties if name == "mapping" for row in json.loads(text)]
    if rows:
        from tests.mapping.score import Row
        from tests.mapping.table import render

        terminalreporter.section("mapping: files that nobody marked")
        terminalreporter.write_line(render(sorted((Row(**row) for row in rows), key=_place)))


def _place(row: Any) -> tuple[int, str]:
    from tests.mapping.subject import MODELS

    return MODELS.index(row.model), row.exporter


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests first: at the end of a run with several workers none is left to one of them alone."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> GoldenCheck:
    """``golden(name, text)`` requires that ``text`` is, byte for byte, the file ``tests/golden/name``."""

    def check(name: str, text: str) -> None:
        path = GOLDEN / name
        if request.config.getoption("--update-golden"):
            path.write_bytes(text.encode("utf-8"))
        if not path.is_file():
            pytest.fail(f"there is no golden file {path.name}; write it with pytest --update-golden")
        expected = path.read_bytes().decode("utf-8")
        assert text == expected, f"{path.name} differs; if that is meant, run pytest --update-golden"

    return check
