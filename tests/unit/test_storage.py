"""Tensors that are held, spilled or linked: whichever it is, they come back bit for bit."""

from __future__ import annotations

import gc
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from alignkit.errors import StorageError
from alignkit.records import Array
from alignkit.storage import TensorStore, Without, flat_pieces, temporary_folder

posix = pytest.mark.skipif(sys.platform != "linux", reason="open files are listed under /proc")

ARRAYS: dict[str, Array] = {
    "float32": np.linspace(-1, 1, 7, dtype=np.float32),
    "not a number": np.array([np.nan, np.inf, -0.0]),
    "float16": np.arange(6, dtype=np.float16).reshape(2, 3),
    "bfloat16": np.linspace(0, 9, 5).astype(ml_dtypes.bfloat16),
    "bool": np.array([True, False, True]),
    "whole numbers": np.array([[2**62, -1]]),
    "complex": np.array([1 + 2j, 3j], np.complex64),
    "no dimensions": np.array(3.25),
    "a bfloat16 without dimensions": np.array(1.5, ml_dtypes.bfloat16),
    "no elements": np.empty((0, 3), np.float32),
    "in columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "every other one": np.arange(10.0)[::2],
}


def spilled() -> TensorStore:
    store = TensorStore(room=0)
    for name, array in ARRAYS.items():
        store.spill(name, array)
    return store


def assert_same(found: Array, known: Array) -> None:
    assert (found.dtype, found.shape) == (known.dtype, known.shape)
    assert found.tobytes() == known.tobytes()


def open_files() -> list[str]:
    """What this process holds open that ``alignkit`` made, by the names that the system knows."""
    folder = Path("/proc/self/fd")
    names = [os.readlink(entry) for entry in folder.iterdir() if entry.is_symlink()]
    return [name for name in names if "alignkit-" in name or "(deleted)" in name]


@pytest.mark.parametrize("name", ARRAYS)
def test_what_was_spilled_comes_back_bit_for_bit(name: str) -> None:
    """Whatever its type and its shape; in rows, as the reference is everywhere else."""
    found = spilled()[name]
    assert_same(found, ARRAYS[name])
    assert found.flags.c_contiguous


def test_what_was_spilled_is_read_only_and_lies_where_kernels_expect_it() -> None:
    """A write would reach a private page or the file, and either is wrong."""
    store = spilled()
    for name, array in ARRAYS.items():
        found = store[name]
        if array.size:
            assert not found.flags.writeable, name
            assert found.ctypes.data % 64 == 0, name


@settings(deadline=None, max_examples=40)
@given(
    st.lists(
        hnp.arrays(st.sampled_from(["u1", "f2", "f4", "i8", "?"]), hnp.array_shapes(min_dims=0, min_side=0))
    )
)
def test_any_mix_of_sizes_comes_back(arrays: list[Array]) -> None:
    """Each lies behind the one before, wherever that ends."""
    store = TensorStore(room=0)
    for place, array in enumerate(arrays):
        store.spill(str(place), array)
    for place, array in enumerate(arrays):
        assert_same(store[str(place)], array)


def test_a_store_is_a_mapping_in_the_order_in_which_tensors_came() -> None:
    """Held, spilled and linked ones among each other: rows of a report are in that order."""
    store, array = TensorStore(room=100), np.ones(10)
    store.keep("held", array)
    store.spill("spilled", array * 2)
    store.link("like held", "held")
    store.link("like spilled", "spilled")
    store.link("like like spilled", "like spilled")
    store.keep("last", array[:1])
    names = ["held", "spilled", "like held", "like spilled", "like like spilled", "last"]
    assert list(store) == list(store.keys()) == names
    assert len(store) == 6
    assert "spilled" in store
    assert "other" not in store
    assert store.get("other") is None
    assert store["like held"] is store["held"] is array
    assert_same(store["like like spilled"], array * 2)
    assert store.links == {"like held": "held", "like spilled": "spilled", "like like spilled": "spilled"}
    with pytest.raises(KeyError):
        store["other"]


def test_room_is_for_what_is_kept_and_shrinks_with_it() -> None:
    """Without a limit there is always room, and nothing is written anywhere."""
    store = TensorStore(room=100)
    assert store.has_room(100)
    assert not store.has_room(101)
    store.keep("a", np.ones(10))
    assert store.has_room(20)
    assert not store.has_room(21)
    assert store.spilled_bytes == 0
    store.spill("b", np.ones(10))
    assert store.spilled_bytes == 80
    assert TensorStore().has_room(2**60)


@posix
def test_the_file_has_no_name_and_goes_with_the_store() -> None:
    """A process that is killed leaves nothing: the system takes the file back with it."""
    gc.collect()
    before = open_files()
    store = spilled()
    (made,) = set(open_files()) - set(before)
    assert "(deleted)" in made
    assert not Path(made.split(" (deleted)")[0]).exists()
    del store
    gc.collect()
    assert open_files() == before


@posix
def test_nothing_is_opened_before_something_is_spilled() -> None:
    """What fits into memory touches no disk."""
    before = open_files()
    store = TensorStore(room=10**6)
    store.keep("a", np.ones(9))
    assert open_files() == before


def test_arrays_hold_when_the_store_is_gone() -> None:
    """A row may look at a tensor when the capture was dropped already."""
    found = dict(spilled())
    gc.collect()
    for name, array in ARRAYS.items():
        assert_same(found[name], array)


class Stubborn:
    """A file that takes some bytes at a time, and fails once."""

    def __init__(self, file: Any, fail: bool) -> None:
        self.file = file
        self.fail = fail

    def write(self, data: memoryview) -> int:
        written: int = self.file.write(data[:5])
        if self.fail:
            raise OSError(28, "No space left on device")
        return written

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def test_a_write_of_a_part_is_gone_on_with() -> None:
    """The system may take less than it is given."""
    store = TensorStore(room=0)
    store.spill("a", np.arange(3.0))
    store._file._file = Stubborn(store._file._file, fail=False)  # type: ignore[assignment]
    store.spill("b", np.arange(9.0))
    assert_same(store["b"], np.arange(9.0))


def test_a_full_disk_is_said_and_harms_nothing_before_or_after() -> None:
    """Where a model catches the error and goes on, later tensors lie where they are looked for."""
    store = TensorStore(room=0)
    store.spill("a", np.arange(3.0))
    file = store._file._file
    store._file._file = Stubborn(file, fail=True)  # type: ignore[assignment]
    with pytest.raises(StorageError) as caught:
        store.spill("b", np.arange(9.0))
    text = str(caught.value)
    assert text.startswith("cannot spill ")
    assert "no space left on device" in text
    assert "Make room there, or set TMPDIR" in text
    assert "b" not in store
    store._file._file = file
    store.spill("c", np.arange(5.0))
    assert_same(store["a"], np.arange(3.0))
    assert_same(store["c"], np.arange(5.0))


def test_without_a_folder_for_temporary_files_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a tensor and of exported files, each with what could not be done."""
    monkeypatch.setattr(tempfile, "tempdir", "/proc/no such folder")
    with pytest.raises(
        StorageError, match=r"cannot spill 24 bytes of the reference in /proc/no such folder: no such"
    ):
        TensorStore(room=0).spill("a", np.ones(3))
    with pytest.raises(StorageError, match="cannot make a folder for exported files"), temporary_folder():
        pass


def test_hidden_values_are_as_if_they_were_not_there() -> None:
    """In every way of asking; the others are not read for it."""
    store = spilled()
    seen = Without(store, {"bool", "never there"})
    assert "bool" not in seen
    assert seen.get("bool") is None
    with pytest.raises(KeyError):
        seen["bool"]
    with pytest.raises(KeyError):
        seen["never there"]
    with pytest.raises(KeyError):
        flat_pieces(seen, "bool", 1)
    assert list(seen) == [name for name in ARRAYS if name != "bool"]
    assert len(seen) == len(ARRAYS) - 1
    assert_same(seen["complex"], ARRAYS["complex"])


def kept() -> TensorStore:
    store = TensorStore()
    for name, array in ARRAYS.items():
        store.keep(name, array)
    return store


@pytest.mark.parametrize("size", [1, 4, 100])
@pytest.mark.parametrize("name", ARRAYS)
def test_pieces_are_the_flat_tensor_wherever_it_lies(name: str, size: int) -> None:
    """In C order, none longer than asked for, whatever holds the values."""
    for values in (spilled(), kept(), Without(spilled(), ()), ARRAYS):
        pieces = list(flat_pieces(values, name, size))
        flat = ARRAYS[name].reshape(-1)
        assert [place.start for place, _ in pieces] == list(range(0, flat.size, size))
        for place, piece in pieces:
            assert_same(piece, flat[place])


@posix
def test_a_piece_of_a_spilled_tensor_takes_no_more_memory_than_itself() -> None:
    """Reading piece by piece leaves the rest of the file out of this process's memory."""
    store = TensorStore(room=0)
    store.spill("large", np.zeros(2**24, np.uint8))
    lengths = []
    for _, piece in flat_pieces(store, "large", 2**20):
        maps = Path("/proc/self/maps").read_text().splitlines()
        spans = [line.split()[0].split("-") for line in maps if "alignkit-" in line or "(deleted)" in line]
        lengths.append(sum(int(stop, 16) - int(start, 16) for start, stop in spans))
        assert not piece.any()
    assert len(lengths) == 16
    assert max(lengths) < 2**24 // 4
