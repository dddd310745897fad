"""Experiments on the graph: the culprit's segment, evaluated in other ways.

Each asks one question of the segment, always fed with exactly the reference's values, and answers
with an error and a reading. An experiment that cannot run says why and decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

import numpy as np
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from alignkit.diagnose.bench import Bench
from alignkit.diagnose.double import to_double
from alignkit.diagnose.segment import segment_model
from alignkit.errors import AlignkitError
from alignkit.records import Array, Experiment

AGREES = "agrees with PyTorch"
DIFFERS = "differs from PyTorch as well"

_MOST_PRODUCTS = 500_000_000  # multiplications that the reference evaluator is worth waiting for
_LEVELS = ("basic", "extended", "all")

TRANSFORMERS = (
    *("ConstantFolding", "CommonSubexpressionElimination", "TransposeOptimizer", "ReshapeFusion"),
    *(
        "MatMulAddFusion",
        "GeluFusionL1",
        "GeluFusionL2",
        "FastGeluFusion",
        "QuickGeluFusion",
        "BiasGeluFusion",
    ),
    *("LayerNormFusionL1", "LayerNormFusionL2", "SimplifiedLayerNormFusion", "SkipLayerNormFusion"),
    *("BiasSkipLayerNormFusion", "EmbedLayerNormFusion", "AttentionFusion", "GroupQueryAttentionFusion"),
    *("ConvAddFusion", "ConvMulFusion", "ConvBNFusion", "MatMulBNFusion", "MatmulBNFusion", "PadFusion"),
    *("ConvActivationFusion", "ConvAddActivationFusion", "GemmActivationFusion", "MatMulActivationFusion"),
    *("MatMulScaleFusion", "MatmulTransposeFusion", "GemmTransposeFusion", "GemmSumFusion"),
    *("BiasSoftmaxFusion", "BiasDropoutFusion", "DivMulFusion", "NotWhereFusion", "ClipQuantFusion"),
    *("ReluQuantFusion", "NchwcTransformer", "NhwcTransformer", "GatherToSliceFusion"),
    *("GatherSliceToSplitFusion", "SliceConcatToSpaceToDepthFusion", "LabelEncoderFusion"),
    *("QDQPropagationTransformer", "QDQSelectorActionTransformer", "QDQS8ToU8Transformer"),
    *("DynamicQuantizeMatMulFusion", "MatMulIntegerToFloatFusion", "DQMatMulNBitsFusion"),
    *("EliminateIdentity", "EliminateSlice", "EliminateDropout", "UnsqueezeElimination", "CastElimination"),
    *("CastChainElimination", "ExpandElimination", "NoopElimination", "PreShapeNodeElimination"),
    *("Level1_RuleBasedTransformer", "Level2_RuleBasedTransformer"),
)
"""ONNX Runtime's graph transformers and rewrite rules, as ``disabled_optimizers`` knows them."""


def is_right(experiment: Experiment, bench: Bench) -> bool:
    """Whether its result is the reference, up to rounding."""
    return experiment.error is not None and experiment.error <= bench.allowed


def run_unoptimised(bench: Bench) -> Experiment:
    """Does ONNX Runtime compute the reference with graph optimisation off?"""
    return _run_segment(
        "ONNX Runtime, optimisation off", bench, lambda model: _at_level(bench, model, "disable")
    )


def find_optimizers(bench: Bench) -> list[Experiment]:
    """Which level, and which graph transformers, spoil the segment that is right without optimisation."""
    model = segment_model(bench.marked, bench.segment).SerializeToString()
    found = []
    for level in _levels_up_to(bench.optimization):
        name = f"ONNX Runtime, optimisation {level!r}"
        found.append(_measure(name, bench, partial(_at_level, bench, model, level)))
        if found[-1].error is not None and not is_right(found[-1], bench):
            break

    def without(names: Sequence[str]) -> Experiment:
        run = partial(bench.run_without, model, bench.inputs(), names)
        return _measure(f"ONNX Runtime without {', '.join(names)}", bench, lambda: run()[bench.segment.value])

    if names := smallest_healing(TRANSFORMERS, lambda names: is_right(without(names), bench)):
        found.append(without(names))
    return found


def _levels_up_to(level: str) -> tuple[str, ...]:
    return _LEVELS[: _LEVELS.index(level) + 1] if level in _LEVELS else _LEVELS


def smallest_healing(names: Sequence[str], heals: Callable[[Sequence[str]], bool]) -> tuple[str, ...]:
    """A part of ``names``, as small as halving finds it, whose absence heals; empty where none does."""
    if not heals(names):
        return ()
    chosen = tuple(names)
    width = len(chosen) // 2
    while width:
        for start in range(0, len(chosen), width):
            fewer = chosen[:start] + chosen[start + width :]
            if fewer and heals(fewer):
                chosen = fewer
                break
        else:
            width //= 2
        width = min(width, len(chosen) // 2)
    return chosen


def run_independently(bench: Bench) -> Experiment:
    """Does an evaluation that is not ONNX Runtime read the graph as PyTorch does?"""
    name = "ONNX reference evaluator"
    if _products(bench) > _MOST_PRODUCTS:
        return Experiment(name, None, "not run: the segment is too large for it")
    try:
        evaluator = ReferenceEvaluator(segment_model(bench.marked, bench.segment))
        outputs = cast(Sequence[Array], evaluator.run(None, bench.inputs()))
        error = bench.error_of(outputs[0])
    except Exception as reason:  # the evaluator raises whatever its numpy code meets
        return Experiment(name, None, f"could not run: {type(reason).__name__}: {_line(reason)}")
    return Experiment(name, error, _agreement(error, bench.allowed))


def run_in_double(bench: Bench) -> Experiment:
    """Does ONNX Runtime compute the reference when the segment is evaluated in float64?

    Other kernels run then, with digits to spare: what is still wrong is wrong in the graph.
    """

    def evaluate(model: bytes) -> Array:
        converted = to_double(segment_model(bench.marked, bench.segment))
        feeds = {name: _widened(value) for name, value in bench.inputs().items()}
        return bench.run(converted.SerializeToString(), feeds, "disable")[bench.segment.value]

    return _run_segment("ONNX Runtime in float64", bench, evaluate)


def _widened(value: Array) -> Array:
    return value.astype(np.float64) if value.dtype == np.float32 else value


def _at_level(bench: Bench, model: bytes, level: str) -> Array:
    return bench.run(model, bench.inputs(), level)[bench.segment.value]


def _run_segment(name: str, bench: Bench, evaluate: Callable[[bytes], Array]) -> Experiment:
    return _measure(
        name, bench, lambda: evaluate(segment_model(bench.marked, bench.segment).SerializeToString())
    )


def _measure(name: str, bench: Bench, evaluate: Callable[[], Array]) -> Experiment:
    try:
        error = bench.error_of(evaluate())
    except (AlignkitError, ValueError, KeyError, TypeError) as reason:
        return Experiment(name, None, f"could not run: {_line(reason)}")
    return Experiment(name, error, _agreement(error, bench.allowed))


def _line(reason: BaseException) -> str:
    text = " ".join(str(reason).split())
    return text if len(text) <= 160 else text[:159] + "…"


def _agreement(error: float, allowed: float) -> str:
    return AGREES if error <= allowed else DIFFERS


def _products(bench: Bench) -> int:
    """An estimate: every element of the result reads the largest filter once."""
    filters = [int(np.prod(list(tensor.dims)[1:])) for tensor in bench.segment.weights]
    return bench.expected.size * max(filters, default=1)


def baked_constants(bench: Bench) -> tuple[int, ...]:
    """Integers in the segment that are a size of the export's inputs and none of these ones."""
    found: set[int] = set()
    constants = [
        attribute.t
        for node in bench.segment.nodes
        if node.op_type == "Constant"
        for attribute in node.attribute
        if attribute.name == "value"
    ]
    for tensor in (*constants, *bench.segment.weights):
        small = tensor.data_type == TensorProto.INT64 and np.prod(tensor.dims, dtype=np.int64) <= 64
        if small and tensor.data_location != TensorProto.EXTERNAL:
            found |= set(numpy_helper.to_array(tensor).ravel().tolist()) & set(bench.baked)
    return tuple(sorted(found))
