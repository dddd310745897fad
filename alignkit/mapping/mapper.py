"""Map the taps of a reference to the values of an ONNX file: the stages in order."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from onnx import ModelProto, TensorProto

from alignkit.errors import CompareError
from alignkit.mapping.account import describe_taps
from alignkit.mapping.passed import pass_on
from alignkit.mapping.pins import check_pins
from alignkit.mapping.proposals import Proposals
from alignkit.mapping.provenance import claim_values
from alignkit.mapping.recorded import read_recording
from alignkit.mapping.records import TapMapping
from alignkit.mapping.search import Search
from alignkit.mapping.supposed import accept_between, suppose
from alignkit.mapping.values import Run, ValueGraph, read_values
from alignkit.mapping.weights import identify_weights, recognise_weights
from alignkit.records import Array, Capture

BUDGET_BYTES = 256 * 2**20

_EXACT = 1e-3  # float rounding over a deep network, in L2 norm
_HALF = 2e-2
_QUANTISED = 0.25
_HALF_TYPES = {TensorProto.FLOAT16, TensorProto.BFLOAT16}
_QUANTISERS = ("QuantizeLinear", "DynamicQuantizeLinear", "MatMulNBits", "MatMulInteger", "ConvInteger")


def map_taps(
    model: ModelProto,
    folder: Path,
    reference: Capture,
    feeds: Mapping[str, Array],
    run: Run,
    *,
    pinned: Mapping[str, str] | None = None,
    parameters: Mapping[str, Array] | None = None,
    aliases: Mapping[str, str] | None = None,
    budget_bytes: int = BUDGET_BYTES,
) -> TapMapping:
    """Find the value of ``model`` that each tap of ``reference`` corresponds to.

    ``feeds`` are the graph's inputs for the same sample; ``run`` is called with a graph, the ``folder``
    of its external data and feeds, and gives every output by name, at most about ``budget_bytes`` of
    them at a time. ``parameters`` are the model's state, ``aliases`` further paths of modules that stand
    in several places, each with the path that the taps go by. Raises :class:`CompareError` for a pin that
    names no tap or no value, and whatever ``run`` raises.
    """
    pinned = dict(pinned or {})
    graph = read_values(model, folder)
    check_pins(pinned, reference.taps, graph.order)
    recording = read_recording(reference)
    if not recording.tensors:
        raise CompareError("the reference holds no tensor that could be looked for in the ONNX file.")
    parameters = parameters or {}
    weights = recognise_weights(graph.model, parameters, folder)
    stored = identify_weights(graph.model, parameters, weights)
    proposals = Proposals(claim_values(graph, reference.taps, stored, aliases or {}), recording)
    search = Search(graph, recording, proposals, feeds, run, budget_bytes)
    # Of taps on one tensor the first decides: the last is the model's output, behind what quantises it.
    known = [tap for tap in reversed(pinned) if tap in recording.of_tap]
    search.pin({recording.of_tap[tap]: pinned[tap] for tap in known})
    _search(search, tolerances(graph))
    taps = describe_taps(search, reference, pinned)
    notes = (*_notes(graph), *search.oversized())
    return TapMapping(taps, graph.model, notes, search.runs, weights.share_found if parameters else None)


def _search(search: Search, steps: tuple[float, ...]) -> None:
    """By the numbers; where one tensor stands at two places, by names which is whose; past what only names
    can tell; then what lies alone between its neighbours."""
    search.settle(steps)
    while pass_on(search):
        search.settle(steps)
    supposed = suppose(search)
    if supposed:
        search.settle(steps, supposed)
        for index, value in supposed.items():
            search.accept(index, value, "names")
    if accept_between(search):
        search.settle(steps)
    search.verify(steps[-1])


def tolerances(graph: ValueGraph) -> tuple[float, ...]:
    """How far a value may be from its tensor, in rounds from near to far, by the file's precision."""
    steps = [_EXACT]
    if _HALF_TYPES & set(graph.elements.values()):
        steps.append(_HALF)
    if any(node.op_type in _QUANTISERS or node.op_type.startswith("QLinear") for node in graph.nodes):
        steps += [_HALF, _QUANTISED]
    return tuple(dict.fromkeys(steps))


def _notes(graph: ValueGraph) -> tuple[str, ...]:
    if not graph.bodies:
        return ()
    first, more = graph.bodies[0], len(graph.bodies) - 1
    others = f" and {more} more" if more else ""
    return (f"Values inside the body of {first}{others} cannot be looked at from outside.",)
