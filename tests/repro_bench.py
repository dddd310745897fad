"""Benches for repro bundles: around a small graph written as text, or around a spoilt file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from alignkit.backends.onnxruntime import OnnxRuntime, Session
from alignkit.binding import bind_inputs
from alignkit.capture import capture_reference
from alignkit.deployed import candidate_leaves, inputs_by_tap
from alignkit.diagnose.bench import Bench
from alignkit.diagnose.segment import find_segment
from alignkit.extract import read_marked
from alignkit.graph import Debug, MarkedGraph, index_graph, known_types
from alignkit.instrument import Selection
from alignkit.records import Array, Capture, Culprit
from alignkit.settings import Sample
from tests.zoo import Case
from tests.zoo.files import marked_file
from tests.zoo.tamper import Tampering, tamper_node

Run = Callable[[bytes, Mapping[str, Array], str], Mapping[str, Array]]


def run_onnxruntime(model: bytes, feeds: Mapping[str, Array], level: str) -> Mapping[str, Array]:
    """As the product does, on one thread."""
    return Session(model, OnnxRuntime(optimization=level, threads=1)).run(feeds)


def make_bench(
    marked: MarkedGraph,
    tap: str,
    reference: Capture,
    feeds: Mapping[str, Array],
    *,
    allowed: float,
    optimization: str = "all",
    run: Run = run_onnxruntime,
) -> Bench:
    """A bench of what a bundle needs: nothing is asked of PyTorch."""
    return Bench(
        tap=tap,
        segment=find_segment(marked, tap, reference.values.keys()),
        marked=marked,
        reference=reference,
        feeds=feeds,
        candidate=reference.values[tap],
        allowed=allowed,
        optimization=optimization,
        run=run,
        run_without=lambda model, feeds, names: run(model, feeds, optimization),
        state=dict,
        eager=lambda way, tap: None,
        on_example=lambda tap: None,
    )


def text_bench(
    text: str,
    feeds: Mapping[str, Array],
    expected: Array,
    *,
    weights: Mapping[str, Array] | None = None,
    tap: str = "layer#0[0]",
    **options: Any,
) -> Bench:
    """A bench around ``text`` in ONNX's own notation; the graph's output is what the tap sees."""
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]> {text}')
    tensors = [onnx.numpy_helper.from_array(value, name) for name, value in (weights or {}).items()]
    model.graph.initializer.extend(tensors)
    output = model.graph.output[0].name
    marked = index_graph(model, Path(), (Debug(tap, output, f"{output}_seen"),), {}, known_types(model))
    return make_bench(marked, tap, Capture({}, {tap: expected}, {}, ()), feeds, **options)


def culprit(tap: str, cause: str, **facts: Any) -> Culprit:
    """A culprit as the diagnosis makes it."""
    return Culprit(
        tap, tap.split("#")[0], facts.pop("op", "Op"), cause, "high", ("it differs",), "", (), **facts
    )


@dataclass(frozen=True, slots=True)
class Fault:
    """A spoilt marked file of a real model: the bench at the spoilt node, and the healthy file."""

    bench: Bench
    tampering: Tampering
    healthy: onnx.ModelProto


def spoil(
    case: Case, folder: Path, exporter: str, how: str, which: Callable[[onnx.NodeProto], bool]
) -> Fault:
    """Spoil one node of the file with taps, and set up a bench at the first tap behind it."""
    built, path = case.build(), marked_file(case, exporter)
    reference = capture_reference(built.model, built.args, built.kwargs, Selection())
    spoilt = folder / "spoilt.onnx"
    tampering = tamper_node(path, spoilt, which, how)
    marked = read_marked(spoilt)
    tap = next(_taps_behind(marked, tampering.outputs[0], reference))
    leaves = candidate_leaves(built.model, Sample(built.args, built.kwargs))
    feeds, _ = bind_inputs(marked.inputs, leaves, inputs_by_tap(marked))
    allowed = 1e-5 * float(np.abs(reference.values[tap]).max())
    return Fault(make_bench(marked, tap, reference, feeds, allowed=allowed), tampering, onnx.load(path))


def _taps_behind(marked: MarkedGraph, value: str, reference: Capture) -> Iterator[str]:
    known = reference.values.keys()
    for debug in marked.debugs:
        if debug.tap in known and any(
            value in node.output for node in find_segment(marked, debug.tap, known).nodes
        ):
            yield debug.tap


def operators(model: onnx.ModelProto) -> Sequence[str]:
    """The graph's operators in order."""
    return [node.op_type for node in model.graph.node]
