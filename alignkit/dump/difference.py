"""Two dumps -> the data of a report. Joined by the taps' names alone; a tap of one side is a row.

There is no introduced error here: to tell what a layer does to right inputs it must be run, and a
dump cannot run anything. What is measured is the error that has come as far as each tap.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from alignkit.comparison import measure_coverage
from alignkit.dump.files import Dump
from alignkit.dump.measured import Finding, are_full, compare_entries
from alignkit.dump.records import DumpedTap
from alignkit.dump.start import find_start
from alignkit.errors import CompareError
from alignkit.metrics import error_histogram
from alignkit.paths import told_apart
from alignkit.records import (
    ErrorHistogram,
    LayerRow,
    OutputRow,
    ReportData,
    TapId,
    TapKind,
    Verdict,
)
from alignkit.tolerance import Tolerances, judge_error

_HISTOGRAMS = 6
_NAMED = 3  # names told where two dumps have none in common

_OFFLINE = (
    "Two dumps were compared and nothing was run: errors are propagated, all that went wrong up to a tap. "
    "What a layer introduces by itself is not known."
)
_DEFAULT_TOLERANCE = (
    "Judged by the tolerances of torch.testing at each tensor's scale: a dump holds no noise floor."
)
_STATISTICS = (
    "Compared by statistics, for not both dumps hold full tensors: mse, rmse and SQNR are estimated from "
    "random projections; max_abs and the share of mismatched elements are at least what is shown. A few "
    "wrong elements of a large tensor can go unseen."
)


def compare_dumps(reference: Dump, candidate: Dump, tolerances: Tolerances) -> ReportData:
    """Compare two runs offline, tap by tap.

    Raises :class:`CompareError` when they were made on different inputs, have no tap in common or no
    common tap with a value, and :class:`InputError` when a dump turns out to be damaged.
    """
    _require_common_tap(reference, candidate)
    inputs_agree, input_notes = _check_inputs(reference, candidate)
    join = _Join(reference, candidate, tolerances, {})
    rows = {name: join.row(name) for name in {**reference.taps, **candidate.taps}}
    shown = join.without_echoes(rows.values())
    coverage = measure_coverage(shown)
    if not coverage.compared:
        raise CompareError(f"no tap could be compared: {next(iter(coverage.reasons))}.")
    start = find_start(rows, {**candidate.taps, **reference.taps}, inputs_agree=inputs_agree)
    outputs = [_output_row(rows[name]) for name in _common_outputs(reference, candidate)]
    return ReportData(
        all(row.verdict.is_ok for row in rows.values() if row.verdict.was_compared),
        start.culprits,
        shown,
        outputs,
        coverage,
        (_OFFLINE, *start.notes, *_judging_notes(join), *input_notes, *_own_notes(reference, candidate)),
        _histograms(shown, join),
        _describe(reference, candidate),
        {"rtol": tolerances.rtol, "atol": tolerances.atol},
    )


@dataclass(frozen=True, slots=True)
class _Join:
    """The two sides, and how one tap's row is made of them.

    ``found`` keeps what was measured: tensors that several taps saw are read once.
    """

    reference: Dump
    candidate: Dump
    tolerances: Tolerances
    found: dict[tuple[Any, ...], Finding]

    def row(self, name: str) -> LayerRow:
        left, right = self.reference.taps.get(name), self.candidate.taps.get(name)
        if left is None or right is None:
            side = "reference" if right is None else "candidate"
            return self._make(name, Verdict.MISSING, f"in the {side} dump only")
        if reason := left.absent or right.absent:
            return self._make(name, Verdict.SKIPPED, reason)
        found = self._compare(left, right)
        shape, dtype = found.shape, found.dtype.name
        if found.error is None:
            verdict = found.misfit or Verdict.SKIPPED
            return self._make(name, verdict, found.words, shape=shape, dtype=dtype)
        judgement = judge_error(found.error, None, self.tolerances, name, found.coarser)
        verdict, reason = _verdict(found, judgement.within)
        return self._make(
            name,
            verdict,
            reason,
            shape=shape,
            dtype=dtype,
            propagated=found.error,
            noise_floor=judgement.floor,
            tolerance=judgement.rule,
        )

    def _compare(self, left: DumpedTap, right: DumpedTap) -> Finding:
        key = left.tensor, right.tensor, self.tolerances.mismatch_pair(left.name, "")
        if key not in self.found:
            self.found[key] = compare_entries(self.reference, self.candidate, left, right, self.tolerances)
        return self.found[key]

    def _make(self, name: str, verdict: Verdict, reason: str, **figures: Any) -> LayerRow:
        entries = [dump.taps[name] for dump in (self.reference, self.candidate) if name in dump.taps]
        tap = TapId.parse(name)
        source = next((entry.source for entry in entries if entry.source), None)
        return LayerRow(
            tap=name,
            module=tap.path if tap.kind is not TapKind.EXPLICIT else "",
            kind=tap.kind,
            module_type=_first(entry.module_type or entry.op for entry in entries) or "",
            onnx_value=_first(entry.onnx_value for entry in reversed(entries)),
            verdict=verdict,
            reason=reason,
            source=source.location if source else None,
            **{"shape": None, "dtype": None, **figures},
        )

    def without_echoes(self, rows: Iterable[LayerRow]) -> list[LayerRow]:
        """Leave out input taps that see, on both sides, the very tensor that an earlier tap saw."""
        seen: set[tuple[str, str]] = set()
        kept = []
        for row in rows:
            if row.verdict.was_compared:
                pair = self.reference.taps[row.tap].tensor, self.candidate.taps[row.tap].tensor
                if row.kind is TapKind.INPUT and pair in seen:
                    continue
                seen.add(pair)
            kept.append(row)
        return kept


def _first(values: Iterable[str | None]) -> str | None:
    return next(filter(None, values), None)


def _verdict(found: Finding, within: bool) -> tuple[Verdict, str]:
    error = found.error
    if within or error is None:
        return Verdict.OK, found.words
    if not error.nonfinite_mismatches:
        return Verdict.PROPAGATED, found.words
    return Verdict.NONFINITE, (
        f"of {error.size} elements, NaN or infinite: {error.reference_nan + error.reference_inf} in the "
        f"reference, {error.candidate_nan + error.candidate_inf} in the candidate, not the same"
    )


def _common_outputs(reference: Dump, candidate: Dump) -> list[str]:
    return [name for name in reference.about.outputs if name in reference.taps and name in candidate.taps]


def _output_row(row: LayerRow) -> OutputRow:
    return OutputRow(
        row.tap,
        row.tap,
        row.shape,
        row.dtype,
        row.verdict,
        row.reason,
        plain=row.propagated,
        noise_floor=row.noise_floor,
    )


def _require_common_tap(reference: Dump, candidate: Dump) -> None:
    if reference.taps.keys() & candidate.taps.keys():
        return
    sides = (f"{', '.join(list(dump.taps)[:_NAMED]) or 'none'}" for dump in (reference, candidate))
    raise CompareError(
        f"{reference.path} and {candidate.path} have no tap in common: {' …, but '.join(sides)} …; "
        "taps are joined by name alone, so give them the same names."
    )


def _check_inputs(reference: Dump, candidate: Dump) -> tuple[bool, list[str]]:
    """Whether the inputs agree, as far as that can be told, and what is worth a note.

    Raises :class:`CompareError` where they do not: then no layer is to blame for a difference.
    """
    common = [name for name in reference.inputs if name in candidate.inputs]
    notes = []
    for name in common:
        left, right = reference.inputs[name], candidate.inputs[name]
        if left.absent or right.absent:
            notes.append(f"Input {name!r} could not be compared: {left.absent or right.absent}.")
            continue
        found = compare_entries(reference, candidate, left, right, Tolerances())
        error = found.error
        if error is None or not judge_error(error, None, Tolerances(), name, found.coarser).within:
            why = found.words if error is None or found.words else f"max |error| {error.max_abs or 0:.3g}"
            raise CompareError(
                f"the two runs were fed different inputs: {name!r} differs between {reference.path} and "
                f"{candidate.path} ({why}). Capture both on the same inputs."
            )
        if error.max_abs:
            notes.append(f"Input {name!r} differs between the runs by rounding: {error.max_abs:.3g} at most.")
    if not common:
        names = (", ".join(dump.inputs) or "none" for dump in (reference, candidate))
        notes.append(f"The runs' inputs could not be compared: no name in common ({' and '.join(names)}).")
    return len(notes) < max(len(common), 1), notes


def _judging_notes(join: _Join) -> Iterator[str]:
    if join.tolerances.rtol is None and join.tolerances.atol is None:
        yield _DEFAULT_TOLERANCE
    if not are_full(join.reference, join.candidate):
        yield _STATISTICS


def _own_notes(reference: Dump, candidate: Dump) -> Iterator[str]:
    for side, dump in (("reference", reference), ("candidate", candidate)):
        yield from (f"From the {side} dump: {note}" for note in dump.about.notes)
    lost = [name for name in reference.about.outputs if name not in candidate.taps]
    yield from (f"Output {name!r} of the reference is not among the candidate's taps." for name in lost)


def _histograms(rows: Sequence[LayerRow], join: _Join) -> list[ErrorHistogram]:
    """Of the worst taps, whose tensors are read once more for it."""
    if not are_full(join.reference, join.candidate):
        return []
    erring = [row for row in rows if row.propagated is not None and row.propagated.max_abs]
    worst = sorted(erring, key=lambda row: -_relative_error(row))[:_HISTOGRAMS]
    sides = join.reference, join.candidate
    return [error_histogram(row.tap, *(dump.tensor(dump.taps[row.tap]) for dump in sides)) for row in worst]


def _relative_error(row: LayerRow) -> float:
    """The largest error in units of the tensor's scale."""
    error = row.propagated
    return (error.max_abs or 0.0) / error.scale if error and error.scale else 0.0


def _describe(reference: Dump, candidate: Dump) -> dict[str, str]:
    """What a report says of the dumps: what made them, and versions, both where they differ."""
    names = told_apart(reference.path, candidate.path)
    sides = zip(("reference", "candidate"), names, (reference, candidate), strict=True)
    words = {side: f"{name} ({_producer(dump)})" for side, name, dump in sides}
    left, right = reference.about.versions, candidate.about.versions
    for name in {**left, **right}:
        found = (versions[name] for versions in (left, right) if name in versions)
        words.setdefault(name, " / ".join(dict.fromkeys(found)))
    return words


def _producer(dump: Dump) -> str:
    about = dump.about
    return ", ".join(part for part in (about.producer, about.origin, about.tier) if part)
