"""``python -m tests.mapping.hunt``: a layer at random is spoilt while it is exported; is it the one named?

The file has no taps. What a layer is given, or what it returns, is altered inside its own forward. The report
must name that layer alone; or, where a BatchNorm reads it, the BatchNorm, for one node may compute both.
Where the file's outputs agree all the same (a factor before a layer norm), it may be aligned instead, but
no other layer may be named. Exits with 1 where a report says something else.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import alignkit
from tests.mapping.wild import WILD
from tests.zoo import EXPORTERS, Built
from tests.zoo.plain import export_plain, run_eager, run_onnxruntime

PLACES = ("healthy", "in", "out")

CHANGES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "scale": lambda x: x * 0.97,
    "shift": lambda x: x + 0.05,
    "clamp": lambda x: x.clamp(-0.3, 0.3),
    "tanh": torch.tanh,
}

_SHOWS = 1e-3  # of the largest output: rounding alone takes MobileViT beyond 1e-5
_PASSIVE = (nn.Identity, nn.Dropout, nn.Embedding)
_NORMS = nn.modules.batchnorm._BatchNorm


@dataclass(frozen=True, slots=True)
class Found:
    """One comparison: what was spoilt, in words, the layers named, and why that is wrong; empty if right."""

    fault: str
    named: tuple[str, ...]
    wrong: str = ""


def hunt(name: str, exporter: str, place: str, seed: int, folder: Path) -> Found:
    """Spoil a layer of the model ``name``, export, compare."""
    built = WILD[name]()
    allowed: set[str] = set()
    fault = "nothing"
    if place != "healthy":
        choice = random.Random(f"{name} {place} {seed}")
        readers = read_by_norm(built)
        layer, change = choice.choice(list(readers)), choice.choice(list(CHANGES))
        spoil(built.model.get_submodule(layer), place, CHANGES[change])
        allowed, fault = {layer, *readers[layer]}, f"{change} {place} {layer}"
    path = export_plain(built, exporter, folder / f"{name}.onnx")
    report = alignkit.compare(built.model, built.args, built.kwargs, onnx=path)
    named = tuple(dict.fromkeys(culprit.module for culprit in report.culprits))  # a layer may be called twice
    if len(named) == 1 and named[0] in allowed:
        return Found(fault, named)
    if not named and report.aligned and (place == "healthy" or not shows(built, path)):
        return Found(fault, named)
    return Found(fault, named, str(report).splitlines()[0])


def read_by_norm(built: Built) -> dict[str, list[str]]:
    """The layers without layers inside that are called and compute, each with the BatchNorms that read it."""
    seen: list[tuple[str, nn.Module, tuple[Any, ...], object]] = []
    paths = {module: path for path, module in built.model.named_modules()}

    def note(module: nn.Module, args: tuple[Any, ...], output: object) -> None:
        seen.append((paths[module], module, args, output))

    hooks = [module.register_forward_hook(note) for module in paths]
    run_eager(built)
    for hook in hooks:
        hook.remove()
    norms = [(path, args) for path, module, args, _ in seen if isinstance(module, _NORMS)]
    return {
        path: [norm for norm, read in norms if any(argument is output for argument in read)]
        for path, module, _, output in seen
        if not (isinstance(module, _PASSIVE) or [*module.children()])
    }


def spoil(module: nn.Module, place: str, change: Callable[[Tensor], Tensor]) -> None:
    """Have ``module`` alter what it is given, or what it returns, while it is exported."""
    forward = module.forward

    def altered(value: Any) -> Any:
        if isinstance(value, tuple):
            return (altered(value[0]), *value[1:])
        return change(value) if isinstance(value, Tensor) and value.is_floating_point() else value

    def spoilt(*args: Any, **kwargs: Any) -> Any:
        if not torch.onnx.is_in_onnx_export():
            return forward(*args, **kwargs)
        if place == "in":
            return forward(*altered(args), **kwargs)
        return altered(forward(*args, **kwargs))

    module.forward = spoilt  # type: ignore[method-assign]


def shows(built: Built, path: Path) -> bool:
    """Whether an output of the file differs from the model's by more than rounding."""
    pairs = zip(run_eager(built), run_onnxruntime(path, built), strict=True)
    return not all(  # a NaN shows
        float(np.abs(candidate - reference).max()) <= _SHOWS * float(np.abs(reference).max())
        for reference, candidate in ((tensor.numpy(), output) for tensor, output in pairs)
    )


def _work(options: argparse.Namespace) -> Iterator[tuple[str, str, str, int]]:
    for name in options.models:
        for exporter in options.exporters:
            for place in options.places:
                for seed in range(1 if place == "healthy" else options.seeds):
                    yield name, exporter, place, seed + options.first


def main() -> int:
    """Print a line per comparison, and how many were right."""
    parser = argparse.ArgumentParser(prog="python -m tests.mapping.hunt", description=__doc__)
    parser.add_argument("--models", nargs="+", default=list(WILD), choices=list(WILD), metavar="MODEL")
    parser.add_argument("--exporters", nargs="+", default=list(EXPORTERS), choices=EXPORTERS)
    parser.add_argument("--places", nargs="+", default=list(PLACES), choices=PLACES)
    parser.add_argument("--seeds", type=int, default=2, metavar="N", help="faults per model, exporter, place")
    parser.add_argument("--first", type=int, default=0, metavar="SEED", help="the first of them")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    wrong = total = 0
    for name, exporter, place, seed in _work(options):
        with tempfile.TemporaryDirectory() as folder:
            found = hunt(name, exporter, place, seed, Path(folder))
        total, wrong = total + 1, wrong + bool(found.wrong)
        said = f"WRONG: {', '.join(found.named) or 'none'}; {found.wrong}" if found.wrong else "right"
        print(f"{name} {exporter} {seed}: {found.fault}: {said}", flush=True)
    print(f"\n{total - wrong} of {total} right")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
