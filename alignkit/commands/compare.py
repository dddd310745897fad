"""``alignkit compare``: load what the arguments name, compare, print and save."""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alignkit.errors import EXIT_ALIGNED, EXIT_DIVERGED, AlignkitError, AlignkitWarning, InputError
from alignkit.load import (
    LoadedModel,
    ModelInputs,
    load_inputs,
    load_model,
    parse_dynamic,
    parse_shape,
    random_inputs,
)
from alignkit.progress import Progress
from alignkit.report import Report
from alignkit.report.files import check_target


def run_compare(arguments: argparse.Namespace) -> int:
    exporters = ["dynamo", "torchscript"] if arguments.exporter == "both" else [arguments.exporter]
    folders = _folders(arguments, exporters)
    for folder in folders.values():
        check_target(folder, arguments.force)
    loaded, example, samples = _load(arguments)
    reports = {name: _compare(arguments, name, loaded, example, samples) for name in exporters}
    for name, folder in folders.items():
        reports[name].save(folder, force=arguments.force)
    _print(reports, folders, as_json=arguments.json)
    aligned = all(report.aligned for report in reports.values())
    return EXIT_ALIGNED if aligned or arguments.exit_zero else EXIT_DIVERGED


def _folders(arguments: argparse.Namespace, exporters: list[str]) -> dict[str, Path]:
    if arguments.output is None:
        return {}
    base = Path(arguments.output)
    return {name: base / name if len(exporters) > 1 else base for name in exporters}


def _load(arguments: argparse.Namespace) -> tuple[LoadedModel, ModelInputs, list[ModelInputs]]:
    """The model, what it is exported with, and what it is compared on."""
    import torch

    torch.manual_seed(arguments.seed)
    loaded = load_model(arguments.model)
    samples = load_inputs(arguments.inputs) if arguments.inputs else []
    if arguments.input_shape and not samples:
        shapes = [parse_shape(text) for text in arguments.input_shape]
        samples = [random_inputs(shapes, arguments.seed)]
    if loaded.args is not None or loaded.kwargs:
        example = ModelInputs(loaded.args or (), loaded.kwargs or {}, loaded.origin)
    elif samples:
        example = samples[0]
    else:
        raise InputError(
            f"no inputs for {arguments.model}: give --inputs or --input-shape, or let the factory return "
            "(model, args)."
        )
    return loaded, example, samples or [example]


def _compare(
    arguments: argparse.Namespace,
    exporter: str,
    loaded: LoadedModel,
    example: ModelInputs,
    samples: list[ModelInputs],
) -> Report:
    from alignkit.debugger import compare
    from alignkit.pipeline import Sample

    fed = load_inputs(arguments.candidate_inputs) if arguments.candidate_inputs else None
    with warnings.catch_warnings():
        # The report says the same; on a terminal one line is enough.
        warnings.simplefilter("ignore", AlignkitWarning)
        return compare(
            loaded.model,
            example.args,
            example.kwargs,
            inputs=[Sample(s.args, s.kwargs, name=s.origin) for s in samples],
            candidate_inputs=[Sample(s.args, s.kwargs) for s in fed] if fed else None,
            onnx=arguments.onnx,
            exporter=exporter,
            export_options=_export_options(arguments, exporter, loaded, example),
            progress=Progress(quiet=arguments.quiet),
            isolate_export=True,
            **_settings(arguments),
        )


def _export_options(
    arguments: argparse.Namespace, exporter: str, loaded: LoadedModel, example: ModelInputs
) -> dict[str, Any]:
    from alignkit.instrument import named_inputs

    options: dict[str, Any] = {}
    if arguments.opset is not None:
        options["opset_version"] = arguments.opset
    if arguments.dynamic:
        axes = parse_dynamic(arguments.dynamic)
        names = [name for name, _ in named_inputs(loaded.model, example.args, example.kwargs)]
        if unknown := sorted(axes.keys() - set(names)):
            raise InputError(f"--dynamic names {unknown[0]!r}; the model's inputs are {', '.join(names)}.")
        if exporter == "torchscript":
            options["dynamic_axes"] = axes
        else:
            # This exporter wants every input named, fixed ones too.
            options["dynamic_shapes"] = {name: axes.get(name) for name in names}
    return options


def _settings(arguments: argparse.Namespace) -> Mapping[str, Any]:
    return {
        "providers": arguments.provider,
        "optimization": arguments.optimization,
        "disabled_optimizers": arguments.disable_optimizer,
        "custom_op_libraries": arguments.custom_ops,
        "threads": arguments.threads,
        "rtol": arguments.rtol,
        "atol": arguments.atol,
        "tolerances": dict(_parse_tolerance(text) for text in arguments.tolerance),
        "noise_floor": not arguments.no_noise_floor,
        "include": arguments.include,
        "exclude": arguments.exclude,
        "types": arguments.type,
        "depth": arguments.depth,
    }


def _parse_tolerance(text: str) -> tuple[str, tuple[float, float]]:
    name, _, pair = text.rpartition("=")
    try:
        rtol, atol = (float(number) for number in pair.split(","))
    except ValueError:
        raise AlignkitError(
            f"--tolerance {text!r} is not TAP_OR_DTYPE=RTOL,ATOL, e.g. 'decoder.*=1e-3,1e-5'."
        ) from None
    return name, (rtol, atol)


def _print(reports: Mapping[str, Report], folders: Mapping[str, Path], *, as_json: bool) -> None:
    if as_json:
        documents = {name: report.to_dict() for name, report in reports.items()}
        content = documents if len(documents) > 1 else next(iter(documents.values()))
        print(json.dumps(content, indent=1, allow_nan=False))
        return
    for name, report in reports.items():
        if len(reports) > 1:
            print(f"== {name} exporter ==")
        print(report.render("text").rstrip())
        if name in folders:
            print(f"\nReport: {folders[name] / 'index.html'}")
