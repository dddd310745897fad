"""Tolerance: the noise floor, and whether an error is more than float rounding.

The default rule needs no number from the user. A tap's error is judged against its *floor*: the
larger of its own float64-measured rounding noise and one unit in the last place of the tensor's
scale. Up to :data:`FACTOR` floors are rounding; healthy layers stay near one.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from alignkit.metrics import dtype_kind, ulp
from alignkit.records import ErrorMetrics, Noise

FACTOR = 30.0
"""How many floors still count as rounding: kernels order their sums differently and approximate
``exp`` and ``erf`` differently; measured healthy layers of ResNet and BERT stay below 3."""

_UNMEASURED = 10.0
"""Without a float64 run nobody knows how long a tensor's sums are: healthy convolutions of a ResNet-50
differ by 33 ULP of their scale between torch and ONNX Runtime."""

STEPS: Mapping[str, float] = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "int8": 2.0**-8}
"""The step between neighbouring values of what a converted file computes in, relative to a tensor's
scale: its unit in the last place or, for quantised tensors, their range in 256 parts."""

TORCH_TESTING: Mapping[str, tuple[float, float]] = {
    "float16": (1e-3, 1e-5),
    "bfloat16": (1.6e-2, 1e-5),
    "float32": (1.3e-6, 1e-5),
    "float64": (1e-7, 1e-7),
    "complex64": (1.3e-6, 1e-5),
    "complex128": (1e-7, 1e-7),
}
"""``(rtol, atol)`` per dtype, the documented defaults of ``torch.testing.assert_close``."""


@dataclass(frozen=True, slots=True)
class Tolerances:
    """What the user allows. ``by_name`` maps a dtype name or a tap glob to ``(rtol, atol)``.

    The first matching tap pattern wins, then the dtype, then the global pair; where none is
    given the noise floor judges.
    """

    rtol: float | None = None
    atol: float | None = None
    by_name: Mapping[str, tuple[float, float]] | None = None

    def user_pair(self, tap: str, dtype: str) -> tuple[float, float] | None:
        named = self.by_name or {}
        if tap in named:  # a tap's own name holds brackets, which a glob reads otherwise
            return named[tap]
        for pattern, pair in named.items():
            if fnmatch.fnmatchcase(tap, pattern):
                return pair
        if dtype in named:
            return named[dtype]
        if self.rtol is None and self.atol is None:
            return None
        return self.rtol or 0.0, self.atol or 0.0

    def mismatch_pair(self, tap: str, dtype: str) -> tuple[float, float]:
        """``(rtol, atol)`` that the share of mismatched elements is counted with."""
        return self.user_pair(tap, dtype) or TORCH_TESTING.get(dtype, (0.0, 0.0))


@dataclass(frozen=True, slots=True)
class Judgement:
    """``within``: rounding, or inside what the user allows. ``rule`` says so in words.

    ``relative_ratio`` is the worst relative error of an element in units of the reference's own:
    a kernel that flushes 1e-12 to 0 is invisible beside larger elements, but not here.
    """

    within: bool
    floor: float | None
    ratio: float | None
    rule: str
    relative_ratio: float | None = None


def judge_error(
    metrics: ErrorMetrics,
    noise: Noise | None,
    tolerances: Tolerances,
    tap: str,
    dtype: Any,
    precision: str | None = None,
) -> Judgement:
    """Judge one tensor's error. ``dtype`` is the coarser of the two sides' dtypes; ``precision`` what
    the deployed file computes in, where that is coarser still (see :data:`STEPS`)."""
    error = metrics.max_abs or 0.0
    floor = noise_floor(metrics.scale, noise, dtype, precision)
    ratio = error / floor if floor else None
    pair = tolerances.user_pair(tap, np.dtype(dtype).name)
    if pair is not None:
        rule = f"|error| <= {pair[1]:g} + {pair[0]:g} |reference| for every element (yours)"
        return Judgement(metrics.mismatched == 0.0, floor, ratio, rule)
    if metrics.nonfinite_mismatches:
        return Judgement(False, floor, ratio, "NaN and infinities at the same places")
    if floor is None:
        return Judgement(metrics.mismatched == 0.0 and error == 0.0, None, None, "exact equality")
    if precision is not None:
        rule = f"max |error| <= {FACTOR:g} x {floor:.3g}, a step of the file's own {precision} arithmetic"
        return Judgement(error <= FACTOR * floor, floor, ratio, rule)
    if noise is None:
        allowed = _fallback(metrics.scale, floor, dtype)
        rule = f"max |error| <= {allowed:.3g} (torch.testing defaults at this tensor's scale; no float64 run)"
        return Judgement(error <= allowed, floor, ratio, rule)
    rule = f"max |error| <= {FACTOR:g} x noise floor {floor:.3g}"
    relative = (metrics.max_rel or 0.0) / max(noise.max_rel, ulp(1.0, _real(dtype)))
    return Judgement(error <= FACTOR * floor, floor, ratio, rule, relative)


def noise_floor(scale: float, noise: Noise | None, dtype: Any, precision: str | None = None) -> float | None:
    """Absolute error below which nothing can be told; None for dtypes that must be exact."""
    if dtype_kind(dtype) not in ("float", "complex"):
        return None
    step = STEPS[precision] * scale if precision is not None else 0.0
    return max(noise.max_abs if noise else 0.0, ulp(scale, _real(dtype)), step)


def _real(dtype: Any) -> Any:
    """The dtype of a complex dtype's components; other dtypes as they are."""
    return {"complex64": "float32", "complex128": "float64"}.get(np.dtype(dtype).name, dtype)


def _fallback(scale: float, floor: float, dtype: Any) -> float:
    rtol, atol = TORCH_TESTING.get(np.dtype(dtype).name, (0.0, 0.0))
    # Half types accumulate in float32: the length of a sum does not show in them.
    unmeasured = 1.0 if np.dtype(dtype).itemsize < 4 else _UNMEASURED
    return max(atol + rtol * scale, unmeasured * FACTOR * floor)
