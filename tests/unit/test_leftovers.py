"""Temporary folders: gone with the run that made them, and with the next one where it was killed."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from alignkit.leftovers import PREFIX, remove_leftovers
from alignkit.storage import temporary_folder
from tests.command_line import environment

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="locks on folders")

HOLDER = """
import sys, time
from alignkit.storage import temporary_folder

with temporary_folder() as folder:
    (folder / "marked.onnx").write_bytes(b"weights")
    print(folder, flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for temporary files that only this test uses."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def holder(scratch: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Another run, in the middle of its work, and its folder."""
    command = [sys.executable, "-c", HOLDER]
    env = environment({"TMPDIR": str(scratch)})
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().strip())
        yield process, folder
        process.kill()


def age(folder: Path) -> Path:
    """Let ``folder`` look as if nobody had written to it for an hour."""
    hour_ago = time.time() - 3600
    os.utime(folder, (hour_ago, hour_ago))
    return folder


def made(folder: Path) -> Path:
    folder.mkdir()
    (folder / "inner").mkdir()
    (folder / "inner" / "weights.bin").write_bytes(b"weights")
    return folder


def test_a_folder_goes_with_its_block(scratch: Path) -> None:
    """Also when the block fails."""
    with temporary_folder() as folder:
        assert folder.parent == scratch
        (folder / "marked.onnx").write_bytes(b"graph")
    assert not list(scratch.iterdir())
    with pytest.raises(ValueError, match="of the run"), temporary_folder():
        raise ValueError("of the run")
    assert not list(scratch.iterdir())


def test_what_a_killed_run_left_goes_with_the_next_one(
    holder: tuple[subprocess.Popen[str], Path], scratch: Path
) -> None:
    """As long as it lives its folder stays, however old; once it is dead, it goes."""
    process, folder = holder
    age(folder)
    with temporary_folder():
        assert (folder / "marked.onnx").exists()
    process.kill()
    process.wait()
    assert folder.exists()
    with temporary_folder() as own:
        assert not folder.exists()
        assert own.exists()
    assert not list(scratch.iterdir())


def test_a_young_folder_is_left_alone(scratch: Path) -> None:
    """Its run may not have come to lock it yet."""
    young = made(scratch / f"{PREFIX}young")
    remove_leftovers()
    assert (young / "inner" / "weights.bin").exists()
    remove_leftovers()
    age(young)
    remove_leftovers()
    assert not young.exists()


def test_nothing_but_own_folders_is_removed(scratch: Path) -> None:
    """Not by a similar name, not a file, and nothing that a link points to."""
    elsewhere = made(scratch / "precious")
    others = [
        age(made(scratch / "alignkit-mine")),
        age(made(scratch / f"my-{PREFIX}x")),
        age(elsewhere),
    ]
    file, link = scratch / f"{PREFIX}file", scratch / f"{PREFIX}link"
    file.write_text("mine")
    age(file)
    link.symlink_to(elsewhere)
    os.utime(link, (0, 0), follow_symlinks=False)
    remove_leftovers()
    assert all((folder / "inner" / "weights.bin").exists() for folder in others)
    assert file.read_text() == "mine"
    assert link.is_symlink()


def test_another_users_folder_is_none_of_ours(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who may remove it is theirs to say."""
    folder = age(made(scratch / f"{PREFIX}theirs"))
    monkeypatch.setattr(os, "getuid", lambda: folder.stat().st_uid + 1)
    remove_leftovers()
    assert folder.exists()


def test_where_nothing_can_be_looked_for_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has no room for a folder either says so itself, with more to the point."""
    monkeypatch.setattr(tempfile, "tempdir", "/proc/no such folder")
    remove_leftovers()
