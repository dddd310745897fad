"""Several inputs: files, folders, patterns and objects, each sample loaded when its turn comes."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from alignkit.errors import InputError
from alignkit.load import InputSource, open_inputs


@pytest.fixture(autouse=True)
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of samples: two good ones, a damaged one between them, and a file of another kind."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "data"
    folder.mkdir()
    for name, value in (("a", 1.0), ("c", 3.0)):
        np.savez(folder / f"{name}.npz", x=np.full((2, 4), value, np.float32))
    (folder / "b.npz").write_bytes((folder / "a.npz").read_bytes()[:60])
    (folder / "notes.txt").write_text("not a sample")
    return tmp_path


def names(source: InputSource) -> list[str]:
    return [lazy.name for lazy in source]


def refusal(*sources: str, split: bool = False) -> str:
    """Why the sources are refused at once."""
    with pytest.raises(InputError) as caught:
        open_inputs(sources, split=split)
    return str(caught.value)


@pytest.mark.parametrize("source", ["data", "data/*.npz", "dat[a]/?.npz", "**/*.npz"])
def test_a_folder_and_a_pattern_are_the_files_in_order(source: str) -> None:
    """Sorted by name, and none of another kind from a folder."""
    found = open_inputs([source])
    assert names(found) == [f"data{os.sep}{name}.npz" for name in "abc"]
    assert found.size == 3


def test_a_file_is_read_when_its_turn_comes() -> None:
    """Not before: a damaged one is told by its own load, the others load all the same."""
    first, damaged, last = open_inputs(["data"])
    os.remove("data/a.npz")
    with pytest.raises(InputError, match=r"no file data.a\.npz"):
        first.load()
    with pytest.raises(InputError, match=r"data.b\.npz cannot be read.*damaged"):
        damaged.load()
    assert last.load().kwargs["x"].max() == 3


def test_a_source_can_be_walked_again() -> None:
    """Two exporters compare on the same samples."""
    source = open_inputs(["data", "data/a.npz"])
    assert names(source) == names(source)
    assert len(names(source)) == source.size == 4


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("data/*.npy", ["no file matches data/*.npy", "check the pattern"]),
        ("none.npz", ["there is no file none.npz", "check the path"]),
        ("empty", ["the folder empty holds no .npz", "name another"]),
    ],
)
def test_names_without_a_file_are_refused_at_once(source: str, words: list[str]) -> None:
    """Before anything is loaded, whatever stands beside them."""
    Path("empty").mkdir()
    message = refusal("data/a.npz", source)
    assert [word for word in words if word not in message] == []


def test_a_file_that_may_not_be_read_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may read everything, so that the system's answer is made up here."""
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert "data/a.npz cannot be read: permission denied" in refusal("data/a.npz")


def test_the_first_axis_can_count_samples() -> None:
    """Every array is cut along it, and keeps an axis of size 1; the number shows at the end."""
    np.savez("many.npz", x=np.arange(12, dtype=np.float32).reshape(3, 4), n=np.arange(3))
    source = open_inputs(["many.npz"], split=True)
    assert source.size is None
    loaded = [lazy.load() for lazy in source]
    assert names(source) == [f"many.npz[{row}]" for row in range(3)]
    assert [tuple(one.kwargs["x"].shape) for one in loaded] == [(1, 4)] * 3
    assert [one.kwargs["n"].tolist() for one in loaded] == [[0], [1], [2]]


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": np.ones((3, 4)), "y": np.ones((2, 4))}, "arrays of 2 and 3 along their first axes"),
        ({"x": np.ones((3, 4)), "y": np.float32(1)}, "a scalar, which has no first axis"),
    ],
)
def test_arrays_that_cannot_be_split(arrays: dict[str, np.ndarray], words: str) -> None:
    """An entry that says why, so that other files are compared all the same."""
    np.savez("many.npz", **arrays)
    refused, good = open_inputs(["many.npz", "data/a.npz"], split=True), open_inputs(["data/a.npz"])
    first, *others = refused
    with pytest.raises(InputError, match=words):
        first.load()
    assert (len(others), good.size) == (2, 1)


def test_an_iterator_is_walked_one_by_one() -> None:
    """A generator function is called again for each walk; what it raises ends the walk and is told."""
    Path("made.py").write_text(
        "import torch\n\ndef samples():\n    for i in range(3):\n        open(f'made{i}', 'w').close()\n"
        "        yield torch.full((2, 4), float(i))\n    raise RuntimeError('the disk is gone')\n"
    )
    source = open_inputs(["made.py:samples"])
    assert source.size is None
    walk = iter(source)
    next(walk), next(walk)
    assert sorted(path.name for path in Path().glob("made?")) == ["made0", "made1"]
    *good, last = source
    assert [lazy.load().args[0].max().item() for lazy in good] == [0, 1, 2]
    with pytest.raises(InputError, match=r"RuntimeError: the disk is gone.*after 3 samples"):
        last.load()
