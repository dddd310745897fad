"""Why two sides are fed different values: the one change that makes their inputs agree.

Permutations of axes, reversed axes, a scale and an offset (of the whole or of each channel), a
cast, and rows shifted by padding on the other side are tried on what the deployed side was fed.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from alignkit.diagnose.bench import distance
from alignkit.metrics import dtype_kind, ulp
from alignkit.records import Array, Experiment

_SHOWN = 3
_MOST_AXES = 5
_ROUNDING = 1e-4  # of the reference's scale: preprocessing is done in float32, in another order
_FEWEST = 4  # elements of a fit: two always lie on a line
_CASTS = ("float16", "int8", "uint8", "int32")


def explain_input(expected: Array, found: Array) -> list[Experiment]:
    """The simplest change that makes both sides agree; where none does, those that come closest."""
    allowed = _allowed(expected, found) if dtype_kind(expected.dtype) == "float" else 0.0
    tried = []
    for name, value in _changes(expected, found):
        tried.append(_tried(name, expected, value, allowed))
        if heals(tried[-1]):
            return tried[-1:]
    return sorted(tried, key=lambda one: np.inf if one.error is None else one.error)[:_SHOWN]


def _allowed(expected: Array, found: Array) -> float:
    """Rounding: of float32 arithmetic, or to the whole numbers that the deployed side was fed."""
    wide = np.abs(expected).astype(np.float64)
    rounding = _ROUNDING * float(np.max(wide, initial=0.0))
    spread = float(np.std(found, dtype=np.float64)) if dtype_kind(found.dtype) == "int" else 0.0
    if spread:
        rounding = max(rounding, float(np.std(expected, dtype=np.float64)) / spread)
    # A change that leaves most of the difference explains nothing.
    return min(rounding, distance(expected, found) / 10)


_HEALS = "makes both sides agree"
_FAILS = "does not make them agree"


def heals(experiment: Experiment) -> bool:
    """Whether the change that was tried explains the difference."""
    return experiment.reading == _HEALS


def _tried(name: str, expected: Array, value: Array, allowed: float) -> Experiment:
    if value.shape != expected.shape:
        return Experiment(name, None, "has another shape")
    error = distance(expected, value)
    return Experiment(name, error, _HEALS if error <= allowed else _FAILS)


def _changes(expected: Array, found: Array) -> Iterator[tuple[str, Array]]:
    yield from _casts(expected, found)
    if found.shape == expected.shape and dtype_kind(expected.dtype) in ("int", "bool"):
        yield from _shifts(expected, found)  # token ids and masks, which may read the same reversed
    yield from _permutations(expected, found)
    yield from _reversals(expected, found)
    if found.shape == expected.shape and dtype_kind(expected.dtype) == "float":
        yield from _affine(expected, found)
        for name, value in _reversals(expected, found):
            for affine, changed in _affine(expected, value):
                yield f"{name}, then {affine}", changed
        yield from _shifts(expected, found)


def _casts(expected: Array, found: Array) -> Iterator[tuple[str, Array]]:
    """The deployed side was fed the reference's values, cast to something coarser."""
    if dtype_kind(expected.dtype) != "float" or found.shape != expected.shape:
        return
    for name in _CASTS:
        with np.errstate(all="ignore"):
            cast = expected.astype(name).astype(np.float64)
        error = distance(cast, found.astype(np.float64))
        if error <= ulp(float(np.max(np.abs(cast), initial=0.0)), np.float32):
            yield f"casting PyTorch's input to {name}", expected


def _permutations(expected: Array, found: Array) -> Iterator[tuple[str, Array]]:
    if not 2 <= found.ndim <= _MOST_AXES or found.ndim != expected.ndim:
        return
    for order in itertools.permutations(range(found.ndim)):
        if order != tuple(range(found.ndim)) and tuple(found.shape[i] for i in order) == expected.shape:
            yield f"transposing the deployed side's input by {order}", found.transpose(order)
    if found.size == expected.size and found.shape == expected.shape and found.ndim >= 3:
        # NHWC memory that was declared NCHW, or the other way round.
        channels_last = (found.shape[0], *found.shape[2:], found.shape[1])
        back = found.reshape(channels_last)
        yield "reading the deployed side's memory as channels-last", np.moveaxis(back, -1, 1)
        moved = np.moveaxis(found, 1, -1)
        yield "reading the deployed side's memory as channels-first", moved.reshape(expected.shape)


def _reversals(expected: Array, found: Array) -> Iterator[tuple[str, Array]]:
    if found.shape != expected.shape:
        return
    for axis in range(1, found.ndim):
        what = "channel order" if found.shape[axis] in (3, 4) else "order"
        yield f"reversing the {what} on axis {axis}", np.flip(found, axis)


def _affine(expected: Array, found: Array) -> Iterator[tuple[str, Array]]:
    """Least squares of ``scale * found + offset``, over the whole and for each channel."""
    x, y = found.astype(np.float64), expected.astype(np.float64)
    if x.size < _FEWEST or not (np.isfinite(x).all() and np.isfinite(y).all()):
        return
    scale, offset = _fit(x.ravel(), y.ravel())
    yield f"scaling by {scale:.6g} and adding {offset:.6g}", scale * x + offset
    for axis in (1, x.ndim - 1) if x.ndim >= 3 else ():
        if not 1 < x.shape[axis] <= 16 or x.size // x.shape[axis] < _FEWEST:
            continue
        left, right = (np.moveaxis(side, axis, 0).reshape(x.shape[axis], -1) for side in (x, y))
        fits = [_fit(a, b) for a, b in zip(left, right, strict=True)]
        shape = [-1 if i == axis else 1 for i in range(x.ndim)]
        scales, offsets = (np.array(values).reshape(shape) for values in zip(*fits, strict=True))
        named = ", ".join(f"{a:.4g} x {b:+.4g}" for a, b in fits[:4])
        yield f"normalising each channel of axis {axis} ({named})", scales * x + offsets


def _fit(x: Array, y: Array) -> tuple[float, float]:
    mean_x, mean_y = float(x.mean()), float(y.mean())
    spread = float(np.mean((x - mean_x) ** 2))
    scale = float(np.mean((x - mean_x) * (y - mean_y))) / spread if spread else 0.0
    return scale, mean_y - scale * mean_x


def _shifts(expected: Array, found: Array) -> Iterator[tuple[str, Array]]:
    """Rows that hold the same run of values, padded on the other side."""
    if expected.ndim < 2 or expected.shape[-1] > 8192 or dtype_kind(expected.dtype) == "complex":
        return
    rows = found.reshape(-1, found.shape[-1])
    wanted = expected.reshape(-1, expected.shape[-1])
    if rows.shape[0] > 4096:
        return
    shifted = np.stack([_aligned(row, goal) for row, goal in zip(rows, wanted, strict=True)])
    yield "shifting the rows (padding on the other side)", shifted.reshape(expected.shape)


def _aligned(row: Array, goal: Array) -> Array:
    """``row`` rolled to start where ``goal``'s content starts, when both hold the same content."""
    for pad in {row[0].item(), row[-1].item()}:
        mine, theirs = np.flatnonzero(row != pad), np.flatnonzero(goal != pad)
        if mine.size and theirs.size:
            rolled = np.roll(row, int(theirs[0]) - int(mine[0]))
            if np.array_equal(rolled, goal):
                return rolled
    return row
