"""``alignkit capture``: run a model or an ONNX file once and write a dump of it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignkit.commands.backends import named_backends
from alignkit.commands.streams import stdout_reserved
from alignkit.commands.subject import load_subject, names_source
from alignkit.dump import About, check_dump_target, write_dump
from alignkit.dump.records import FULL, STATISTICS
from alignkit.errors import EXIT_ALIGNED, InputError
from alignkit.load import ModelInputs, check_names, expand_shapes, load_inputs, parse_shape, random_inputs
from alignkit.progress import Progress
from alignkit.records import Array

if TYPE_CHECKING:
    from onnx import ModelProto

_Tensors = Iterator[tuple[str, Array]]


def run_capture(arguments: argparse.Namespace) -> int:
    """Capture as the arguments say, write the dump, say what is in it, and return the exit code."""
    target = Path(arguments.output)
    check_dump_target(target, arguments.force)  # before the model is built
    if arguments.input_shape and arguments.inputs:
        raise InputError("--inputs and --input-shape both say what to run on; give one of them.")
    tier = STATISTICS if arguments.stats else FULL
    progress = Progress(quiet=arguments.quiet)
    if len(arguments.backend) > 1:
        raise InputError("a dump holds one run: give --backend once.")
    with stdout_reserved(), named_backends(arguments.backend) as backends:
        graph = _graph_at(arguments.model)
        with progress.stage("run"):
            about, tensors = (
                _capture_model(arguments, tier)
                if graph is None
                else _capture_graph(arguments, graph, backends[0], tier)
            )
        with progress.stage("write"):
            about = write_dump(target, about, tensors, force=arguments.force)
    print(_summary(target, about))
    return EXIT_ALIGNED


def _graph_at(spec: str) -> ModelProto | None:
    """The ONNX graph where ``spec`` is a file of that kind, going by its content; None for another model."""
    if not names_source(spec):
        return None
    from alignkit.graph import load_graph
    from alignkit.sources.kinds import Kind, kind_of

    path = Path(spec)
    kind = kind_of(path) if path.is_file() else Kind.ONNX
    if kind is Kind.DUMP:
        raise InputError(
            f"{path} is a dump already: compare it (alignkit diff, or compare DUMP --onnx FILE)."
        )
    return load_graph(path) if kind in (Kind.ONNX, None) else None


def _capture_model(arguments: argparse.Namespace, tier: str) -> tuple[About, _Tensors]:
    from alignkit.arguments import named_inputs
    from alignkit.budget import default_budget
    from alignkit.capture import capture_reference
    from alignkit.dump.eager import describe_capture
    from alignkit.instrument import Selection
    from alignkit.tensors import to_numpy

    shapes = expand_shapes(arguments.input_shape) if arguments.input_shape else []
    loaded, _, samples = load_subject(arguments, shapes)
    sample = _one_of([lazy.load() for lazy in samples])
    selection = Selection(
        tuple(arguments.include),
        tuple(arguments.exclude),
        tuple(arguments.type),
        arguments.depth,
        granularity=arguments.granularity,
    )
    where = (loaded.model, sample.args, sample.kwargs, selection)
    capture = capture_reference(*where, budget=default_budget())
    named = named_inputs(loaded.model, sample.args, sample.kwargs)
    inputs = {name: to_numpy(value) for name, value in named}
    return describe_capture(capture, inputs, tier=tier, origin=arguments.model)


def _capture_graph(
    arguments: argparse.Namespace, graph: ModelProto, backend: Any, tier: str
) -> tuple[About, _Tensors]:
    from alignkit.backends import OnnxRuntime, resolve_backend
    from alignkit.backends.onnxruntime import resolve_providers
    from alignkit.dump.graph import capture_graph

    settings = OnnxRuntime(
        providers=resolve_providers(arguments.provider),
        optimization=arguments.optimization,
        threads=arguments.threads,
        custom_op_libraries=tuple(arguments.custom_ops),
        disabled_optimizers=tuple(arguments.disable_optimizer),
    )
    feeds = _feeds(arguments, graph)
    return capture_graph(Path(arguments.model), feeds, resolve_backend(backend, settings), tier=tier)


def _feeds(arguments: argparse.Namespace, graph: ModelProto) -> Mapping[str, Array]:
    """The graph's inputs by name; what is given by position goes in the graph's order."""
    from alignkit.binding import NamedArray, bind_inputs
    from alignkit.graph import graph_inputs
    from alignkit.tensors import tensor_leaves, to_numpy

    wanted = graph_inputs(graph)
    if arguments.inputs:
        sample = _one_of(load_inputs(arguments.inputs))
    elif arguments.input_shape or not wanted:
        shapes = [parse_shape(text) for text in arguments.input_shape]
        sample = random_inputs(shapes, arguments.seed)
    else:
        raise InputError(
            f"no inputs for {arguments.model}, which takes {', '.join(wanted)}: "
            "give --inputs or --input-shape."
        )
    check_names(sample, list(wanted))
    named = {**dict(zip(wanted, sample.args, strict=False)), **sample.kwargs}
    for name, value in named.items():
        if not any(leaf is value for leaf in tensor_leaves(value)):
            raise InputError(f"the input {name!r} of {sample.origin} is no tensor; give an array for it.")
    return bind_inputs(wanted, [NamedArray(name, to_numpy(value)) for name, value in named.items()])[0]


def _one_of(samples: list[ModelInputs]) -> ModelInputs:
    if len(samples) != 1:
        raise InputError(f"a dump holds one run, but {len(samples)} samples are given; name one of them.")
    return samples[0]


def _summary(path: Path, about: About) -> str:
    """``run.safetensors: 12 taps, full tensors, 2 without a value, 3.1 kB``."""
    absent = sum(bool(tap.absent) for tap in about.taps)
    parts = [
        f"{len(about.taps)} taps of {about.producer}",
        "full tensors" if about.tier == FULL else "statistics only",
        *([f"{absent} without a value"] if absent else []),
        _size_words(path.stat().st_size),
    ]
    return f"{path}: {', '.join(parts)}"


def _size_words(size: int) -> str:
    """A number of bytes in the largest fitting unit of thousands."""
    amount, units = float(size), ["bytes", "kB", "MB", "GB"]
    while amount >= 1000 and len(units) > 1:
        amount, units = amount / 1000, units[1:]
    return f"{amount:.3g} {units[0]}"
