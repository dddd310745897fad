"""Memory that is used again: arrays lie apart from each other, until the next ones take their place."""

from __future__ import annotations

import numpy as np

from alignkit.memory import Buffers

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
