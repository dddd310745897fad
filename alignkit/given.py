"""A file that somebody else made: its values are mapped to the model's taps, and it is marked there."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto
from torch import nn

from alignkit.backends import OnnxRuntime
from alignkit.binding import bind_inputs
from alignkit.deployed import candidate_leaves
from alignkit.errors import BackendError, CompareError, InputError
from alignkit.graph import graph_inputs, load_without_weights
from alignkit.mapping import Run, TapMapping, distance, map_taps, mark_values
from alignkit.quantised import expand_quantised
from alignkit.records import Array, Capture
from alignkit.settings import Files, Sample, Settings
from alignkit.tensors import to_numpy

_RIGHT = 1e-3  # float rounding over a deep network, in L2 norm
_MOST_SWAPPED = 4  # inputs: 24 orders
_FEW = 0.5  # share of the weights below which the file may be another model's


def mark_given(
    model: nn.Module, sample: Sample, reference: Capture, given: Path, folder: Path, settings: Settings
) -> Files:
    """Map the taps of ``reference`` to values of the file at ``given``, and mark a copy in ``folder``.

    The copy holds the graph alone: its external data stay beside the given file. Raises
    :class:`CompareError` when no tap has a counterpart.
    """
    graph = expand_quantised(load_without_weights(given))
    feeds, _ = bind_inputs(graph_inputs(graph), candidate_leaves(model, sample))
    parameters = {name: to_numpy(value, copy=False) for name, value in model.state_dict().items()}
    # Whatever the candidate runs on: which value is which is a question about the file.
    reader = settings.run if isinstance(settings.run, OnnxRuntime) else OnnxRuntime()

    def run(part: ModelProto, data: Path, fed: Mapping[str, Array]) -> Mapping[str, Array]:
        try:
            return reader.open(part.SerializeToString(), data).run(fed)
        except BackendError:
            if reader is settings.run:
                raise
            return settings.run.open(part.SerializeToString(), data).run(fed)

    where = (graph, given.parent, reference, feeds, run)
    _require_order(*where)
    mapping = map_taps(*where, pinned=settings.pinned, parameters=parameters, aliases=module_aliases(model))
    share = mapping.weights_found
    if not mapping.found():
        known = "" if share is None else f": {share:.0%} of the file's weights are found in the model"
        raise CompareError(
            f"no tap of this model has a counterpart in {given}{known}. "
            "Give the file that was made from it, or pin taps by hand (--map)."
        )
    marked = folder / "marked.onnx"
    onnx.save(mark_values(mapping), marked)
    notes = (_describe(mapping, given, reference.sides.candidate), *mapping.notes)
    doubt = ""
    if share is not None and share < _FEW:
        doubt = (
            f"only {share:.0%} of the file's weights are found in this model: is it another's, or another "
            "checkpoint's?"
        )
        notes = (doubt[0].upper() + doubt[1:], *notes)
    return Files(marked, given, notes, plain_given=True, folder=given.parent, mapping=mapping, doubt=doubt)


def _require_order(
    graph: ModelProto, folder: Path, reference: Capture, feeds: Mapping[str, Array], run: Run
) -> None:
    """Raises :class:`InputError` where inputs of one kind are right only under each other's names."""
    alike = sorted(n for n, v in feeds.items() if any(_is_alike(v, o) for m, o in feeds.items() if m != n))
    if not 2 <= len(alike) <= _MOST_SWAPPED or not reference.outputs:
        return

    def is_right(fed: Mapping[str, Array]) -> bool:
        found = list(run(graph, folder, fed).values())[: len(reference.outputs)]
        pairs = list(zip(found, reference.outputs, strict=False))
        return len(pairs) == len(reference.outputs) and all(
            np.shape(one) == other.shape and distance(np.asarray(one), other) <= _RIGHT
            for one, other in pairs
        )

    if is_right(feeds):
        return
    for order in permutations(alike):
        swapped = {n: feeds[o] for n, o in zip(alike, order, strict=True) if n != o}
        fits = swapped and all(_is_alike(feeds[name], value) for name, value in swapped.items())
        if fits and is_right({**feeds, **swapped}):
            shown = ", ".join(
                f"{name!r} takes what the model calls {own!r}"
                for name, own in zip(alike, order, strict=True)
                if name != own
            )
            raise InputError(
                f"the file's inputs are named otherwise than the model's: {shown}; fed so it is right. Give "
                "input_names= in the order of the forward's parameters when it is exported, or swap them."
            )


def _is_alike(one: Array, other: Array) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype and not np.array_equal(one, other)


def module_aliases(model: nn.Module) -> dict[str, str]:
    """The further paths of modules that stand in several places, each with its first path."""
    first: dict[nn.Module, str] = {}
    paths = model.named_modules(remove_duplicate=False)
    return {path: first[module] for path, module in paths if first.setdefault(module, path) != path}


def _describe(mapping: TapMapping, given: Path, side: str) -> str:
    # The side's name has folders before it where the reference is a file of the same name.
    name = side if Path(side).name == given.name else given.name
    found = mapping.found().values()
    sure = sum(tap.confidence == "high" for tap in found)
    return (
        f"{name} holds no taps: {len(found)} of {len(mapping.taps)} were mapped to its values, "
        f"{sure} of them with high confidence."
    )
