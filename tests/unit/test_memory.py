"""Memory for many arrays: they lie apart from each other, and are freed with the last of them."""

from __future__ import annotations

import weakref

import numpy as np
import pytest

from alignkit import memory
from alignkit.memory import Blocks, Buffers

WANTED = {
    "a": ((3, 5), np.float32),
    "scalar": ((), np.float64),
    "none": ((0, 4), np.int64),
    "b": ((7,), np.bool_),
}


def test_arrays_of_a_buffer_do_not_overlap_and_are_overwritten_by_the_next() -> None:
    """Shapes and dtypes as asked for, each array aligned; a second call gives the same memory."""
    buffers = Buffers()
    arrays = buffers.arrays(WANTED)
    assert {name: (a.shape, a.dtype.type) for name, a in arrays.items()} == WANTED
    assert all(array.ctypes.data % array.itemsize == 0 for array in arrays.values())
    for number, array in enumerate(arrays.values()):
        array[...] = number
    assert [np.unique(array).tolist() for array in arrays.values()] == [[0], [1], [], [1]]
    again = buffers.arrays({"other": ((4,), np.float32)})["other"]
    assert np.shares_memory(again, arrays["a"])


@pytest.mark.parametrize("block", [256, 2**20])
def test_arrays_of_blocks_stay_apart_and_free_their_memory(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where one is as large as a block, and where a block is full."""
    monkeypatch.setattr(memory, "_BLOCK", block)
    blocks = Blocks()
    arrays = [blocks.empty((size,), np.float32) for size in (3, 10, 200, 0, 16, 16)]
    for number, array in enumerate(arrays):
        array[:] = number
    assert [np.unique(array).tolist() for array in arrays] == [[0], [1], [2], [], [4], [5]]
    first = weakref.ref(arrays[0].base)
    assert first() is not None
    del arrays, array, blocks
    assert first() is None
