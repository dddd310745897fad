"""Statistics: a few numbers in place of a tensor, the same wherever they are made.

They are the same on every machine but for float rounding, and any program can make them: 24 float64
numbers per tensor, in the order of :class:`Statistics`. NaN and infinities are counted and enter the
other sums as zeros. Random signs and sampled places come from ``mix``, the finaliser of SplitMix64
(Steele, Lea and Flood 2014), applied to an element's index, not from a generator with a state.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from alignkit.dump.container import row_major
from alignkit.dump.records import Kept
from alignkit.metrics import dtype_kind
from alignkit.metrics.dtypes import as_dtype
from alignkit.records import Array

Floats = npt.NDArray[np.float64]

PROJECTIONS = 8  # signs of one byte
SAMPLES = 8
SIZE = 8 + PROJECTIONS + SAMPLES

_CHUNK = 2**16  # elements
_SIGNS_OF_BYTE = np.unpackbits(np.arange(256, dtype=np.uint8)[None], axis=0).astype(np.float64) * 2 - 1


@dataclass(frozen=True, slots=True)
class Statistics:
    """Of the finite elements: extremes, mean, population standard deviation, L2 norm. Then counts of
    what is not finite; the projections ``sum(±x)``; the elements at :func:`sampled_places`.

    ``size`` counts real numbers: a complex element is two.
    """

    kept: Kept
    low: float
    high: float
    mean: float
    std: float
    norm: float
    nan: int
    positive_inf: int
    negative_inf: int
    projections: Floats
    samples: Floats

    @property
    def size(self) -> int:
        """How many real numbers the tensor holds."""
        return math.prod(self.kept.shape) * (2 if self.kept.dtype.startswith("complex") else 1)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.kept.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return as_dtype(self.kept.dtype)

    @property
    def scale(self) -> float:
        """max |x| over the finite elements."""
        return max(abs(self.low), abs(self.high))


def mix(indices: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """64 well-mixed bits for each index."""
    bits = (indices + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def signs(start: int, stop: int) -> Floats:
    """Shape (PROJECTIONS, stop - start): +1 where a bit of an index's top byte is set, highest first."""
    return _SIGNS_OF_BYTE[:, _top_bytes(start, stop)]


def _top_bytes(start: int, stop: int) -> npt.NDArray[np.uint8]:
    return (mix(np.arange(start, stop, dtype=np.uint64)) >> np.uint64(56)).astype(np.uint8)


def sampled_places(size: int) -> npt.NDArray[np.int64]:
    """Flat indices of the sampled elements: all of a small tensor, ``mix(j) % size`` of a larger one."""
    if size <= SAMPLES:
        return np.arange(size)
    return (mix(np.arange(SAMPLES, dtype=np.uint64)) % np.uint64(size)).astype(np.int64)


def summarise(array: Array) -> Statistics:
    """The statistics of a tensor of numbers, chunk by chunk."""
    data = row_major(array).reshape(-1)
    digest = hashlib.sha256(data.view(np.uint8).data).hexdigest()
    kept = Kept(array.shape, array.dtype.name, digest)
    reals = data.view(data.real.dtype) if dtype_kind(data.dtype) == "complex" else data
    with np.errstate(all="ignore"):
        return _summarise(reals, kept)


class _Extent(NamedTuple):
    """What one look at every element gives; zeros where none is finite."""

    low: float
    high: float
    mean: float
    nan: int
    positive_inf: int
    negative_inf: int


def _measure_extent(reals: Array) -> _Extent:
    low, high, total = math.inf, -math.inf, 0.0
    counts = np.zeros(4, np.int64)  # finite, NaN, infinite above and below
    for _, values in _chunks(reals):
        finite = values[np.isfinite(values)]
        if finite.size:
            low, high, total = min(low, finite.min()), max(high, finite.max()), total + float(finite.sum())
        counts += [finite.size, np.isnan(values).sum(), (values == np.inf).sum(), (values == -np.inf).sum()]
    count, *others = map(int, counts)
    return _Extent(float(low), float(high), total / count, *others) if count else _Extent(0, 0, 0, *others)


def _summarise(reals: Array, kept: Kept) -> Statistics:
    extent = _measure_extent(reals)
    count = max(1, reals.size - extent.nan - extent.positive_inf - extent.negative_inf)
    scale = max(abs(extent.low), abs(extent.high)) or 1.0  # squares of the largest floats overflow
    spread = squares = 0.0
    sums = np.zeros(256)  # of the elements that share their signs
    for start, values in _chunks(reals):
        usable = np.isfinite(values)
        scaled = np.where(usable, values, 0.0) / scale
        centred = np.where(usable, scaled - extent.mean / scale, 0.0)
        squares += float(scaled @ scaled)
        spread += float(centred @ centred)
        sums += np.bincount(_top_bytes(start, start + values.size), scaled, 256)
    return Statistics(
        kept,
        *extent[:3],
        std=scale * math.sqrt(spread / count),
        norm=scale * math.sqrt(squares),
        nan=extent.nan,
        positive_inf=extent.positive_inf,
        negative_inf=extent.negative_inf,
        projections=scale * (_SIGNS_OF_BYTE @ sums),
        samples=_sample(reals),
    )


def _sample(reals: Array) -> Floats:
    samples = np.zeros(SAMPLES)
    places = sampled_places(reals.size)
    samples[: places.size] = reals[places]
    return samples


def _chunks(reals: Array) -> Iterator[tuple[int, Floats]]:
    for start in range(0, reals.size, _CHUNK):
        yield start, reals[start : start + _CHUNK].astype(np.float64)


def to_vector(statistics: Statistics) -> Floats:
    """The numbers as they lie in a dump: float64, shape (SIZE,)."""
    s = statistics
    first = (s.low, s.high, s.mean, s.std, s.norm, s.nan, s.positive_inf, s.negative_inf)
    return np.concatenate([np.asarray(first, np.float64), s.projections, s.samples])


def from_vector(vector: Floats, kept: Kept) -> Statistics:
    """The inverse of :func:`to_vector`; raises ``ValueError`` for what cannot be one."""
    if vector.shape != (SIZE,) or vector.dtype != np.float64:
        raise ValueError(f"statistics are float64 of shape [{SIZE}], not {vector.dtype} {list(vector.shape)}")
    if not np.isfinite(vector[5:8]).all():
        raise ValueError("its counts of NaN and infinities are no numbers")
    low, high, mean, std, norm = map(float, vector[:5])
    nan, positive, negative = map(int, vector[5:8])
    projections, samples = vector[8 : 8 + PROJECTIONS], vector[8 + PROJECTIONS :]
    return Statistics(kept, low, high, mean, std, norm, nan, positive, negative, projections, samples)
