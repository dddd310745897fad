"""Does ``alignkit plan`` predict what a comparison does? ``python -m tests.benchmarks plan``.

Each model is exported with taps, planned, and compared. Bytes of the taps, the largest of them, the parts and
the sessions must be exactly those of the run. Times are processor time of this process, user and system
together, on one thread, the median of a few rounds: ``predicted / measured`` per stage. The exit code is 1
when a count differs or a total is off by more than ``--within``.

``--fit`` prints predicted and measured seconds instead, to fit the factors in ``alignkit.plan.costs`` by.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from alignkit.backends import OnnxRuntime
from alignkit.backends.onnxruntime import Session
from alignkit.budget import Budget
from alignkit.candidate import ProbeRunner
from alignkit.capture import capture_reference
from alignkit.export import export_model
from alignkit.extract import read_marked
from alignkit.instrument import Selection
from alignkit.load.shapes import InputShape
from alignkit.measuring import measure_pair
from alignkit.metrics import compiled_loops
from alignkit.plan.costs import CAPTURE, INTRODUCED, METRICS, PROPAGATED, SESSIONS
from alignkit.plan.records import GraphPlan, Rates
from alignkit.plan.schedule import plan_graph, read_file
from alignkit.records import Array, Candidate, Capture
from alignkit.settings import Sample
from alignkit.sizes import parse_size
from alignkit.tolerance import TORCH_TESTING
from alignkit.trial import bind_feeds
from tests import zoo
from tests.torchvision_import import import_torchvision
from tests.zoo import Built

STAGES = (CAPTURE, SESSIONS, INTRODUCED, PROPAGATED, METRICS)


def _torchvision(name: str, batch: int) -> Built:
    torch.manual_seed(0)
    model = getattr(import_torchvision().models, name)().eval()
    return Built(model, (torch.randn(batch, 3, 224, 224),))


def _bert(layers: int, batch: int, tokens: int) -> Built:
    import_torchvision()
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(num_hidden_layers=layers)).eval()
    ids = torch.randint(0, 1000, (batch, tokens))
    mask = torch.ones_like(ids)
    mask[-1, -2:] = 0  # eager drops a mask without zeros, and with it taps that the file has
    return Built(model, (ids,), {"attention_mask": mask})


def _vit(layers: int, batch: int) -> Built:
    torch.manual_seed(0)
    transformer = import_torchvision().models.VisionTransformer
    model = transformer(
        image_size=224, patch_size=16, num_layers=layers, num_heads=12, hidden_dim=768, mlp_dim=3072
    )
    return Built(model.eval(), (torch.randn(batch, 3, 224, 224),))


# The factors in alignkit.plan.costs were fitted to the first four and the last; the others check them.
MODELS: Mapping[str, Callable[[], Built]] = {
    "resnet18": lambda: _torchvision("resnet18", 2),
    "resnet50": lambda: _torchvision("resnet50", 2),
    "bert-base, 4 layers": lambda: _bert(4, 2, 128),
    "vit-b/16, 4 layers": lambda: _vit(4, 1),
    "mobilenet-v3-large": lambda: _torchvision("mobilenet_v3_large", 2),
    "resnet50, batch 4": lambda: _torchvision("resnet50", 4),
    "zoo gpt2": lambda: zoo.resolve("gpt2").build(),
    "zoo vit": lambda: zoo.resolve("vit").build(),
}


@dataclass(frozen=True, slots=True)
class Seen:
    """What a comparison did: counts that a plan must meet exactly, and seconds by stage."""

    counts: Mapping[str, int]
    seconds: Mapping[str, float]


def planned_counts(plan: GraphPlan) -> dict[str, int]:
    """The figures of a plan that are no estimates."""
    return {
        "taps": len(plan.taps),
        "bytes": plan.tap_bytes,
        "largest": (plan.largest.nbytes or 0) if plan.largest else 0,
        "parts": len(plan.parts),
        "sessions": plan.sessions,
    }


def export(built: Built, path: Path, exporter: str = "torchscript", *, marked: bool = True) -> None:
    """A model's file, with taps or without."""
    options = built.export_options.get(exporter, {})
    selection = Selection() if marked else None
    where = (built.model, built.args, built.kwargs, path)
    export_model(*where, exporter=exporter, options=options, selection=selection)


def input_shapes(built: Built) -> list[InputShape]:
    """The shapes of a model's inputs, in order."""
    return [InputShape(None, tuple(value.shape)) for value in (*built.args, *built.kwargs.values())]


def observe(path: Path, built: Built, budget: Budget, rounds: int = 1) -> Seen:
    """Compare the marked file at ``path`` stage by stage, and count."""
    watch = _Watch(path, built, budget)
    with compiled_loops(wanted=budget.overlaps):
        for _ in range(rounds):
            watch.round()
    seconds = {stage: statistics.median(watch.seconds[stage]) for stage in STAGES}
    return Seen(watch.counts(rounds), seconds)


@dataclass(slots=True)
class _Watch:
    """A comparison that is taken apart: each stage is run by itself."""

    path: Path
    built: Built
    budget: Budget
    seconds: dict[str, list[float]] = field(default_factory=lambda: {stage: [] for stage in STAGES})
    sessions: int = 0
    parts: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        built = self.built
        self.marked = read_marked(self.path)
        self.feeds, _ = bind_feeds(built.model, Sample(built.args, built.kwargs), self.marked)
        self.reference = self._capture()

    marked: Any = field(init=False)
    feeds: Any = field(init=False)
    reference: Capture = field(init=False)

    def _capture(self) -> Capture:
        built = self.built
        return capture_reference(built.model, built.args, built.kwargs, Selection(), confirm=False)

    def round(self) -> None:
        self.seconds[CAPTURE].append(timed(self._capture))
        limits = (self.budget.part_bytes, self.budget.overlaps, self.budget.weight_bytes)
        runner = ProbeRunner(self.marked, OnnxRuntime(threads=1), True, *limits)
        creating = measuring = 0.0
        for stage, run in ((INTRODUCED, runner.introduced), (PROPAGATED, runner.propagated)):
            with counted_sessions() as created:
                first = timed(lambda run=run: exhaust(run(self.feeds, self.reference)))  # type: ignore[misc]
            again = timed(lambda run=run: exhaust(run(self.feeds, self.reference)))  # type: ignore[misc]
            self.sessions += len(created)
            self.seconds[stage].append(again)
            creating += max(first - again, 0.0)
            found = [_values(part) for part in run(self.feeds, self.reference)]
            self.parts[stage] = len(found)
            measuring += timed(lambda found=found: self._measure(found))  # type: ignore[misc]
        self.seconds[SESSIONS].append(creating)
        self.seconds[METRICS].append(measuring)

    def _measure(self, parts: list[dict[str, tuple[str, Array]]]) -> None:
        for tap, value in (pair for part in parts for pair in part.values()):
            expected = self.reference.values[tap]
            measure_pair(expected, value, *TORCH_TESTING.get(expected.dtype.name, (0.0, 0.0)))

    def counts(self, rounds: int) -> dict[str, int]:
        assert self.parts[INTRODUCED] == self.parts[PROPAGATED]
        sizes = self._distinct()
        return {
            "taps": len(self.marked.debugs),
            "bytes": sum(sizes),
            "largest": max(sizes),
            "parts": self.parts[PROPAGATED],
            "sessions": self.sessions // rounds,
        }

    def _distinct(self) -> list[int]:
        """Bytes of the file's tapped values, as the reference has them."""
        seen: set[str] = set()
        sizes = []
        for debug in self.marked.debugs:
            if debug.inflow not in seen:
                sizes.append(self.reference.values[debug.tap].nbytes)
            seen |= {debug.inflow, debug.outflow}
        return sizes


@contextmanager
def counted_sessions() -> Iterator[list[object]]:
    """Every session that is created meanwhile."""
    created: list[object] = []
    original = Session.__init__

    def init(self: Session, *args: Any, **options: Any) -> None:
        created.append(self)
        original(self, *args, **options)

    Session.__init__ = init  # type: ignore[method-assign]
    try:
        yield created
    finally:
        Session.__init__ = original  # type: ignore[method-assign]


def timed(function: Callable[[], object]) -> float:
    """Processor seconds of one call."""
    begin = time.process_time()
    function()
    return time.process_time() - begin


def exhaust(parts: Iterable[Candidate]) -> None:
    """Run all parts."""
    for _ in parts:
        pass


def _values(part: Candidate) -> dict[str, tuple[str, Array]]:
    """ONNX value -> one of its taps and a copy of its array, for that holds no longer than the part."""
    return {part.onnx_values.get(tap, tap): (tap, value.copy()) for tap, value in part.values.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; 0 when every figure holds."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(MODELS), metavar="NAME")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--within", type=float, default=0.3, help="share that a total may be off by")
    parser.add_argument(
        "--max-memory", default="256MiB", metavar="SIZE", help="of a comparison; from 1GiB on, numba measures"
    )
    parser.add_argument("--fit", action="store_true", help="print seconds in place of ratios")
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    columns = ("model", "tap bytes", "largest", "parts", "sessions", *STAGES, "total")
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    holds = True
    for name in options.models:
        line, row_holds = _row(name, options)
        print(line, flush=True)
        holds = holds and row_holds
    return 0 if holds else 1


def _row(name: str, options: argparse.Namespace) -> tuple[str, bool]:
    built = MODELS[name]()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "marked.onnx"
        export(built, path)
        budget = Budget(parse_size(options.max_memory, "--max-memory"))
        plan = plan_graph(read_file(path, input_shapes(built)), rates_of_a_core(), budget=budget, threads=1)
        seen = observe(path, built, budget, options.rounds)
    planned = planned_counts(plan)
    counts = [
        f"{planned[key]:,}"
        if planned[key] == seen.counts[key]
        else f"{planned[key]:,} (is {seen.counts[key]:,})"
        for key in ("bytes", "largest", "parts", "sessions")
    ]
    predicted = {**plan.stages, "total": sum(plan.stages.values())}
    measured = {**seen.seconds, "total": sum(seen.seconds.values())}
    cells = [
        f"{predicted[stage]:.3f} : {measured[stage]:.3f}"
        if options.fit
        else f"{predicted[stage] / max(measured[stage], 1e-6):.2f}"
        for stage in measured
    ]
    if options.fit:
        cells[-1] += f" ({plan.rates.flops / 1e9:.0f} GFLOP/s, {plan.rates.bandwidth / 1e9:.1f} GB/s)"
    close = abs(predicted["total"] / measured["total"] - 1) <= options.within
    return f"| {name} | {' | '.join([*counts, *cells])} |", planned == dict(seen.counts) and close


def rates_of_a_core() -> Rates:
    """Measured where a matrix product runs on one thread, as everything does here: BLAS is told so before
    it is loaded."""
    code = (
        "from alignkit.plan.rates import measure_rates; rates = measure_rates();"
        "print(rates.flops, rates.bandwidth)"
    )
    alone = dict.fromkeys(("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"), "1")
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **alone}, capture_output=True, text=True, check=True
    )
    return Rates(*map(float, done.stdout.split()), measured=("flops", "bandwidth"))


if __name__ == "__main__":
    sys.exit(main())
