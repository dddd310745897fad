"""Compare: join reference and candidate by tap and judge every tap.

Nothing is matched by position and nothing is left out: a tap that only one side has is a row.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from alignkit.measuring import coarser_dtype, misfit_of, repeats_tap
from alignkit.metrics import measure_error
from alignkit.records import (
    ROOT,
    Array,
    Capture,
    Coverage,
    ErrorMetrics,
    LayerRow,
    Measured,
    Measurement,
    Noise,
    OutputRow,
    Sides,
    Tap,
    TapId,
    TapKind,
    Verdict,
)
from alignkit.tolerance import Judgement, Tolerances, judge_error


@dataclass(frozen=True, slots=True)
class NoiseFloors:
    """``own`` is what a tap's segment rounds by itself, ``accumulated`` what the run rounds up to it.

    ``missing`` says why there is none, when float64 could not run. ``precision`` names what a tap's
    segment computes in where the file is coarser than the model, ``coarsest`` the coarsest of those.
    """

    own: Mapping[str, Noise]
    accumulated: Mapping[str, Noise]
    missing: str = ""
    precision: Mapping[str, str] = field(default_factory=dict)
    coarsest: str | None = None


def compare_captures(
    reference: Capture,
    introduced: Measured,
    propagated: Measured,
    noise: NoiseFloors,
    tolerances: Tolerances,
    missing: Mapping[str, str] | None = None,
) -> list[LayerRow]:
    """One row per tap, in execution order; taps that only the file has come last.

    ``missing`` says why the file has no value for a tap, where that is known.
    """
    names = [*reference.taps, *(n for n in _file_taps(introduced, propagated) if n not in reference.taps)]
    shown = [name for name in names if not repeats_tap(name, reference, introduced)]
    join = _Join(reference, introduced, propagated, noise, tolerances, missing or {})
    return _without_echoes([join.row(name) for name in shown], reference)


def _file_taps(introduced: Measured, propagated: Measured) -> dict[str, None]:
    sides = (introduced.taps, introduced.absent, propagated.taps, propagated.absent)
    return dict.fromkeys(name for side in sides for name in side)


def _without_echoes(rows: Sequence[LayerRow], reference: Capture) -> list[LayerRow]:
    """Leave out exact input taps on a tensor that an earlier tap shows, copied on its way there."""
    seen: set[str] = set()
    kept = []
    for row in rows:
        tensor = reference.first(row.tap)
        passing = row.verdict in (Verdict.OK, Verdict.PROPAGATED)
        exact = passing and row.introduced is not None and row.introduced.max_abs == 0.0
        if not (row.kind is TapKind.INPUT and exact and tensor in seen):
            kept.append(row)
        seen.add(tensor)
    return kept


@dataclass(frozen=True, slots=True)
class _Join:
    """The two sides of the comparison, and how one tap's row is made of them."""

    reference: Capture
    introduced: Measured
    propagated: Measured
    noise: NoiseFloors
    tolerances: Tolerances
    missing: Mapping[str, str]

    def row(self, name: str) -> LayerRow:
        tap = self.reference.taps.get(name) or Tap(TapId.parse(name), "")
        expected = self.reference.values.get(name)
        own, passed = self.introduced.taps.get(name), self.propagated.taps.get(name)
        if expected is None or (own is None and passed is None):
            return self._uncompared(tap, expected)
        for found in (own, passed):
            if found is not None and found.misfit is not None:
                origin = "" if found is own else "; its own segment computes the right one"
                verdict = found.misfit if found is own or own is None else Verdict.PROPAGATED
                return self._make(tap, expected, verdict, found.reason + origin)
        return self._judged(tap, expected, own, passed)

    def _judged(
        self, tap: Tap, expected: Array, own: Measurement | None, passed: Measurement | None
    ) -> LayerRow:
        name = str(tap.id)
        introduced, propagated = own.error if own else None, passed.error if passed else None
        by_itself = self._judge(name, own, self.noise.own, self.noise.precision.get(name))
        in_passing = self._judge(name, passed, self.noise.accumulated, self.noise.coarsest)
        verdict, reason = _verdict(introduced, propagated, by_itself, in_passing, self.reference.sides)
        shown = by_itself or in_passing
        accumulated = self.noise.accumulated.get(name)
        return self._make(
            tap,
            expected,
            verdict,
            reason,
            propagated=propagated,
            introduced=introduced,
            noise_floor=shown.floor if shown else None,
            noise_ratio=by_itself.ratio if by_itself else None,
            relative_ratio=by_itself.relative_ratio if by_itself else None,
            propagated_noise=accumulated.max_abs if accumulated else None,
            tolerance=shown.rule if shown else "",
            precision=self.noise.precision.get(name),
        )

    def _judge(
        self, name: str, found: Measurement | None, noise: Mapping[str, Noise], precision: str | None
    ) -> Judgement | None:
        if found is None or found.error is None:
            return None
        return judge_error(found.error, noise.get(name), self.tolerances, name, found.dtype, precision)

    def _uncompared(self, tap: Tap, expected: Array | None) -> LayerRow:
        name = str(tap.id)
        if reason := self.reference.untapped.get(name):
            return self._make(tap, expected, Verdict.SKIPPED, reason)
        if expected is None:
            return self._make(
                tap, None, Verdict.MISSING, f"in the exported file, but {self._run} never passed here"
            )
        if name in self.introduced.failed:
            return self._make(tap, expected, Verdict.INTRODUCED, self.introduced.absent[name])
        if reason := self.introduced.absent.get(name) or self.propagated.absent.get(name):
            return self._make(tap, expected, Verdict.SKIPPED, reason)
        return self._make(
            tap,
            expected,
            Verdict.MISSING,
            self.missing.get(name)
            or f"in {self._run}, but not in the exported file: unused there, or removed by the exporter",
        )

    @property
    def _run(self) -> str:
        sides = self.reference.sides
        return "the eager run" if sides == Sides() else f"the run of {sides.reference}"

    def _make(
        self, tap: Tap, expected: Array | None, verdict: Verdict, reason: str, **figures: object
    ) -> LayerRow:
        name = str(tap.id)
        onnx_value = self.propagated.onnx_values.get(name) or self.introduced.onnx_values.get(name)
        return LayerRow(
            tap=name,
            module=tap.id.path if tap.id.kind is not TapKind.EXPLICIT else "",
            kind=tap.id.kind,
            module_type=tap.module_type,
            shape=None if expected is None else expected.shape,
            dtype=None if expected is None else expected.dtype.name,
            onnx_value=onnx_value,
            verdict=verdict,
            reason=reason,
            source=tap.source.location if tap.source else None,
            **figures,  # type: ignore[arg-type]
        )


def _verdict(
    introduced: ErrorMetrics | None,
    propagated: ErrorMetrics | None,
    by_itself: Judgement | None,
    in_passing: Judgement | None,
    sides: Sides,
) -> tuple[Verdict, str]:
    if introduced is not None and by_itself is not None and not by_itself.within:
        if introduced.nonfinite_mismatches:
            return Verdict.NONFINITE, _nonfinite_reason(introduced, sides)
        return Verdict.INTRODUCED, "wrong although its inputs are exactly the reference's"
    if in_passing is None or in_passing.within:
        return Verdict.OK, "" if by_itself else "seen in the ordinary run only"
    if propagated is not None and propagated.nonfinite_mismatches:
        return Verdict.PROPAGATED, _nonfinite_reason(propagated, sides)
    return Verdict.PROPAGATED, "" if by_itself else "its own share could not be separated"


def _nonfinite_reason(metrics: ErrorMetrics, sides: Sides) -> str:
    return (
        f"{metrics.nonfinite_mismatches} of {metrics.size} elements are NaN or infinite on one side only "
        f"({sides.reference}: {metrics.reference_nan} NaN, {metrics.reference_inf} Inf; "
        f"{sides.candidate}: {metrics.candidate_nan} NaN, {metrics.candidate_inf} Inf)"
    )


def compare_outputs(
    reference: Capture,
    plain: Sequence[Array | None] | None,
    propagated: Measured,
    names: Sequence[str],
    noise: NoiseFloors,
    tolerances: Tolerances,
    failure: str = "",
) -> list[OutputRow]:
    """One row per output of the model; ``plain`` is None when the file was not run as deployed.

    ``failure`` says how it failed, when it could not be: then no output is right.

    The probed outputs are found by the root's taps. The deployed file's come in the model's order:
    nothing else binds them.
    """
    rows = []
    for index, expected in enumerate(reference.outputs):
        tap = str(TapId(ROOT, 0, index))
        name = names[index] if index < len(names) else f"output_{index}"
        deployed = plain[index] if plain is not None and index < len(plain) else None
        probed = propagated.kept.get(tap)
        row = _output_row(expected, deployed, probed, tap, name, noise, tolerances, reference.sides)
        if failure:
            row = replace(row, verdict=Verdict.MISSING, reason=failure)
        elif row.verdict is Verdict.MISSING and tap in propagated.absent:
            row = replace(row, verdict=Verdict.SKIPPED, reason=propagated.absent[tap])
        rows.append(row)
    return rows


def _output_row(
    expected: Array,
    plain: Array | None,
    probed: Array | None,
    tap: str,
    name: str,
    noise: NoiseFloors,
    tolerances: Tolerances,
    sides: Sides,
) -> OutputRow:
    deployed = plain if plain is not None else probed
    base = OutputRow(name, tap, expected.shape, expected.dtype.name, Verdict.MISSING)
    if deployed is None:
        return replace(base, reason="the ONNX model has no such output, or it cannot be computed")
    if (misfit := misfit_of(expected, deployed, sides)) is not None:
        return replace(base, verdict=misfit[0], reason=misfit[1])

    def measure(left: Array, right: Array) -> tuple[ErrorMetrics, Judgement]:
        dtype = coarser_dtype(left, right)
        rtol, atol = tolerances.mismatch_pair(tap, dtype.name)
        error = measure_error(left, right, rtol=rtol, atol=atol)
        return error, judge_error(error, noise.accumulated.get(tap), tolerances, tap, dtype, noise.coarsest)

    error, judgement = measure(expected, deployed)
    probe = probed if probed is not None and misfit_of(expected, probed, sides) is None else None
    verdict = Verdict.OK if judgement.within else Verdict.PROPAGATED
    if error.nonfinite_mismatches and not judgement.within:
        verdict = Verdict.NONFINITE
    return replace(
        base,
        verdict=verdict,
        plain=error if plain is not None else None,
        probed=measure(expected, probe)[0] if probe is not None else None,
        observer_effect=plain is not None and probe is not None and not measure(probe, plain)[1].within,
        noise_floor=judgement.floor,
    )


def measure_coverage(rows: Iterable[LayerRow]) -> Coverage:
    """How many taps were compared, and why the others were not."""
    compared = 0
    reasons: dict[str, int] = {}
    for row in rows:
        if row.verdict.was_compared:
            compared += 1
        else:
            key = f"{row.verdict.value}: {row.reason}"
            reasons[key] = reasons.get(key, 0) + 1
    return Coverage(compared, sum(reasons.values()), reasons)
