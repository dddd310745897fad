"""What to do about each cause, in one place."""

from __future__ import annotations

from collections.abc import Mapping

from alignkit.records import Sides

ADVICE: Mapping[str, str] = {
    "input": (
        "Feed the deployed model what PyTorch is fed: compare layout (NCHW or NHWC), channel order, "
        "scale, normalisation and dtype of the two preprocessing paths."
    ),
    "train-mode": "Call model.eval() before exporting and before comparing.",
    "nondeterministic": (
        "The layer draws random numbers or keeps state between calls; fix the seed or take that "
        "operation out of the forward before comparing."
    ),
    "optimizer": (
        "A graph optimisation changes the result: until it is mended, run the deployed file at a lower "
        "level or with disabled_optimizers=[…] of those that the experiments name."
    ),
    "precision": (
        "Nothing is wrong with this layer but its precision. Widen your tolerance for this tap "
        "(tolerances=), or run the layer in a wider type: leave it out of the quantising or converting."
    ),
    "runtime": (
        "The graph is right and the kernel is not: report the segment to the runtime, and until then "
        "keep it off that kernel (another provider, another opset, or an equivalent operator)."
    ),
    "exporter": (
        "The graph says something else than the model: hold the listed nodes' attributes against the "
        "operator's definition, and rewrite the line of the forward, or export with another exporter "
        "or opset. If the file was edited after its export, export it again."
    ),
    "export-branch": (
        "The forward takes another branch while it is exported (is_in_onnx_export, is_tracing, "
        "is_exporting): make that branch compute the same, or remove it."
    ),
    "trace-constant": (
        "A value of the export's inputs was baked into the graph: replace int(), len(), .item(), numpy "
        "and Python control flow on tensors by tensor operations, and export with dynamic axes."
    ),
    "weights": (
        "The file holds other weights than this model: export again from this checkpoint, or load the "
        "checkpoint that the file was made from."
    ),
    "unknown": (
        "Hold the listed ONNX nodes against the module's forward: their attributes, constants and "
        "weights are all that can make this difference, for their inputs were exact."
    ),
}

_OF_SOURCES: Mapping[str, str] = {
    "input": (
        "Feed the deployed model what {0} was fed: compare layout (NCHW or NHWC), channel order, scale, "
        "normalisation and dtype."
    ),
    "weights": (
        "The file holds other weights than {0}: make it again from that, or compare it with what it was "
        "made from."
    ),
    "unknown": (
        "Hold the listed ONNX nodes against what makes this value in {0}: their attributes, constants and "
        "weights are all that can make this difference, for their inputs were exact."
    ),
}


def advice_on(cause: str, sides: Sides) -> str:
    """What to do about ``cause``, where the reference may be no PyTorch model whose code can be changed."""
    advice = ADVICE[cause]
    return advice if sides == Sides() else _OF_SOURCES.get(cause, advice).format(sides.reference)


CONVERTED = (
    "The graph is right and too coarse for this layer's values: keep its nodes in higher precision (for "
    "quantisation nodes_to_exclude=, for float16 node_block_list=), or tame the range of its weights and "
    "inputs (per-channel weights, reduce_range, calibration by percentile)."
)
"""For a converted file whose own rounding is more than its precision explains."""

GIVEN_FILE = (
    "The given file is not what this model exports to today: export it again, or load the checkpoint "
    "and the code that it was made from."
)
"""For an output that is wrong in a file that was given, while a fresh export is right."""

UNLOCATED = (
    "No tap shows where it starts: compare with fewer taps (include=, depth=), so that fewer fusions are "
    "split, and with optimization='disable'; the evidence names what the runtime said."
)
"""For an output that is wrong although every compared layer is right."""
