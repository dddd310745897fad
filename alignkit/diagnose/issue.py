"""The text of an issue: what is wrong, the graph that shows it, how to run it, and on what.

It is Markdown. All that comes from a model stands in code blocks, where nothing is markup.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from onnx import AttributeProto, NodeProto, TensorProto, helper, numpy_helper

from alignkit.diagnose.reduce import Finding
from alignkit.diagnose.templates import render_template
from alignkit.graph import graph_inputs, subgraphs
from alignkit.metrics import measure_error
from alignkit.records import Array, Culprit

_HEADLINES: Mapping[str, str] = {
    "exporter": "the exported graph computes something else than PyTorch",
    "optimizer": "wrong result with graph optimisation on",
    "runtime": "wrong result in ONNX Runtime",
    "weights": "the file holds other weights than the model",
    "trace-constant": "a value of the export's inputs was baked into the graph",
    "export-branch": "the model takes another branch while it is exported",
}
_MOST_OPERATORS = 3  # that a title names
_MOST_VALUES = 16  # of a tensor attribute that are written out


def describe_issue(culprit: Culprit, finding: Finding, environment: Mapping[str, Any]) -> str:
    """The content of ``issue.md``."""
    case = finding.case
    headline = _HEADLINES.get(culprit.cause, f"another result than {case.expected_from}")
    texts = {
        "title": f"{_operators(finding)}: {headline}",
        "error": _difference(finding),
        "allowed": f"{finding.allowed:.3g}",
        "expected_from": case.expected_from,
        "facts": _block(_facts(culprit, finding)),
        "graph": _block(_graph(finding)),
        "numbers": _block(_numbers(culprit, finding)),
        "versions": _block([(name, str(version)) for name, version in environment.items()]),
    }
    return render_template("issue.md", texts)


def _operators(finding: Finding) -> str:
    """The operators in the graph's order: "Conv", "Mul and Add", "MatMul, Add and 3 others"."""
    names = list(dict.fromkeys(re.sub(r"\W", "", node.op_type) for node in finding.case.nodes))
    if len(names) > _MOST_OPERATORS:
        names[_MOST_OPERATORS - 1 :] = [f"{len(names) - _MOST_OPERATORS + 1} others"]
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _difference(finding: Finding) -> str:
    expected, output = finding.case.expected, finding.output
    if output.shape != expected.shape:
        return f"of shape {list(output.shape)} instead of {list(expected.shape)}"
    metrics = measure_error(expected, output.astype(expected.dtype, copy=False), rtol=0.0, atol=0.0)
    if metrics.nonfinite_mismatches:
        return f"NaN or infinite on one side only, at {metrics.nonfinite_mismatches} elements"
    where = f" at {list(metrics.worst_index)}" if metrics.worst_index else ""
    figures = f"{_figure(metrics.worst_candidate)} instead of {_figure(metrics.worst_reference)}"
    return f"off by at most {metrics.max_abs or 0.0:.6g} ({figures}{where})"


def _facts(culprit: Culprit, finding: Finding) -> Iterator[tuple[str, str]]:
    yield "place", culprit.tap
    if culprit.operation:
        yield "operation", culprit.operation
    if culprit.source:
        yield "source", ": ".join(filter(None, (culprit.source, culprit.source_line)))
    yield "cause", f"{culprit.cause} ({culprit.confidence} confidence)"
    yield "run with", f"optimization {finding.optimization}, {', '.join(map(str, finding.providers))}"
    if finding.disabled_optimizers:
        yield "disabled", ", ".join(finding.disabled_optimizers)
    if finding.case.folded:
        yield "folded", f"computed in the file by {', '.join(finding.case.folded)}; weights here"


def _graph(finding: Finding) -> Iterator[tuple[str, str]]:
    case = finding.case
    for entry in case.model.opset_import:
        yield "opset", f"{entry.domain or 'ai.onnx'} {entry.version}"
    for name in graph_inputs(case.model):
        yield "input", f"{_quoted(name)}  {_shape_of(case.feeds[name])}"
    for tensor in case.model.graph.initializer:
        yield "weight", f"{_quoted(tensor.name)}  {_type_of(tensor)}"
    for node in case.nodes:
        domain = f"{node.domain}::" if node.domain else ""
        yield "node", f"{domain}{node.op_type} {_quoted(node.name)}"
        yield "", f"({', '.join(map(_quoted, node.input))}) -> {', '.join(map(_quoted, node.output))}"
        for attribute in node.attribute:
            yield "", f"{attribute.name} = {_value_of(attribute, node)}"
    yield "output", f"{_quoted(case.output)}  {_shape_of(case.expected)}"


def _numbers(culprit: Culprit, finding: Finding) -> Iterator[tuple[str, str]]:
    yield "this graph", f"{_difference(finding)}; up to {finding.allowed:.3g} is rounding"
    for experiment in culprit.experiments:
        yield "experiment", str(experiment)
    for line in culprit.evidence:
        yield "evidence", line


def _quoted(name: str) -> str:
    return json.dumps(name, ensure_ascii=False)


def _shape_of(value: Array) -> str:
    return f"{value.dtype}{list(value.shape)}"


def _type_of(tensor: TensorProto) -> str:
    return f"{helper.tensor_dtype_to_np_dtype(tensor.data_type)}{list(tensor.dims)}"


def _value_of(attribute: AttributeProto, node: NodeProto) -> str:
    if attribute.type == AttributeProto.TENSOR:
        shown = _type_of(attribute.t)
        small = np.prod(attribute.t.dims, dtype=np.int64) <= _MOST_VALUES
        return f"{shown} {numpy_helper.to_array(attribute.t).tolist()}" if small else shown
    if attribute.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS):
        return f"a graph of {sum(len(body.node) for body in subgraphs(node))} nodes"
    value = helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return _quoted(value.decode("utf-8", "replace"))
    return f"[{', '.join(map(_figure, value))}]" if isinstance(value, (list, tuple)) else _figure(value)


def _figure(value: object) -> str:
    """A float with the digits that a float32 has."""
    return f"{value:.7g}" if isinstance(value, float) else str(value)


def _block(lines: Iterable[tuple[str, str]]) -> str:
    """Labelled lines as a code block that no text in it can end."""
    text = "\n".join(f"{label:<12}{' '.join(value.split())}" for label, value in lines)
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text}\n{fence}"
