"""A file that somebody else made: its values are mapped to the model's taps, and it is marked there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx
from onnx import ModelProto
from torch import nn

from alignkit.binding import bind_inputs
from alignkit.deployed import candidate_leaves
from alignkit.errors import CompareError
from alignkit.graph import graph_inputs, load_graph
from alignkit.mapping import TapMapping, map_taps, mark_values, share_of_weights_found
from alignkit.quantised import expand_quantised
from alignkit.records import Array, Capture
from alignkit.run import Session
from alignkit.settings import Files, Sample, Settings
from alignkit.tensors import to_numpy

_FEW = 0.5  # share of the weights below which the file may be another model's


def mark_given(
    model: nn.Module, sample: Sample, reference: Capture, given: Path, folder: Path, settings: Settings
) -> Files:
    """Map the taps of ``reference`` to values of the file at ``given``, and mark a copy in ``folder``.

    The copy holds the graph alone: its external data stay beside the given file. Raises
    :class:`CompareError` when no tap has a counterpart.
    """
    graph = expand_quantised(load_graph(given))
    feeds, _ = bind_inputs(graph_inputs(graph), candidate_leaves(model, sample))
    parameters = {name: to_numpy(value) for name, value in model.state_dict().items()}

    def run(part: ModelProto, data: Path, fed: Mapping[str, Array]) -> Mapping[str, Array]:
        return Session(part.SerializeToString(), settings.run, data).run(fed)

    where = (graph, given.parent, reference, feeds, run)
    mapping = map_taps(*where, pinned=settings.pinned, parameters=parameters)
    share = share_of_weights_found(graph, parameters, given.parent)
    if not mapping.found():
        raise CompareError(
            f"no tap of this model has a counterpart in {given}: {share:.0%} of the file's weights are found "
            "in the model. Give the file that was made from it, or pin taps by hand (--map)."
        )
    marked = folder / "marked.onnx"
    onnx.save(mark_values(mapping), marked)
    notes = (_describe(mapping, given), *mapping.notes)
    if share < _FEW:
        notes = (f"Only {share:.0%} of the file's weights are found in this model: is it another's?", *notes)
    return Files(marked, given, notes, plain_given=True, folder=given.parent, mapping=mapping)


def _describe(mapping: TapMapping, given: Path) -> str:
    found = mapping.found().values()
    sure = sum(tap.confidence == "high" for tap in found)
    return (
        f"{given.name} holds no taps: {len(found)} of {len(mapping.taps)} were mapped to its values, "
        f"{sure} of them with high confidence."
    )
