"""Fusions: a deployed file that is wrong although every tap of the marked one is right.

Taps split fusions, and a fault that lives in one vanishes with them. So the deployed file itself is
run without graph optimisation, and where that heals it, without ever fewer transformers; then taps
are the probe: the one whose presence alone turns the result right lies inside the faulty fusion.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from alignkit.deployed import candidate_leaves, deployed_feeds
from alignkit.diagnose import Fusion, distance
from alignkit.diagnose.experiments import TRANSFORMERS, Left, countdown, smallest_healing
from alignkit.errors import AlignkitError
from alignkit.extract import extract_propagated
from alignkit.records import Array, Experiment, OutputRow, TapId
from alignkit.run import RunSettings, Session
from alignkit.tolerance import FACTOR
from alignkit.trial import Trial


def question_fusion(
    trial: Trial, plain: Path | None, run: RunSettings, output: OutputRow, seconds: float = math.inf
) -> Fusion:
    """Is the deployed file right without graph optimisation? Then which transformer spoils it, and where?

    After ``seconds`` it answers with what it has: more transformers than it takes, or no tap.
    """
    place = TapId.parse(output.tap).index
    if plain is None or place >= len(trial.reference.outputs):
        return Fusion((), False)
    expected = trial.reference.outputs[place]
    allowed = FACTOR * (output.noise_floor or 0.0)
    feeds = deployed_feeds(plain, candidate_leaves(trial.model, trial.sample), trial.marked)

    def ask(name: str, settings: RunSettings) -> Experiment:
        try:
            values = list(Session(plain, settings).run(feeds).values())
            error = distance(expected, values[place])
        except (AlignkitError, IndexError) as reason:
            return Experiment(name, None, f"could not run: {reason}")
        return Experiment(name, error, "is right" if error <= allowed else "is wrong as well")

    def without(names: Sequence[str]) -> Experiment:
        fewer = replace(run, disabled_optimizers=(*run.disabled_optimizers, *names))
        return ask(f"the deployed file without {', '.join(names)}", fewer)

    def heals(names: Sequence[str]) -> bool:
        error = without(names).error
        return error is not None and error <= allowed

    left = countdown(seconds)
    off = ask(
        "the deployed file, optimisation off", replace(run, optimization="disable", session_options=None)
    )
    if off.error is None or off.error > allowed:
        return Fusion((off,), False)
    names = smallest_healing(TRANSFORMERS, heals, left)
    experiments = (off, without(names)) if names else (off,)
    return Fusion(experiments, True, _splitting_tap(trial, run, output.tap, expected, allowed, left))


def _splitting_tap(
    trial: Trial, run: RunSettings, output: str, expected: Array, allowed: float, left: Left
) -> str | None:
    """The last of the first taps in the file's order that must be exposed for ``output`` to be right.

    None where that is not so, or not found in time.
    """
    taps = [debug.tap for debug in trial.marked.debugs if debug.tap in trial.reference.taps]

    def is_right(count: int) -> bool:
        probe = extract_propagated(trial.marked, {*taps[:count], output})
        session = Session(probe.model.SerializeToString(), run, probe.folder)
        return distance(expected, session.run(trial.feeds)[probe.outputs[output]]) <= allowed

    try:
        if is_right(0) or not is_right(len(taps)):
            return None
        low, high = 0, len(taps)  # wrong with so many, right with so many
        while high - low > 1:
            if left() <= 0:
                return None
            middle = (low + high) // 2
            low, high = (low, middle) if is_right(middle) else (middle, high)
    except (AlignkitError, KeyError):
        return None
    return taps[high - 1]
