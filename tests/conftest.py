"""What all tests share: golden files, and the option that rewrites them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # A worker per core: threads of torch's own would only get in each other's way.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

GOLDEN = Path(__file__).parent / "golden"

GoldenCheck = Callable[[str, str], None]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite the files under tests/golden")


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
