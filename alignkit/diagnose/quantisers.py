"""Quantisers: is a segment right once nothing in it is rounded to eight bits on its way?"""

from __future__ import annotations

from onnx import ModelProto

from alignkit.diagnose.bench import Bench
from alignkit.diagnose.experiments import agreement, could_not_run
from alignkit.diagnose.segment import segment_model
from alignkit.records import Experiment


def run_unquantised(bench: Bench) -> Experiment:
    """The segment with every value that is quantised and dequantised passed on as it is.

    Weights that are stored quantised stay so: they are the file's own numbers.
    """
    name = "the segment without its quantisers"
    model = segment_model(bench.marked, bench.segment)
    if not _bypass(model):
        return Experiment(name, None, "not run: it holds none that could be left out")
    try:
        found = bench.run(model.SerializeToString(), bench.inputs(), "disable")
        error = bench.error_of(found[bench.segment.value])
    except Exception as reason:  # of a runtime or a file: the other experiments go on
        return Experiment(name, None, could_not_run(reason))
    return Experiment(name, error, agreement(error, bench))


def holds_quantisers(bench: Bench) -> bool:
    """Whether there are any that can be left out; operators on whole numbers cannot."""
    return bool(_bypass(segment_model(bench.marked, bench.segment)))


def _bypass(model: ModelProto) -> int:
    """Let what reads a dequantised value read what was quantised; how many there were."""
    quantised = {
        node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"
    }
    pairs = [
        node for node in model.graph.node if node.op_type == "DequantizeLinear" and node.input[0] in quantised
    ]
    for node in pairs:
        source = quantised[node.input[0]]
        node.op_type = "Identity"
        node.domain = ""
        node.input[:] = [source]
        del node.attribute[:]
    return len(pairs)
