"""Lacking: a step between two modules that eager takes and the file has not.

Without taps in the file, a module's segment begins at the nearest value that is known. Where the parent's own
code ran otherwise while the model was exported, that is the value before the step, and the module behind it
looks wrong although its nodes are right: fed with what the module was given, they compute what it returned.
"""

from __future__ import annotations

from dataclasses import replace

from alignkit.diagnose.bench import Bench
from alignkit.diagnose.experiments import is_right, run_unoptimised
from alignkit.records import Culprit, Tap, TapId, TapKind


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
    for name in _absent_inputs(bench, known):
        fed = replace(bench, segment=replace(bench.segment, borders={value: name}))
        if is_right(run_unoptimised(fed), fed):
            return bench.reference.taps[name]
    return None


def _absent_inputs(bench: Bench, known: str) -> list[str]:
    """What the bench's module was given and the file does not hold, in the form of the ``known`` value but
    not that one itself."""
    reference, call = bench.reference, TapId.parse(bench.tap)
    in_file = {debug.tap for debug in bench.marked.debugs}
    before = reference.values.get(known)
    if before is None:
        return []
    return [
        name
        for name, value in reference.values.items()
        if (given := reference.taps[name].id).kind is TapKind.INPUT and name not in in_file
        if (given.path, given.call) == (call.path, call.call)
        if (value.shape, value.dtype) == (before.shape, before.dtype)
        if reference.first(name) != reference.first(known)
    ]
