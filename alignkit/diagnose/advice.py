"""What to do about each cause, in one place."""

from __future__ import annotations

from collections.abc import Mapping

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
        "Every layer is right on its own; run the deployed file with optimization='disable' and raise "
        "the level step by step to find the optimisation that changes the result."
    ),
    "unknown": (
        "Hold the listed ONNX nodes against the module's forward: their attributes, constants and "
        "weights are all that can make this difference, for their inputs were exact."
    ),
}
