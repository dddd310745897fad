"""Sensitivity: which layers of a converted file cost most.

Every layer that computes at a lower precision than the model is ranked by the error that it introduces
by itself. For the first few the cost at the model's output is measured as well: what the layer's own
error adds there when all before it is exact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from onnx import NodeProto

from alignkit.backends import Backend
from alignkit.diagnose import Segment, find_segment
from alignkit.errors import AlignkitError
from alignkit.extract import extract_introduced
from alignkit.graph import MarkedGraph
from alignkit.mapping import PREFIX
from alignkit.records import Array, LayerRow, OutputRow, SensitivityRow
from alignkit.trial import Trial

_MEASURED = 8
"""Layers whose cost at the output is measured: one more run of what lies behind each."""

_CONVERSIONS = {
    *("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Cast", "Identity", "Constant"),
}
_INTEGER = ("ConvInteger", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul")
_ACTIVATIONS = ("Relu", "Clip", "LeakyRelu", "Sigmoid", "HardSwish", "HardSigmoid", "Tanh")
_QUANTISED = "_quant"  # what ONNX Runtime's quantisation appends to a node's name


def measure_sensitivity(
    trial: Trial, rows: Sequence[LayerRow], outputs: Sequence[OutputRow], backend: Backend
) -> list[SensitivityRow]:
    """The layers at lower precision, the most costly first.

    The order is that of the introduced SQNR; layers that were measured to add nothing to the output's error
    (a mask whose huge values were cut off) come last.
    """
    ranked = sorted(filter(_is_coarse, rows), key=_introduced)
    shares = _shares(trial, [row.tap for row in ranked[:_MEASURED]], outputs, backend)
    found = [_row(trial, row, shares.get(row.tap)) for row in ranked]
    return sorted(found, key=lambda row: row.output_share is not None and row.output_share <= 0.0)


def _is_coarse(row: LayerRow) -> bool:
    return row.precision is not None and row.introduced is not None and row.introduced.sqnr_db is not None


def _introduced(row: LayerRow) -> float:
    sqnr = row.introduced.sqnr_db if row.introduced else None
    return float("inf") if sqnr is None else sqnr


def _row(trial: Trial, row: LayerRow, share: float | None) -> SensitivityRow:
    segment = find_segment(trial.marked, row.tap, trial.reference.values.keys())
    nodes = _computing(segment)
    kept = nodes or _around(trial.marked, segment)
    tap = trial.reference.taps.get(row.tap)
    return SensitivityRow(
        row.tap,
        tap.owner if tap is not None else row.module,
        (nodes or segment.nodes)[-1].op_type if segment.nodes else "",
        row.precision or "",
        _introduced(row),
        row.propagated.sqnr_db if row.propagated else None,
        share,
        tuple(node.name.removesuffix(_QUANTISED) for node in kept if node.name),
    )


def _computing(segment: Segment) -> list[NodeProto]:
    """The nodes that do the layer's work; those around an integer product only scale it."""
    own = [node for node in segment.nodes if not node.name.startswith(PREFIX)]
    nodes = [node for node in own if node.op_type not in _CONVERSIONS]
    return [node for node in nodes if node.op_type in _INTEGER] or nodes


def _around(marked: MarkedGraph, segment: Segment) -> list[NodeProto]:
    """What makes and what reads a value that its segment does nothing with but quantise it.

    A value stays as it is only where no node on either side is converted; an activation is one with
    what it activates.
    """
    passing = {node.output[0] for node in marked.nodes if _passes_on(node)}
    inside = {name for node in segment.nodes for name in node.output}
    makers = _made_by(marked, set(segment.borders), passing)
    activations = [node for node in makers if node.op_type in _ACTIVATIONS]
    makers += _made_by(marked, {name for node in activations for name in node.input[:1]}, passing)
    reached = {segment.value, *inside}
    readers = []
    for node in marked.nodes:
        if reached & set(node.input) and not set(node.output) & inside:
            if _passes_on(node):
                reached |= set(node.output)
            else:
                readers.append(node)
    return [*reversed(makers), *readers]


def _made_by(marked: MarkedGraph, values: set[str], passing: set[str]) -> list[NodeProto]:
    """The nodes that make ``values``, through those that only pass a value on."""
    found, waiting = [], list(values)
    while waiting:
        place = marked.made_by.get(waiting.pop())
        if place is None:
            continue
        node = marked.nodes[place]
        if node.output[0] in passing:
            waiting.extend(node.input[:1])
        else:
            found.append(node)
    return found


def _passes_on(node: NodeProto) -> bool:
    return node.op_type in _CONVERSIONS or node.name.startswith(PREFIX)


def _shares(
    trial: Trial, taps: Sequence[str], outputs: Sequence[OutputRow], backend: Backend
) -> Mapping[str, float]:
    """Tap -> the share of the worst output's squared error that its own error makes, where it can be told."""
    levels = {
        row.tap: (row.probed.sqnr_db, (row.probed.mse or 0.0) * row.probed.size)
        for row in outputs
        if row.probed is not None and row.probed.sqnr_db is not None
    }
    worst = min(levels, key=lambda tap: levels[tap][0], default=None)
    if worst is None or not levels[worst][1]:
        return {}
    found = {tap: _power_of(trial, tap, worst, backend) for tap in taps}
    return {tap: power / levels[worst][1] for tap, power in found.items() if power is not None}


def _power_of(trial: Trial, tap: str, output: str, backend: Backend) -> float | None:
    """What the own error of ``tap`` adds to the output's squared error.

    The file is run from there on, all before it being exact, once with the value that the tap's segment
    makes of exact inputs and once with the reference. What later layers round is in both.
    """
    own = trial.introduced(tap)
    exact = trial.reference.values.get(tap)
    if own is None or exact is None or own.shape != exact.shape:
        return None
    names = [debug.tap for debug in trial.marked.debugs]  # in the order of the graph
    before = [name for name in names[: names.index(tap) + 1] if name in trial.reference.values]
    probe = extract_introduced(trial.marked, before, [output])
    if output == tap or probe.passthrough.get(output) == tap:
        return _error_power(trial, output, own)
    if output not in probe.outputs:
        return None
    fed = {name: trial.reference.values[source] for name, source in probe.feeds.items()}
    first = trial.reference.first
    wrong = {name: own for name, source in probe.feeds.items() if first(source) == first(tap)}
    name = probe.outputs[output]
    try:
        session = backend.open(probe.model.SerializeToString(), probe.folder)
        runs = [session.run({**trial.feeds, **fed, **more}, [name])[name] for more in (wrong, {})]
    except AlignkitError:
        return None
    powers = [_error_power(trial, output, np.asarray(found)) for found in runs]
    return None if powers[0] is None or powers[1] is None else powers[0] - powers[1]


def _error_power(trial: Trial, output: str, found: Array) -> float | None:
    """The sum of an output's squared errors; None where it has none, or one that is not finite."""
    expected = trial.reference.values.get(output)
    if expected is None or found.shape != expected.shape:
        return None
    with np.errstate(invalid="ignore", over="ignore"):
        power = float(np.sum((found.astype(np.float64) - expected.astype(np.float64)) ** 2))
    return power if np.isfinite(power) else None
