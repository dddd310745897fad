"""Repro bundles: one culprit as a folder that fails on its own, without PyTorch and alignkit.

A bundle maps file names to contents; nothing is written here.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
from onnx import TensorProto, helper

from alignkit.diagnose.bench import Bench, distance
from alignkit.diagnose.issue import describe_issue
from alignkit.diagnose.reduce import Budget, Finding, allowed_error, reduce_case, run_case, whole_case
from alignkit.diagnose.templates import render_template
from alignkit.environment import describe_environment
from alignkit.graph import graph_inputs
from alignkit.metrics import dtype_kind
from alignkit.records import Array, Culprit

MOST_BYTES = 256 * 2**20
"""Weights and values of a segment beyond this are no bundle to pass on."""

_LONGEST_NAME = 60
_OPEN_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
_NOT_IN_THE_GRAPH: Mapping[str, str] = {
    "input": "the two sides are fed different values, which no part of the graph can show",
    "train-mode": "the PyTorch model's mode is at fault, which no part of the graph can show",
    "nondeterministic": "PyTorch's own result changes from run to run, so that nothing can be expected",
}


def bundle_name(tap: str) -> str:
    """A folder name for ``tap``: readable, unique, and harmless on every file system.

    Letters, digits, ``_`` and ``-`` only, at most 70 of them; the hash at its end tells taps apart
    whose names read alike, and keeps it from being a reserved name.
    """
    readable = re.sub(r"[^A-Za-z0-9-]+", "_", tap)[-_LONGEST_NAME:].strip("_-") or "tap"
    digest = hashlib.sha256(tap.encode("utf-8", errors="surrogatepass")).hexdigest()
    return f"{readable}-{digest[:8]}"


def make_bundle(
    culprit: Culprit,
    bench: Bench,
    *,
    known: Mapping[str, Array] | None = None,
    providers: Sequence[Any] = ("CPUExecutionProvider",),
    disabled_optimizers: Sequence[str] = (),
    budget: Budget | None = None,
) -> Mapping[str, bytes] | str:
    """The bundle of ``culprit``, reduced to the fewest nodes that still fail; or why there is none.

    ``known`` maps ONNX values inside the segment to the reference's arrays, as op taps record them.
    ``providers`` and ``disabled_optimizers`` are what ``bench.run`` runs with. ``budget`` bounds the
    reduction. Raises nothing: a report must not be lost over a bundle.
    """
    try:
        reason = _NOT_IN_THE_GRAPH.get(culprit.cause) or _why_impossible(bench)
        if reason:
            return reason
        case = whole_case(bench)
        error = distance(case.expected, run_case(case, bench))
        if error <= bench.allowed:
            return f"on its own the segment is right (max |error| {error:.3g}, allowed {bench.allowed:.3g})"
        case = reduce_case(case, culprit.cause, known, bench, budget)
        output, allowed = run_case(case, bench), allowed_error(case, bench)
        where = (bench.optimization, tuple(providers), tuple(disabled_optimizers))
        return build_bundle(culprit, Finding(case, output, allowed, *where), describe_environment())
    except Exception as error:  # whatever a foreign graph or a runtime comes up with
        return f"it could not be built: {type(error).__name__}: {' '.join(str(error).split())}"


def _why_impossible(bench: Bench) -> str:
    """Why no bundle can hold the segment; empty when one can."""
    segment = bench.segment
    if not segment.nodes:
        return "no ONNX node computes it"
    functions = {(function.domain, function.name) for function in bench.marked.model.functions}
    for node in segment.nodes:
        if node.domain not in _OPEN_DOMAINS and (node.domain, node.op_type) not in functions:
            return f"{node.domain}::{node.op_type} comes from a custom-op library, which a bundle cannot hold"
    weights = sum(_size_of(tensor) for tensor in segment.weights)
    size = weights + bench.expected.nbytes + sum(value.nbytes for value in bench.inputs().values())
    if size > MOST_BYTES:
        return f"weights and values take {size / 2**20:.0f} MiB, more than {MOST_BYTES / 2**20:.0f} MiB"
    return ""


def _size_of(tensor: TensorProto) -> int:
    """Bytes of a weight, whether or not its data are loaded."""
    itemsize = helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return int(np.prod(tensor.dims, dtype=np.int64)) * itemsize


def build_bundle(culprit: Culprit, finding: Finding, environment: Mapping[str, Any]) -> Mapping[str, bytes]:
    """File name -> content: model, values, script, test, versions and the text of an issue.

    Raises ``ValueError`` when a value has a type that a file of numpy arrays cannot hold.
    """
    case = finding.case
    inputs = [
        _stored(_as_type(case.feeds[name], value.type.tensor_type.elem_type))
        for name, value in graph_inputs(case.model).items()
    ]
    expected = case.expected
    if expected.dtype == ml_dtypes.bfloat16:
        expected = expected.astype(np.float32)  # exact, and a type that numpy can compare
    return {
        "segment.onnx": case.model.SerializeToString(),
        "inputs.npz": _npz({f"input_{position}": value for position, value in enumerate(inputs)}),
        "expected.npz": _npz({"expected": _stored(expected)}),
        "repro.py": _encode(_script(culprit, finding)),
        "test_repro.py": _encode(render_template("test_repro.py", {})),
        "versions.json": _encode(json.dumps(dict(environment), indent=1) + "\n"),
        "issue.md": _encode(describe_issue(culprit, finding, environment)),
    }


def _as_type(value: Array, elem: int) -> Array:
    """The graph may have been converted to another type than PyTorch ran in."""
    dtype = ml_dtypes.bfloat16 if elem == TensorProto.BFLOAT16 else helper.tensor_dtype_to_np_dtype(elem)
    return value.astype(dtype, copy=False)


def _stored(value: Array) -> Array:
    """``value`` as an .npz file can hold it; bfloat16 as its bits, in uint16."""
    if value.dtype == ml_dtypes.bfloat16:
        return np.ascontiguousarray(value).view(np.uint16)
    if value.dtype.isbuiltin != 1 or dtype_kind(value.dtype) == "complex":
        raise ValueError(f"values of type {value.dtype} cannot be stored")
    return value


def _npz(arrays: Mapping[str, Array]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def _script(culprit: Culprit, finding: Finding) -> str:
    values = {
        "place": culprit.tap,
        "expected_from": finding.case.expected_from,
        "allowed": float(finding.allowed),
        "optimization": finding.optimization,
        "providers": [_literal(provider) for provider in finding.providers],
        "disabled_optimizers": list(finding.disabled_optimizers),
    }
    # As ASCII literals: whatever a name holds, it stays a string.
    return render_template("repro.py", {name: ascii(value) for name, value in values.items()})


def _literal(provider: Any) -> Any:
    """A provider's name, or name and options, with nothing in it but strings."""
    if isinstance(provider, str):
        return provider
    name, options = provider
    return str(name), {str(key): str(value) for key, value in options.items()}


def _encode(text: str) -> bytes:
    return text.encode("utf-8", errors="backslashreplace")
