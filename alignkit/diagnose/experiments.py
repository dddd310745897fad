"""Experiments on the graph: the culprit's segment, evaluated in other ways.

Each asks one question of the segment, always fed with exactly the reference's values, and answers
with an error and a reading. An experiment that cannot run says why and decides nothing.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import cast

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from alignkit.diagnose.bench import Bench, RunModel
from alignkit.diagnose.double import to_double
from alignkit.diagnose.segment import segment_model
from alignkit.errors import AlignkitError
from alignkit.isolation import run_isolated
from alignkit.metrics import dtype_kind
from alignkit.records import Array, Experiment, Sides

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
    "WeightBiasQuantization",
    *("DynamicQuantizeMatMulFusion", "MatMulIntegerToFloatFusion", "DQMatMulNBitsFusion"),
    *("EliminateIdentity", "EliminateSlice", "EliminateDropout", "UnsqueezeElimination", "CastElimination"),
    *("CastChainElimination", "ExpandElimination", "NoopElimination", "PreShapeNodeElimination"),
    *("Level1_RuleBasedTransformer", "Level2_RuleBasedTransformer"),
)
"""ONNX Runtime's graph transformers and rewrite rules, as ``disabled_optimizers`` knows them."""


def as_product(bench: Bench) -> str:
    """The reading of an evaluation that is wrong in the same way as the product."""
    return f"computes what {bench.product} does"


Left = Callable[[], float]
"""How many seconds an experiment may still take."""


def countdown(seconds: float, clock: Callable[[], float] = time.monotonic) -> Left:
    """What is left of ``seconds`` from now on; negative once they are over."""
    end = clock() + seconds
    return lambda: end - clock()


def is_right(experiment: Experiment, bench: Bench) -> bool:
    """Whether its result is the reference, up to rounding."""
    return experiment.error is not None and experiment.error <= bench.allowed


def run_unoptimised(bench: Bench) -> Experiment:
    """Does ONNX Runtime compute the reference with graph optimisation off?"""
    return _run_segment(
        "ONNX Runtime, optimisation off", bench, lambda model: _at_level(bench, model, "disable")
    )


def run_in_full(ways: Sequence[Bench]) -> Experiment:
    """Does the segment compute the reference once the conversion to a lower precision is taken out?"""
    found = [_run_in_full(full) for full in ways]
    return min(found, key=lambda one: math.inf if one.error is None else one.error)


def _run_in_full(full: Bench) -> Experiment:
    name = "the segment in full precision"
    return _run_segment(name, full, lambda model: _at_level(full, model, "disable"))


def run_at_levels(bench: Bench) -> list[Experiment]:
    """From which level of optimisation on is the segment wrong? Up to that one, or to the product's own."""
    model = segment_model(bench.marked, bench.segment).SerializeToString()
    found = []
    for level in _levels_up_to(bench.optimization):
        name = f"ONNX Runtime, optimisation {level!r}"
        found.append(_measure(name, bench, partial(_at_level, bench, model, level)))
        if found[-1].error is not None and not is_right(found[-1], bench):
            break
    return found


def find_transformers(bench: Bench, left: Left = lambda: math.inf) -> Experiment | None:
    """Without which graph transformers is the segment right at the product's level?

    Out of time, more are named than it takes. None where it stays wrong without all that are known.
    """
    model = segment_model(bench.marked, bench.segment).SerializeToString()

    def without(names: Sequence[str]) -> Experiment:
        run = partial(bench.run_without, model, bench.inputs(), names)
        return _measure(f"ONNX Runtime without {', '.join(names)}", bench, lambda: run()[bench.segment.value])

    names = smallest_healing(TRANSFORMERS, lambda names: is_right(without(names), bench), left)
    return without(names) if names else None


def _levels_up_to(level: str) -> tuple[str, ...]:
    return _LEVELS[: _LEVELS.index(level) + 1] if level in _LEVELS else _LEVELS


def smallest_healing(
    names: Sequence[str], heals: Callable[[Sequence[str]], bool], left: Left = lambda: math.inf
) -> tuple[str, ...]:
    """A part of ``names``, as small as halving finds it in time, whose absence heals; empty if none does."""
    if not heals(names):
        return ()
    chosen = tuple(names)
    width = len(chosen) // 2
    while width:
        for start in range(0, len(chosen), width):
            fewer = chosen[:start] + chosen[start + width :]
            if left() <= 0:
                return chosen
            if fewer and heals(fewer):
                chosen = fewer
                break
        else:
            width //= 2
        width = min(width, len(chosen) // 2)
    return chosen


def run_independently(bench: Bench, seconds: float = math.inf) -> Experiment:
    """Does the ONNX reference evaluator read the graph as PyTorch does, or as the product's runtime?"""
    name = "ONNX reference evaluator"
    if _products(bench) > _MOST_PRODUCTS:
        return Experiment(name, None, "not run: the segment is too large for it")
    try:
        evaluate = partial(_evaluate, segment_model(bench.marked, bench.segment), bench.inputs())
        # Some of its operators are loops in Python: only a process of its own can be abandoned.
        value = evaluate() if math.isinf(seconds) else run_isolated(evaluate, max(seconds, 0.0))
        error = bench.error_of(value)
    except TimeoutError as reason:
        return Experiment(name, None, f"not run: {reason}")
    except Exception as reason:  # the evaluator raises whatever its numpy code meets
        return Experiment(name, None, could_not_run(reason))
    return _compared(name, error, value, bench)


def run_elsewhere(bench: Bench, run: RunModel) -> Experiment:
    """Does ONNX Runtime, where another runtime is the product, read the graph as PyTorch does?"""
    name = "ONNX Runtime on CPU, unoptimised"
    model = segment_model(bench.marked, bench.segment).SerializeToString()
    try:
        value = run(model, bench.inputs(), "disable")[bench.segment.value]
        error = bench.error_of(value)
    except Exception as reason:  # of a runtime or a file: the other experiments go on
        return Experiment(name, None, could_not_run(reason))
    return _compared(name, error, value, bench)


def _compared(name: str, error: float, value: Array, bench: Bench) -> Experiment:
    """The experiment of another reader of the graph."""
    if error > bench.allowed and bench.is_like_candidate(value):
        return Experiment(name, error, as_product(bench))
    return Experiment(name, error, agreement(error, bench))


def _evaluate(model: ModelProto, feeds: Mapping[str, Array]) -> Array:
    """The model's only output; ``feeds`` are cast to what the graph declares, as the runtime does it."""
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
    cast_feeds = {
        name: value.astype(helper.tensor_dtype_to_np_dtype(types[name]), copy=False)
        for name, value in feeds.items()
    }
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return cast(Sequence[Array], ReferenceEvaluator(model).run(None, cast_feeds))[0]


def run_in_double(bench: Bench) -> Experiment:
    """Does ONNX Runtime compute the reference when the segment is evaluated in float64?

    Other kernels run then, with digits to spare: what is still wrong is wrong in the graph.
    """

    name = "ONNX Runtime in float64"
    model = segment_model(bench.marked, bench.segment)
    double = to_double(model)
    if double == model:
        return Experiment(name, None, "not run: nothing in the segment is narrower than float64")

    def evaluate() -> Array:
        feeds = {name: _widened(value) for name, value in bench.inputs().items()}
        run = bench.elsewhere or bench.run
        return run(double.SerializeToString(), feeds, "disable")[bench.segment.value]

    return _measure(name, bench, evaluate)


def _widened(value: Array) -> Array:
    return value.astype(np.float64) if dtype_kind(value.dtype) == "float" else value


def _at_level(bench: Bench, model: bytes, level: str) -> Array:
    return bench.run(model, bench.inputs(), level)[bench.segment.value]


def _run_segment(name: str, bench: Bench, evaluate: Callable[[bytes], Array]) -> Experiment:
    return _measure(
        name, bench, lambda: evaluate(segment_model(bench.marked, bench.segment).SerializeToString())
    )


def _measure(name: str, bench: Bench, evaluate: Callable[[], Array]) -> Experiment:
    try:
        error = bench.error_of(evaluate())
    except Exception as reason:  # of a runtime, a file or the user's own library: the other experiments go on
        return Experiment(name, None, could_not_run(reason))
    return Experiment(name, error, agreement(error, bench))


def could_not_run(reason: BaseException) -> str:
    """The reading of an experiment that failed, in one line."""
    said = " ".join(str(reason).split())
    text = said if isinstance(reason, AlignkitError) else f"{type(reason).__name__}: {said}"
    return f"could not run: {text if len(text) <= 160 else text[:159] + '…'}"


def agreement(error: float, bench: Bench) -> str:
    """The reading of an error: with the reference, by its name, or away from it."""
    reading = AGREES if error <= bench.allowed else DIFFERS
    return reading.replace(Sides().reference, bench.reference.sides.reference)


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
