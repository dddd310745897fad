"""Fusions: a deployed file that is wrong although every tap of the marked one is right.

Taps split fusions, and a fault that lives in one vanishes with them. So the deployed file itself is
run without graph optimisation, and where that heals it, without ever fewer transformers; then taps
are the probe: the one whose presence alone turns the result right lies inside the faulty fusion.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from alignkit.backends import Backend, OnnxRuntime
from alignkit.deployed import candidate_leaves, deployed_feeds
from alignkit.diagnose import Fusion, distance
from alignkit.diagnose.experiments import TRANSFORMERS, Left, countdown, smallest_healing
from alignkit.errors import AlignkitError
from alignkit.extract import extract_propagated
from alignkit.records import Array, Experiment, OutputRow, TapId
from alignkit.tolerance import FACTOR
from alignkit.trial import Trial


def question_fusion(
    trial: Trial, plain: Path | None, run: Backend, output: OutputRow, seconds: float = math.inf
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

    def ask(name: str, backend: Backend) -> Experiment:
        try:
            values = list(backend.open(plain).run(feeds).values())
            error = distance(expected, values[place])
        except (AlignkitError, IndexError) as reason:
            return Experiment(name, None, f"could not run: {reason}")
        return Experiment(name, error, "is right" if error <= allowed else "is wrong as well")

    def without(names: Sequence[str]) -> Experiment:
        return ask(f"the deployed file without {', '.join(names)}", tuned.without(names))

    def heals(names: Sequence[str]) -> bool:
        error = without(names).error
        return error is not None and error <= allowed

    left = countdown(seconds)
    tuned = run if isinstance(run, OnnxRuntime) else OnnxRuntime()
    where = "" if run is tuned else " in ONNX Runtime"
    off = ask(f"the deployed file{where}, optimisation off", tuned.at_level("disable"))
    if off.error is None or off.error > allowed:
        return Fusion((off,), False)
    # Of another runtime no part of its optimiser can be switched off here.
    names = smallest_healing(TRANSFORMERS, heals, left) if run is tuned else ()
    experiments = (off, without(names)) if names else (off,)
    return Fusion(experiments, True, _splitting_tap(trial, run, output.tap, expected, allowed, left))


def _splitting_tap(
    trial: Trial, run: Backend, output: str, expected: Array, allowed: float, left: Left
) -> str | None:
    """The last of the first taps in the file's order that must be exposed for ``output`` to be right.

    None where that is not so, or not found in time.
    """
    taps = [debug.tap for debug in trial.marked.debugs if debug.tap in trial.reference.taps]

    def is_right(count: int) -> bool:
        probe = extract_propagated(trial.marked, {*taps[:count], output})
        session = run.open(probe.model.SerializeToString(), probe.folder)
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
