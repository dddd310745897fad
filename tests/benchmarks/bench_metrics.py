"""What a full measurement costs, in reads of the same data.

``python -m tests.benchmarks metrics [--mib 512] [--repeat 3] [--noise 1e-6]`` prints a Markdown table.
One unit is the time in which one thread sums both tensors with ``np.add.reduce``: the cost of touching the
memory once. 16-bit floats, which numpy sums far more slowly than it reads them, are read as float32.
Mismatches are counted with the tolerances that a report counts them with.
The plain formulation, which needs eight copies of a tensor, is timed on a part and scaled up.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence

import ml_dtypes
import numpy as np

from alignkit.metrics import measure_error
from alignkit.records import Array
from alignkit.tolerance import Tolerances

DTYPES = ("float32", "float16", "bfloat16", "int64")
_PART = 1 << 24  # elements for the plain formulation


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--mib", type=float, default=512, help="size of one tensor")
    parser.add_argument("--repeat", type=int, default=3, help="the best of so many rounds counts")
    parser.add_argument("--noise", type=float, default=1e-6, help="candidate = reference + noise * normal")
    options = parser.parse_args(arguments)
    print("| dtype | one read | 1 thread | 2 threads | plain formulation |")
    print("|---|---|---|---|---|")
    for name in DTYPES:
        pair = tensors(name, int(options.mib * 2**20), options.noise)
        read, *times = best_times(options.repeat, *contenders(pair))
        times[-1] *= max(1.0, pair[0].size / _PART)
        print(
            f"| {name} | {read * 1e3:.0f} ms | " + " | ".join(f"{t / read:.1f}×" for t in times) + " |",
            flush=True,
        )


def tensors(name: str, size_bytes: int, noise: float) -> tuple[Array, Array]:
    """Normally distributed values, and the same with noise; integers are a thousand times as large."""
    dtype = np.dtype(getattr(ml_dtypes, name, name))
    count = size_bytes // dtype.itemsize
    reference, candidate = np.empty(count, dtype), np.empty(count, dtype)
    random = np.random.default_rng(0)
    for start in range(0, count, 1 << 20):
        part = slice(start, min(start + (1 << 20), count))
        values = random.standard_normal(part.stop - part.start, np.float32)
        moved = values + np.float32(noise) * random.standard_normal(values.size, np.float32)
        scale = 1000 if dtype.kind == "i" else 1
        reference[part], candidate[part] = (values * scale).astype(dtype), (moved * scale).astype(dtype)
    return reference, candidate


def contenders(pair: tuple[Array, Array]) -> list[Callable[[], object]]:
    reference, candidate = pair
    read_as = {2: np.dtype(np.float32), 4: np.dtype(np.float32), 8: np.dtype(np.int64)}[reference.itemsize]
    sides = [side.view(read_as) for side in pair]
    rtol, atol = Tolerances().mismatch_pair("", reference.dtype.name)

    def read() -> None:
        with np.errstate(all="ignore"):
            for side in sides:
                np.add.reduce(side)

    return [
        read,
        lambda: measure_error(reference, candidate, rtol=rtol, atol=atol),
        lambda: measure_error(reference, candidate, rtol=rtol, atol=atol, threads=2),
        lambda: whole_tensor(reference[:_PART], candidate[:_PART], rtol, atol),
    ]


def whole_tensor(reference: Array, candidate: Array, rtol: float, atol: float) -> list[float]:
    """The same figures but the ULP distance, as one would write them down, on whole float64 copies."""
    r, c = reference.astype(np.float64), candidate.astype(np.float64)
    keep = np.isfinite(r) & np.isfinite(c)
    r, c = r[keep], c[keep]
    error, size = np.abs(c - r), np.abs(r)
    cosine = np.sum(r * c) / np.sqrt(np.sum(r**2) * np.sum(c**2))
    sqnr_db = 10 * np.log10(np.sum(r**2) / np.sum(error**2))
    nonzero = size > 0
    figures = [np.mean(error**2), np.max(error), np.mean(error), np.max(error[nonzero] / size[nonzero])]
    return [
        float(f) for f in (*figures, cosine, sqnr_db, np.mean(error > atol + rtol * size), np.argmax(error))
    ]


def best_times(repeat: int, *functions: Callable[[], object]) -> list[float]:
    """Seconds, the best of ``repeat`` rounds; they take turns, so that a busy spell hits all alike."""
    times = [float("inf")] * len(functions)
    for _ in range(repeat):
        for index, function in enumerate(functions):
            start = time.perf_counter()
            function()
            times[index] = min(times[index], time.perf_counter() - start)
    return times


if __name__ == "__main__":
    main()
