"""Short memory, a full disk, a run that is ended half-way: one clear line, and nothing left behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.command_line import NET, alignkit, command, environment

_WITHIN_A_KILOBYTE = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))
from alignkit.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "net.py").write_text(NET, encoding="utf-8")
    (tmp_path / "temporary").mkdir()
    return tmp_path


def compare(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """With the folder for temporary files inside ``folder``."""
    fixed = ("compare", "net.py:build", "--exporter", "torchscript", *arguments)
    return alignkit(*fixed, cwd=folder, env={"TMPDIR": str(folder / "temporary")})


def left_behind(folder: Path) -> set[str]:
    """What is there besides the user's own file and what Python and other libraries keep."""
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    others = {name for name in there if name.startswith("temporary") and "alignkit-" not in name}
    return {name for name in there - others if name != "net.py" and "__pycache__" not in name}


def test_a_budget_below_the_largest_tap_names_one_that_works(folder: Path) -> None:
    """And with that one the comparison runs."""
    refused = compare(folder, "--max-memory", "63")
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    least = re.search(r"takes 64 bytes\. Give at least --max-memory (\d+)", refused.stderr)
    assert least is not None, refused.stderr
    assert left_behind(folder) == set()
    assert compare(folder, "--max-memory", least[1]).stdout.startswith("ALIGNED")


@pytest.mark.parametrize("size", ["much", "0", "-1", "12 parsecs"])
def test_a_budget_that_is_no_size_is_told(folder: Path, size: str) -> None:
    """With an example of one."""
    refused = compare(folder, f"--max-memory={size}")
    assert refused.returncode == 2
    assert "is not a size; write e.g. 256MiB" in refused.stderr
    assert refused.stderr.count("\n") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="no limits on files there")
def test_a_disk_that_is_full_is_told(folder: Path) -> None:
    """What was to be written, where, why it cannot be, and what to do."""
    (folder / "wide.py").write_text(
        "import torch\ndef build():\n"
        "    return torch.nn.Sequential(torch.nn.Tanh(), torch.nn.ReLU()).eval(), torch.randn(2, 512)\n",
        encoding="utf-8",
    )
    arguments = ("compare", "wide.py:build", "--exporter", "torchscript", "--max-memory", "4KiB")
    done = subprocess.run(
        [sys.executable, "-c", _WITHIN_A_KILOBYTE, *arguments],
        cwd=folder,
        env=environment({"TMPDIR": str(folder / "temporary"), "PYTHONDONTWRITEBYTECODE": "1"}),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"of the reference in {folder / 'temporary'}: file too large. Make room there" in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="signals of another kind there")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_run_that_is_ended_half_way_leaves_no_file_beside_the_users(
    folder: Path, number: signal.Signals
) -> None:
    """No part of a report either; where the run could still act, no temporary file."""
    arguments = (
        "compare",
        "net.py:Slow",
        "--input-shape",
        "x:2x4",
        "--exporter",
        "torchscript",
        "-o",
        "report",
    )
    process = subprocess.Popen(
        command(*arguments),
        cwd=folder,
        env=environment({"TMPDIR": str(folder / "temporary")}),
        stderr=subprocess.PIPE,
        text=True,
        # A shell lets what it starts in the background ignore interrupts, and that is inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    for _ in range(600):
        if (folder / "exporting").exists():
            break
        time.sleep(0.1)
    (folder / "exporting").unlink()
    os.kill(process.pid, number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == {signal.SIGTERM: 143, signal.SIGINT: 130}.get(number, -number)
    assert said == {signal.SIGTERM: "alignkit: terminated\n", signal.SIGINT: "alignkit: interrupted\n"}.get(
        number, ""
    )
    temporary = {name for name in left_behind(folder) if name.startswith("temporary")}
    assert left_behind(folder) == temporary
    assert number == signal.SIGKILL or not temporary
    assert not (folder / "report").exists()
