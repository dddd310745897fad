"""``alignkit plan``: say what a comparison would take, without running it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from alignkit.budget import Budget
from alignkit.errors import EXIT_ALIGNED, InputError
from alignkit.load.shapes import parse_shape
from alignkit.plan.decoder import plan_decoder
from alignkit.plan.rates import measure_rates
from alignkit.plan.words import decoder_dict, decoder_words, graph_dict, graph_words
from alignkit.sizes import parse_flops, parse_size

_DECODER_BUDGET = "1GiB"
_MACHINE = "64GiB"


def run_plan(arguments: argparse.Namespace) -> int:
    """Plan as the arguments say, print the plan, and return the exit code."""
    if (arguments.model is None) == (arguments.decoder is None):
        raise InputError("name either an ONNX file or, with --decoder, a size to plan.")
    found, words = _plan_file(arguments) if arguments.decoder is None else _plan_size(arguments)
    print(json.dumps(found, indent=1, allow_nan=False) if arguments.json else words)
    return EXIT_ALIGNED


def _plan_file(arguments: argparse.Namespace) -> tuple[dict[str, object], str]:
    for option in ("batch", "tokens", "dtype", "machine_memory"):
        if getattr(arguments, option) is not None:
            name = option.replace("_", "-")
            raise InputError(f"--{name} is for --decoder; a file says it itself, or --input-shape does.")
    shapes = [parse_shape(text) for text in arguments.input_shape]
    budget = None if arguments.max_memory is None else _budget(arguments.max_memory)
    flops, bandwidth = _given_rates(arguments)
    from alignkit.plan.schedule import plan_graph, read_file

    # What can be refused is refused before anything is measured.
    file = read_file(Path(arguments.model), shapes)
    plan = plan_graph(file, measure_rates(flops, bandwidth), budget=budget)
    return graph_dict(plan), graph_words(plan)


def _plan_size(arguments: argparse.Namespace) -> tuple[dict[str, object], str]:
    if arguments.input_shape:
        raise InputError("--input-shape is for a file; a decoder takes --batch and --tokens.")
    flops, bandwidth = _given_rates(arguments)
    plan = plan_decoder(
        arguments.decoder,
        measure_rates(flops, bandwidth),
        batch=arguments.batch or 1,
        tokens=arguments.tokens or 2048,
        dtype=arguments.dtype or "float32",
        budget=_budget(arguments.max_memory or _DECODER_BUDGET),
        machine=parse_size(arguments.machine_memory or _MACHINE, "--machine-memory"),
    )
    return decoder_dict(plan), decoder_words(plan)


def _budget(size: str) -> Budget:
    return Budget(parse_size(size, "--max-memory"), given=True)


def _given_rates(arguments: argparse.Namespace) -> tuple[float | None, float | None]:
    flops = None if arguments.flops is None else parse_flops(arguments.flops, "--flops")
    given = arguments.bandwidth
    return flops, None if given is None else float(parse_size(given, "--bandwidth"))
