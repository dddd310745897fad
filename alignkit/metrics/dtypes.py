"""Kinds of dtype and the spacing of floats, for numpy's own dtypes and those of ml_dtypes.

ml_dtypes is imported only when such a dtype turns up: a dtype of numpy's own never needs it.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

DType = np.dtype[Any]

_KINDS = {
    "float": "float",
    "bfloat": "float",
    "int": "int",
    "uint": "int",
    "bool": "bool",
    "complex": "complex",
}


def dtype_kind(dtype: npt.DTypeLike) -> str:
    """``"float"``, ``"int"``, ``"bool"``, ``"complex"`` or ``"other"``.

    bfloat16 and the float8 family are floats, although numpy itself calls them void. Accepts a
    dtype, a scalar type or a name such as ``"bfloat16"``; an unknown name raises ``TypeError``.
    """
    return _kind_of(as_dtype(dtype))


@cache  # asked many times of each tensor, and numpy makes the name up anew each time
def _kind_of(dtype: DType) -> str:
    # The kind letter of an ml_dtypes dtype differs between its versions; its name does not.
    return _KINDS.get(dtype.name.split("_")[0].rstrip("0123456789"), "other")


def as_dtype(dtype: npt.DTypeLike) -> DType:
    """``dtype`` as a numpy dtype; names of ml_dtypes are understood, others raise ``TypeError``."""
    known: DType
    try:
        known = np.dtype(dtype)
    except TypeError:
        import ml_dtypes

        if not (isinstance(dtype, str) and isinstance(getattr(ml_dtypes, dtype, None), type)):
            raise
        known = np.dtype(getattr(ml_dtypes, dtype))
    return known


def float_info(dtype: DType) -> Any:
    """``finfo`` of a floating or complex dtype, from numpy or from ml_dtypes.

    Extended precision has that of float64, which is what it is measured in.
    """
    if issubclass(dtype.type, (np.longdouble, np.clongdouble)):
        return np.finfo(np.float64)
    if issubclass(dtype.type, np.inexact):
        return np.finfo(dtype)
    import ml_dtypes

    return ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]


def ulp(scale: float, dtype: npt.DTypeLike) -> float:
    """The distance between neighbouring values of ``dtype`` at magnitude ``scale``.

    ``eps * 2**floor(log2 |scale|)``, the exponent held within the normal range, so that zero and
    subnormal magnitudes give the smallest subnormal and anything beyond the largest finite value
    gives the spacing there (IEEE 754-2019, section 3.3; Goldberg 1991, section 1.2). A complex
    dtype has the spacing of its components; a dtype that is not floating has none, 0.0.
    NaN gives NaN.
    """
    kind = as_dtype(dtype)
    if dtype_kind(kind) not in ("float", "complex"):
        return 0.0
    if math.isnan(scale):
        return math.nan
    info = float_info(kind)
    lowest = _exponent(float(info.smallest_normal))
    highest = _exponent(float(info.max))
    exponent = highest if math.isinf(scale) else min(max(_exponent(scale), lowest), highest)
    return math.ldexp(float(info.eps), exponent)


def _exponent(value: float) -> int:
    """``floor(log2 |value|)``, exactly; zero lies below every float."""
    return math.frexp(value)[1] - 1 if value else -(2**20)


def coarser(left: DType, right: DType) -> DType:
    """The one of two floating dtypes with the wider spacing."""
    return left if float_info(left).eps >= float_info(right).eps else right
