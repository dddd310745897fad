"""Bind arrays to a graph's inputs: by name, in the element types that the graph declares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from alignkit.errors import InputError
from alignkit.records import Array

DTYPES: Mapping[str, Any] = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(bfloat16)": ml_dtypes.bfloat16,
    "tensor(bool)": np.bool_,
    **{
        f"tensor({kind}{bits})": np.dtype(f"{kind}{bits}")
        for kind in ("int", "uint")
        for bits in (8, 16, 32, 64)
    },
}
"""Type of a graph's input -> dtype of what is bound to it."""

_INEXACT = ("tensor(float)", "tensor(double)", "tensor(float16)", "tensor(bfloat16)")


def bind_feeds(feeds: Mapping[str, Array], inputs: Mapping[str, str]) -> dict[str, Array]:
    """What the graph's ``inputs`` (name -> type) take of ``feeds``. Raises :class:`InputError`."""
    bound = {name: cast_to(feeds[name], kind, name) for name, kind in inputs.items() if name in feeds}
    missing = sorted(inputs.keys() - bound.keys())
    if missing:
        raise InputError(f"the ONNX graph needs an input {missing[0]!r} that was not given.")
    return bound


def cast_to(value: Array, kind: str, name: str) -> Array:
    """``value`` in the element type that the graph demands; unchanged where it already is."""
    dtype = DTYPES.get(kind)
    if dtype is None:
        raise InputError(f"input {name!r} is a {kind}, which a tensor cannot be bound to.")
    array = np.ascontiguousarray(value) if value.ndim else np.asarray(value)
    if array.dtype == np.dtype(dtype):
        return array
    if np.issubdtype(array.dtype, np.complexfloating):
        raise InputError(f"input {name!r} is complex; the ONNX graph wants {kind}.")
    with np.errstate(invalid="ignore", over="ignore"):
        cast = array.astype(dtype)
    if cast.dtype == np.float16 and cast.ndim:  # a mask, say: converters too make it the largest number
        grown = np.isinf(cast) & np.isfinite(array)
        cast[grown] = np.copysign(np.finfo(np.float16).max, array[grown])
    exact = kind in _INEXACT or bool(np.array_equal(cast.astype(array.dtype), array))
    if not exact:
        raise InputError(
            f"input {name!r} holds {array.dtype} values that do not fit the graph's {kind}. "
            "Give inputs of the graph's type."
        )
    return cast
