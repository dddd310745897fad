"""Lacking: a step between two modules that eager takes and the file has not.

Without taps in the file, a module's segment begins at the nearest value that is known. Where the parent's own
code ran otherwise while the model was exported, that is the value before the step, and the module behind it
looks wrong although its nodes are right: fed with what the module was given, they compute what it returned.
"""

from __future__ import annotations

from dataclasses import replace

from alignkit.diagnose.bench import Bench
from alignkit.diagnose.experiments import is_right, run_unoptimised
from alignkit.records import Capture, Culprit, Tap, TapId, TapKind


def blame_lacking_step(culprit: Culprit, bench: Bench) -> Culprit:
    """``culprit`` at the code whose step the file lacks; as it is where no step is."""
    step = _find_step(bench)
    if step is None:
        return culprit
    told = (
        f"fed with what {culprit.module} was given, its nodes compute what it returned: the step before it, "
        f"in {step.owner}'s own code, is not in the file"
    )
    return replace(
        culprit,
        module=step.owner,
        op="",
        operation="",
        evidence=(*culprit.evidence, told),
        source=step.source.location if step.source else None,
        source_line=step.source.text if step.source else None,
    )


def _find_step(bench: Bench) -> Tap | None:
    """The input of the bench's module that the file has no value of, if the segment is right with it."""
    borders = bench.segment.borders
    if len(borders) != 1 or TapId.parse(bench.tap).kind is not TapKind.MODULE:
        return None
    ((value, known),) = borders.items()
    in_file = {debug.tap for debug in bench.marked.debugs}
    for name in _other_inputs(bench.reference, bench.tap, known):
        if name in in_file:
            continue
        fed = replace(bench, segment=replace(bench.segment, borders={value: name}))
        if is_right(run_unoptimised(fed), fed):
            return bench.reference.taps[name]
    return None


def _other_inputs(reference: Capture, tap: str, known: str) -> list[str]:
    """What the tap's module was given, in the form of the ``known`` value but not that one itself."""
    call, values = TapId.parse(tap), reference.values
    before = values.get(known)
    return [
        name
        for name, found in reference.taps.items()
        if found.id.kind is TapKind.INPUT and (found.id.path, found.id.call) == (call.path, call.call)
        if before is not None and name in values and reference.first(name) != reference.first(known)
        if values[name].shape == before.shape and values[name].dtype == before.dtype
    ]
