"""``alignkit compare``: load what the arguments name, compare, print and save."""

from __future__ import annotations

import argparse
import inspect
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignkit.commands.backends import named_backends
from alignkit.commands.streams import stdout_reserved
from alignkit.commands.subject import load_subject
from alignkit.errors import EXIT_ALIGNED, EXIT_DIVERGED, AlignkitWarning, ExportError, InputError
from alignkit.load import (
    InputSource,
    LoadedModel,
    ModelInputs,
    expand_shapes,
    open_inputs,
    parse_dynamic,
)
from alignkit.progress import Progress
from alignkit.report import Report
from alignkit.report.files import check_target
from alignkit.report.samples import WORST_SAMPLE
from alignkit.sizes import parse_size

if TYPE_CHECKING:
    from torch import nn

    from alignkit.passes import NamedPass

EXPORTERS = ("dynamo", "torchscript")

_Axes = Mapping[str, Mapping[int, str]]


def run_compare(arguments: argparse.Namespace) -> int:
    """Compare as the arguments say; print, save, and return the exit code."""
    exporters = EXPORTERS if arguments.exporter == "both" else (arguments.exporter,)
    if arguments.candidate is not None and arguments.onnx is not None:
        both = f"{arguments.candidate} and --onnx {arguments.onnx}"
        raise InputError(f"{both} both name the deployed file; give one of them.")
    # What can be refused at a glance is refused before the model is built.
    folders = _folders(arguments, exporters)
    for folder in folders.values():
        check_target(folder, arguments.force)
    shapes = expand_shapes(arguments.input_shape) if arguments.input_shape else []
    axes = parse_dynamic(arguments.dynamic)
    if shapes and arguments.inputs:
        raise InputError("--inputs and --input-shape both say what to compare on; give one of them.")
    reports: dict[str, Report] = {}
    failures: list[ExportError] = []
    with stdout_reserved(), named_backends(arguments.backend) as backends:
        settings = {**_settings(arguments, backends), "passes": _passes(arguments.passes)}
        loaded, example, samples = load_subject(arguments, shapes)
        only = getattr(loaded.model, "exporter", None)
        if len(exporters) > 1 and only is not None and arguments.onnx is arguments.candidate is None:
            raise InputError(f"--exporter both: {arguments.model} is taken by the {only} exporter alone.")
        for name in exporters:
            try:
                reports[name] = _compare(arguments, settings, only or name, loaded, example, samples, axes)
            except ExportError as error:
                failures.append(error)  # of two exporters, the other may still answer
            else:
                if name in folders:
                    reports[name].save(folders[name], force=arguments.force)
    alone = loaded.args is not None or bool(loaded.kwargs)
    _print(reports, folders, both=len(exporters) > 1, as_json=arguments.json, alone=alone)
    if failures:
        raise ExportError("; ".join(map(str, failures))) from failures[0]
    aligned = all(report.aligned for report in reports.values())
    return EXIT_ALIGNED if aligned or arguments.exit_zero else EXIT_DIVERGED


def _passes(names: Sequence[str]) -> list[NamedPass]:
    if not names:
        return []
    from alignkit.load.passes import load_pass

    return [load_pass(name) for name in names]


def _folders(arguments: argparse.Namespace, exporters: Sequence[str]) -> dict[str, Path]:
    if arguments.output is None:
        return {}
    base = Path(arguments.output)
    return {name: base / name if len(exporters) > 1 else base for name in exporters}


def _compare(
    arguments: argparse.Namespace,
    settings: Mapping[str, Any],
    exporter: str,
    loaded: LoadedModel,
    example: ModelInputs,
    samples: InputSource,
    axes: _Axes,
) -> Report:
    from alignkit.datasets import from_source
    from alignkit.debugger import compare

    fed = open_inputs(arguments.candidate_inputs, split=arguments.split)
    with warnings.catch_warnings():
        # The report says the same; on a terminal one line is enough.
        warnings.simplefilter("ignore", AlignkitWarning)
        return compare(
            loaded.model,
            example.args,
            example.kwargs,
            inputs=from_source(samples),
            candidate_inputs=from_source(fed) if arguments.candidate_inputs else None,
            onnx=arguments.onnx or arguments.candidate,
            exporter=exporter,
            export_options=_export_options(arguments, exporter, loaded.model, example, axes),
            progress=Progress(quiet=arguments.quiet),
            isolate_export=True,
            **settings,
        )


def _export_options(
    arguments: argparse.Namespace, exporter: str, model: nn.Module, example: ModelInputs, axes: _Axes
) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if arguments.opset is not None:
        options["opset_version"] = arguments.opset
    if axes:
        _check_axes(axes, model, example)
        if exporter == "torchscript":
            options["dynamic_axes"] = axes
        else:
            options["dynamic_shapes"] = _dynamic_shapes(axes, model, example)
    return options


def _check_axes(axes: _Axes, model: nn.Module, example: ModelInputs) -> None:
    from alignkit.arguments import named_inputs

    ranks = {name: value.ndim for name, value in named_inputs(model, example.args, example.kwargs)}
    for name, chosen in axes.items():
        if name not in ranks:
            raise InputError(f"--dynamic names {name!r}; the model's inputs are {', '.join(ranks)}.")
        if max(chosen) >= ranks[name]:
            raise InputError(
                f"--dynamic names axis {max(chosen)} of {name!r}, which has {ranks[name]} axes; "
                "count them from 0."
            )


def _dynamic_shapes(axes: _Axes, model: nn.Module, example: ModelInputs) -> dict[str, Any]:
    """``axes`` in the form of the arguments: this exporter wants every argument named, fixed ones too."""
    import torch
    from torch.utils import _pytree as pytree

    from alignkit.arguments import named_inputs

    names: dict[int, list[str]] = {}  # one tensor may be given for several arguments
    for name, value in named_inputs(model, example.args, example.kwargs):
        names.setdefault(id(value), []).append(name)

    def axes_of(leaf: object) -> Mapping[int, str] | None:
        return axes.get(names[id(leaf)].pop(0)) if isinstance(leaf, torch.Tensor) else None

    try:
        bound = inspect.signature(model.forward).bind(*example.args, **example.kwargs)
    except (TypeError, ValueError) as error:
        raise InputError(f"--dynamic needs inputs that fit the model's forward: {error}.") from error
    return {parameter: pytree.tree_map(axes_of, value) for parameter, value in bound.arguments.items()}


def _settings(arguments: argparse.Namespace, backends: Sequence[Any]) -> Mapping[str, Any]:
    memory = arguments.max_memory
    return {
        "backend": backends,
        "providers": arguments.provider,
        "optimization": arguments.optimization,
        "disabled_optimizers": arguments.disable_optimizer,
        "custom_op_libraries": arguments.custom_ops,
        "threads": arguments.threads,
        "rtol": arguments.rtol,
        "atol": arguments.atol,
        "tolerances": dict(arguments.tolerance),
        "noise_floor": not arguments.no_noise_floor,
        "include": arguments.include,
        "exclude": arguments.exclude,
        "types": arguments.type,
        "depth": arguments.depth,
        "granularity": arguments.granularity,
        "map": arguments.map,
        "max_bytes": None if memory is None else parse_size(memory, "--max-memory"),
    }


def _print(
    reports: Mapping[str, Report], folders: Mapping[str, Path], *, both: bool, as_json: bool, alone: bool
) -> None:
    if as_json:
        documents = {name: report.to_dict() for name, report in reports.items()}
        if documents:
            content = documents if both else next(iter(documents.values()))
            print(json.dumps(content, indent=1, allow_nan=False))
        return
    for name, report in reports.items():
        if both:
            print(f"== {name} exporter ==")
        print(report.render("text").rstrip())
        if name in folders:
            print(f"\nReport: {folders[name] / 'index.html'}")
            if files := _again(report, alone):
                print("The worst sample again: --inputs", *(folders[name] / file for file in files))


def _again(report: Report, alone: bool) -> list[str]:
    """The files that show the worst sample again; ``alone``: the model brings what it is exported with."""
    kept = report.data.kept_inputs
    if WORST_SAMPLE not in kept:
        return []
    return [*(["example.npz"] if "example.npz" in kept and not alone else []), WORST_SAMPLE]
