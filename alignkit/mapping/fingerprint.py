"""Fingerprints: tell from a few numbers whether two tensors can hold the same values.

Both kinds bound the distance ``|c - r|`` of two tensors in L2 norm, so that no true pair is lost:

- a *signature* that no permutation and no reshape changes: sums of 1-Lipschitz functions, here
  ``x`` and ``|x - t|`` for a few fixed ``t``, over the square root of the size. Cauchy-Schwarz:
  none of them differs by more than ``|c - r|``;
- a *sketch* in the elements' own order: projections on seeded random vectors. Their root mean
  square difference estimates ``|c - r|`` itself (Johnson and Lindenstrauss 1984).

A fingerprint proposes; the tensors themselves are compared before a pair is believed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import permutations
from math import inf, prod

import numpy as np
import numpy.typing as npt

from alignkit.mapping.records import Layout, Match, Shape
from alignkit.metrics.dtypes import dtype_kind
from alignkit.records import Array

Floats = npt.NDArray[np.float64]

_THRESHOLDS = (0.0, 0.1, -0.1, 1.0, -1.0, 10.0)
_WIDTH = 8  # random projections
_BLOCK = 4096
_PIECE = 16 * _BLOCK  # elements worked on at a time: their float64 copies stay in cache
_SLACK = 3.0  # a sketch of eight projections estimates a distance within this factor
_SAMPLES = 48
_MASK = 1e30  # attention masks hold the largest float, or minus infinity
_MOST_AXES = 5  # 120 orders
_LEAST_PERMUTED = 8  # elements: fewer agree in some order by chance
_SEEN = 1024  # elements of a channel: as many as tell a line from a curve
_LEAST_ON_LINE = 4  # of them: fewer lie on a line by chance
_STRAIGHT = 1e-3


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """``kind`` is "float" or "int"; ``simple`` tensors hold at most two values and identify nothing."""

    size: int
    kind: str
    simple: bool
    ordinary: int
    norm: float
    signature: Floats
    sketch: Floats


def kind_of(dtype: npt.DTypeLike) -> str:
    """``"float"`` or ``"int"`` (booleans count as integers), empty for what cannot be compared."""
    kind = dtype_kind(dtype)
    return "int" if kind == "bool" else kind if kind in ("float", "int") else ""


def fingerprint(array: Array) -> Fingerprint:
    """The fingerprint of ``array``; NaN, infinities and mask values count as zero in its sums."""
    flat = np.asarray(array).ravel()
    factors = np.random.default_rng(1).standard_normal((-(-flat.size // _BLOCK), _WIDTH))
    sums, sketch = np.zeros(1 + len(_THRESHOLDS)), np.zeros(_WIDTH)
    ordinary, squares = 0, 0.0
    values: set[float] | None = set()  # None: more than two
    for start in range(0, flat.size, _PIECE):
        exact = flat[start : start + _PIECE].astype(np.float64)
        kept = _is_ordinary(exact)
        exact[~kept] = 0.0
        ordinary += int(np.count_nonzero(kept))
        squares += float(np.square(exact).sum())
        sums += _sums(exact)
        sketch += _sketch(exact, factors[start // _BLOCK :])
        values = _values_among(values, exact)
    return Fingerprint(
        flat.size,
        kind_of(flat.dtype),
        flat.size < 2 or values is not None,
        ordinary,
        float(np.sqrt(squares)),
        sums / np.sqrt(max(flat.size, 1)),
        sketch,
    )


def _sums(exact: Floats) -> Floats:
    """What the signature adds up."""
    moved = np.empty_like(exact)
    sums = [exact.sum()]
    for threshold in _THRESHOLDS:
        np.subtract(exact, threshold, out=moved)
        sums.append(np.abs(moved, out=moved).sum())
    return np.asarray(sums)


def _values_among(known: set[float] | None, piece: Floats) -> set[float] | None:
    """``known`` and what ``piece`` holds; None for more than two values."""
    if known is None or not is_simple(piece):
        return None
    both = known | {float(piece.min()), float(piece.max())}
    return both if len(both) <= 2 else None


def _is_ordinary(exact: Floats) -> npt.NDArray[np.bool_]:
    return np.abs(exact) < _MASK  # NaN compares false


def is_simple(values: Array) -> bool:
    """Whether a tensor holds no more than two different values."""
    if values.size < 2:
        return True
    return bool(((values == values.min()) | (values == values.max())).all())


def _sketch(exact: Floats, factors: Floats) -> Floats:
    """Projections on random vectors that are products of a block's own and a position's own factor."""
    blocks = -(-exact.size // _BLOCK)
    padded = np.zeros(blocks * _BLOCK)
    padded[: exact.size] = exact
    per_block = padded.reshape(blocks, _BLOCK) @ _within()
    return np.asarray((per_block * factors[:blocks]).sum(axis=0))


@cache
def _within() -> Floats:
    return np.random.default_rng(0).standard_normal((_BLOCK, _WIDTH))


def find_match(
    name: str, value: Array, found: Fingerprint, tensor: Array, known: Fingerprint, tolerance: float
) -> Match | None:
    """How ``value`` holds ``tensor``: in the same order or, where that fails, with its axes permuted."""
    if (found.size, found.kind, found.ordinary) != (known.size, known.kind, known.ordinary):
        return None
    reach = tolerance * known.norm if known.norm else tolerance
    if np.abs(found.signature - known.signature).max() > reach * (1 + 1e-9):
        return None
    sketched = np.linalg.norm(found.sketch - known.sketch) / np.sqrt(_WIDTH)
    if sketched <= _SLACK * reach:
        layout = Layout.reshape(value.shape, tensor.shape)
        apart = distance(value.reshape(tensor.shape), tensor)
        if apart <= tolerance:
            return Match(name, apart, layout)
    if known.simple or known.size < _LEAST_PERMUTED:
        return None
    return nearest_layout(name, value, tensor, tolerance)


def nearest_layout(name: str, value: Array, tensor: Array, tolerance: float) -> Match | None:
    """The permutation of axes that brings ``value`` nearest to ``tensor``, within ``tolerance``."""
    positions, sources = _samples(value.shape, tensor.shape)
    expected = tensor.ravel()[positions].astype(np.float64)
    sampled = value.ravel()[sources].astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        apart = np.linalg.norm(np.nan_to_num(sampled - expected), axis=1)
    near = apart <= _SLACK * tolerance * np.linalg.norm(np.nan_to_num(expected))
    best: Match | None = None
    for layout, is_near in zip(layouts(value.shape, tensor.shape), near, strict=True):
        if is_near:
            apart_all = distance(layout.apply(value), tensor)
            if apart_all <= (tolerance if best is None else 0.5 * best.distance):
                best = Match(name, apart_all, layout)
    return best


@lru_cache(maxsize=1024)
def _samples(source: Shape, shape: Shape) -> tuple[Array, Array]:
    """A few flat positions in the tensor and, for each layout, where they come from in the value."""
    positions = np.random.default_rng(2).integers(0, max(prod(shape), 1), _SAMPLES)
    return positions, np.stack([layout.sources_of(positions) for layout in layouts(source, shape)])


def layouts(source: Shape, shape: Shape) -> Iterator[Layout]:
    """Ways to lay a tensor of ``shape`` out as a value of ``source`` (equal sizes): reshaped, the
    value's axes permuted, the tensor's axes permuted."""
    yield Layout.reshape(source, shape)
    for own, of_value in ((source, True), (shape, False)):
        split = tuple(dim for dim in own if dim != 1)
        if not 1 < len(split) <= _MOST_AXES:
            continue
        for order in permutations(range(len(split))):
            if order == tuple(range(len(split))):
                continue
            if of_value:
                yield Layout(source, split, order, shape)
            else:
                back = tuple(int(axis) for axis in np.argsort(order))
                yield Layout(source, tuple(split[axis] for axis in order), back, shape)


def distance(value: Array, tensor: Array) -> float:
    """``|value - tensor| / |tensor|`` in L2 norm over float64; infinite where they cannot be equal.

    Integers are equal or not. NaN, infinities and mask values must sit at the same places: they would
    drown all else in a sum.
    """
    if kind_of(tensor.dtype) != "float":
        return 0.0 if np.array_equal(value, tensor) else inf
    if value.size != tensor.size:
        return inf
    left, right = value.ravel(), tensor.ravel()
    apart = norm = 0.0
    for start in range(0, right.size, _PIECE):
        piece = slice(start, start + _PIECE)
        pair = _ordinary_of(left[piece].astype(np.float64), right[piece].astype(np.float64))
        if pair is None:
            return inf
        apart += float(np.square(pair[0] - pair[1]).sum())
        norm += float(np.square(pair[1]).sum())
    return float(np.sqrt(apart) / np.sqrt(norm)) if norm else (0.0 if apart == 0.0 else inf)


def _ordinary_of(left: Floats, right: Floats) -> tuple[Floats, Floats] | None:
    """Both without what is not ordinary; None where that does not sit at the same places."""
    kept = _is_ordinary(right)
    if kept.all() and _is_ordinary(left).all():
        return left, right
    if not np.array_equal(np.sign(left[~kept]), np.sign(right[~kept]), equal_nan=True):
        return None
    left, right = left[kept], right[kept]
    return (left, right) if _is_ordinary(left).all() else None


def scales_channels(before: Array, after: Array) -> bool | None:
    """Whether every channel of ``after`` is that of ``before``, scaled and shifted, as a BatchNorm does.

    Channels lie along the second axis or the last. None where they hold too few elements to tell.
    """
    if before.shape != after.shape or before.ndim < 2:
        return False
    told = [_lies_on_lines(before, after, axis) for axis in sorted({1, before.ndim - 1})]
    return None if None in told and True not in told else True in told


def _lies_on_lines(before: Array, after: Array, axis: int) -> bool | None:
    left, right = (
        np.moveaxis(side, axis, 0).reshape(side.shape[axis], -1)[:, :_SEEN].astype(np.float64)
        for side in (before, after)
    )
    if left.shape[1] < _LEAST_ON_LINE:
        return None
    left, right = (side - side.mean(axis=1, keepdims=True) for side in (left, right))
    squares = np.square(left).sum(axis=1)
    slopes = (left * right).sum(axis=1) / np.where(squares > 0, squares, 1.0)
    rest = right - slopes[:, np.newaxis] * left
    return bool(np.linalg.norm(rest) <= _STRAIGHT * np.linalg.norm(right))
