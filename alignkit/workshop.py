"""The workshop: what a diagnosis may run again, for one sample; the stages' side of the experiments."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from types import TracebackType

import numpy as np

from alignkit.backends import Backend, OnnxRuntime
from alignkit.backends.reference import Reference
from alignkit.capture import capture_reference, capture_replayed
from alignkit.deployed import candidate_leaves, deployed_feeds
from alignkit.diagnose import (
    Bench,
    Closer,
    Diagnosis,
    Fusion,
    Segment,
    Start,
    Suspect,
    bundle_name,
    distance,
    find_culprits,
    in_full_precision,
    make_bundle,
    segment_model,
)
from alignkit.errors import AlignkitError
from alignkit.extract import extract_introduced
from alignkit.fusion import question_fusion
from alignkit.graph import MarkedGraph
from alignkit.instrument import Selection
from alignkit.metrics import dtype_kind, ulp
from alignkit.precision import find_precisions
from alignkit.progress import Progress
from alignkit.records import (
    ROOT,
    Array,
    Capture,
    Culprit,
    Experiment,
    LayerRow,
    OutputRow,
    TapKind,
)
from alignkit.settings import Again, Files, Sample, Settings, same_inputs
from alignkit.standin import StandIn
from alignkit.storage import temporary_folder
from alignkit.tensors import tensor_leaves, to_numpy
from alignkit.tolerance import FACTOR
from alignkit.trial import Trial, bind_feeds, open_trial
from alignkit.zoom import find_closer

_COMPARISON = ("extract", "capture", "run and measure", "run as deployed", "noise floor", "compare")
_FEWEST_SECONDS = 10.0  # for the experiments on a culprit of a model that takes no time itself


class Workshop:
    """Answers a diagnosis's questions about one trial. Use as a context: it may hold a file of its own."""

    def __init__(
        self, trial: Trial, files: Files, settings: Settings, progress: Progress | None = None
    ) -> None:
        self.trial = trial
        self._files = files
        self._settings = settings
        self._progress = progress or Progress(quiet=True)
        self._closer: Mapping[str, Closer] = {}
        self._zoomed: Trial | None = None
        self._questioned: frozenset[str] = frozenset()
        self._weights: Mapping[str, Array] | None = None
        self._replays: dict[str, Mapping[str, Array]] = {}
        self._stack = ExitStack()
        self._example: Trial | None = None
        self.bundles: dict[str, Mapping[str, bytes]] = {}
        self.notes: list[str] = []

    def __enter__(self) -> Workshop:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def _backend(self) -> Backend:
        return self._settings.run

    @property
    def marked(self) -> MarkedGraph:
        return self.trial.marked

    @property
    def reference(self) -> Capture:
        return self.trial.reference

    @property
    def training(self) -> frozenset[str]:
        return frozenset(path or ROOT for path, m in self.trial.model.named_modules() if m.training)

    @property
    def given_file(self) -> bool:
        return self._files.plain_given and self._files.mapping is None

    def diagnose(self, rows: list[LayerRow], outputs: list[OutputRow]) -> Diagnosis:
        """Every culprit with its cause."""
        return find_culprits(rows, outputs, self)

    @property
    def seconds(self) -> float:
        """As long as the comparison itself took, export apart."""
        taken = self._progress.timings
        return max(_FEWEST_SECONDS, sum(taken.get(stage, 0.0) for stage in _COMPARISON))

    def stage(self, question: str) -> AbstractContextManager[None]:
        return self._progress.stage(question)

    def prepare(self, suspects: Sequence[Suspect]) -> None:
        """Export once more with operations tapped inside the suspects' modules, and look there."""
        self._questioned = frozenset(suspect.row.tap for suspect in suspects)
        owners = {owner: None for suspect in suspects if (owner := self._owner(suspect.row.tap))}
        modules = {path or ROOT: module for path, module in self.trial.model.named_modules()}
        chosen = replace(self.trial.selection, zoom=tuple(owners))
        inner = tuple(p for p in owners if p in modules and chosen.opens("" if p == ROOT else p, modules[p]))
        if not inner or self._files.again is None:
            return
        try:
            with self.stage("zoom in"):
                self._zoomed = self._zoom(self._files.again, replace(chosen, zoom=inner))
                self._closer = find_closer(self.trial, self._zoomed, suspects, self._settings)
        except AlignkitError as reason:
            self.notes.append(f"No closer look at the operations: {reason}")

    def _owner(self, tap: str) -> str | None:
        found = self.reference.taps.get(tap)
        return None if found is None else found.owner

    def _zoom(self, again: Again, selection: Selection) -> Trial:
        folder = self._stack.enter_context(temporary_folder())
        model, sample = self.trial.model, self.trial.sample
        reference = self._capture(sample, selection)
        path = again(folder / "zoomed.onnx", selection, reference.taps)
        return open_trial(model, sample, selection, reference, path, self._settings)

    def _capture(self, sample: Sample, selection: Selection) -> Capture:
        budget = self._settings.budget
        return capture_reference(self.trial.model, sample.args, sample.kwargs, selection, budget=budget)

    def look_closer(self, suspect: Suspect) -> Closer | None:
        return self._closer.get(suspect.row.tap)

    def bench(self, suspect: Suspect, closer: Closer | None, training: tuple[str, ...]) -> Bench | None:
        """None where there is nothing to experiment on."""
        whole = self._bench(self.trial, suspect.row, suspect.segment, training)
        if whole is None or closer is None or self._zoomed is None:
            return whole
        inner = self._bench(self._zoomed, closer.row, closer.segment, training)
        return whole if inner is None else replace(inner, whole=whole)

    def _bench(
        self, trial: Trial, row: LayerRow, segment: Segment, training: tuple[str, ...]
    ) -> Bench | None:
        expected, run = trial.reference.values.get(row.tap), self._backend
        if expected is None:
            return None
        bench = Bench(
            tap=row.tap,
            segment=segment,
            marked=trial.marked,
            reference=trial.reference,
            feeds=trial.feeds,
            candidate=trial.introduced(row.tap),
            allowed=_allowed(row, expected),
            optimization=run.optimization if isinstance(run, OnnxRuntime) else "",
            run=self._run,
            run_without=self._run_without,
            state=self._state,
            eager=lambda way, tap: self._replayed(way).get(tap),
            on_example=self._on_example,
            exporter=self._settings.exporter,
            precision=row.precision,
            fixed=self._fixed,
            training=training,
            module=self._owner(row.tap) or "",
            baked=self._baked(),
            product=run.title,
            elsewhere=None if isinstance(run, OnnxRuntime) and run.is_on_cpu else _run_plainly,
            is_evaluator=isinstance(run, Reference),
        )
        if row.precision is None:
            return bench
        try:
            return replace(bench, full=in_full_precision(bench))
        except ValueError:  # its scales are computed, not constants
            return bench

    @property
    def _fixed(self) -> str:
        model = self.trial.model
        return model.fixed if isinstance(model, StandIn) else ""

    def error_left(self, tap: str, output: str) -> float | None:
        """max |error| of an output when the reference is fed in at ``tap`` alone."""
        probe = extract_introduced(self.marked, [tap], [output])
        if tap not in self.reference.values:
            return None
        if output == tap or probe.passthrough.get(output) == tap:
            return 0.0  # the tap shows the output itself
        if output not in probe.outputs:
            return None
        feeds = {**self.trial.feeds, **dict.fromkeys(probe.feeds, self.reference.values[tap])}
        try:
            session = self._backend.open(probe.model.SerializeToString(), probe.folder)
            found = session.run(feeds, [probe.outputs[output]])[probe.outputs[output]]
        except AlignkitError:
            return None
        left = distance(self.reference.values[output], found)
        return left if math.isfinite(left) else None

    def fused_with(self, tap: str) -> Sequence[str]:
        mapped = self._files.mapping.taps if self._files.mapping else {}
        here = mapped[tap].onnx_value if tap in mapped else None
        shared = {name for name, one in mapped.items() if here is not None and one.onnx_value == here}
        held = {debug.tap for debug in self.marked.debugs} - shared
        names = list(self.reference.taps)
        before = reversed(names[: names.index(tap)]) if tap in names else ()
        unheld = itertools.takewhile(lambda name: name not in held, before)
        taps = (self.reference.taps[name] for name in unheld)
        owners = dict.fromkeys(tap.owner for tap in taps if tap.id.kind is not TapKind.INPUT)
        return [owner for owner in owners if owner not in (ROOT, self._owner(tap))]

    def fed(self, tap: str) -> Array | None:
        return self.trial.introduced(tap)

    def in_context(self, start: Start) -> Experiment | None:
        row, segment = start.row, start.segment
        if find_precisions(self.marked).get(row.tap) == "int8":
            return None  # fused, its kernels round in another way
        sources = {row.tap, *segment.borders.values()} & self.reference.values.keys()
        ran = {
            tap: part.values[tap].copy()
            for part in self.trial.runner.propagated(self.trial.feeds, self.reference)
            for tap in sources & part.values.keys()
        }
        if not sources <= ran.keys():
            return None
        given = {**self.trial.feeds, **ran}
        feeds = {name: given[tap] for name, tap in segment.borders.items()}
        try:
            model = segment_model(self.marked, segment).SerializeToString()
            alone = self._run(model, feeds, "disable")[segment.value]
        except (AlignkitError, ValueError, KeyError):
            return None
        error = distance(np.asarray(alone), ran[row.tap])
        if error <= _allowed(row, ran[row.tap]):
            return None
        how = ", unoptimised" if isinstance(self._backend, OnnxRuntime) else ""
        name = f"the same segment on its own{how}, on the values of the ordinary run"
        return Experiment(name, error, "differs from what the ordinary run makes of them")

    def bundle(self, culprit: Culprit, bench: Bench) -> Culprit:
        run = self._backend
        tuned = run if isinstance(run, OnnxRuntime) else OnnxRuntime()
        if run is not tuned:
            # The bundle's script runs ONNX Runtime: it shows what is wrong there as well.
            bench = replace(bench, run=_run_plainly, optimization="disable")
        made = make_bundle(
            culprit,
            bench,
            known=None,
            providers=tuned.providers,
            disabled_optimizers=tuned.disabled_optimizers,
        )
        if isinstance(made, str):
            if run is not tuned and culprit.cause == "runtime":
                made = f"its script would run ONNX Runtime, and the kernel at fault is {run.title}'s"
            return replace(culprit, evidence=(*culprit.evidence, f"no repro bundle: {made}"))
        folder = f"repro/{bundle_name(culprit.tap)}"
        self.bundles[folder] = made
        return replace(culprit, repro=folder)

    def runs_on_example(self) -> bool:
        example, plain = self._files.example, self._files.plain
        if example is None or plain is None or same_inputs(example, self.trial.sample):
            return False
        try:
            feeds = deployed_feeds(plain, candidate_leaves(self.trial.model, example), self.marked)
            self._backend.open(plain).run(feeds)
        except AlignkitError:
            return False
        return True

    def question_fusion(self, output: OutputRow) -> Fusion:
        with self.stage("deployed file without optimisation"):
            found = question_fusion(self.trial, self._files.plain, self._backend, output, self.seconds)
        return replace(found, rounds=bool(find_precisions(self.marked)))

    def _run(self, model: bytes, feeds: Mapping[str, Array], level: str) -> Mapping[str, Array]:
        run = self._backend
        return (run.at_level(level) if isinstance(run, OnnxRuntime) else run).open(model).run(feeds)

    def _run_without(
        self, model: bytes, feeds: Mapping[str, Array], names: Sequence[str]
    ) -> Mapping[str, Array]:
        run = self._backend
        return (run.without(names) if isinstance(run, OnnxRuntime) else run).open(model).run(feeds)

    def _state(self) -> Mapping[str, Array]:
        if self._weights is None:
            state = self.trial.model.state_dict()
            self._weights = {key: to_numpy(value, copy=False) for key, value in state.items()}
        return self._weights

    def _replayed(self, way: str) -> Mapping[str, Array]:
        """One eager run in ``way`` answers for all culprits."""
        if way not in self._replays:
            trial, sample = self.trial, self.trial.sample
            where = (trial.model, sample.args, sample.kwargs, trial.selection, trial.reference)
            budget = self._settings.budget
            self._replays[way] = capture_replayed(*where, way, self._questioned, budget=budget)
        return self._replays[way]

    def _on_example(self, tap: str) -> float | None:
        example, trial = self._files.example, self.trial
        sample = trial.sample
        if example is None or same_inputs(example, sample):
            return None
        if self._example is None:
            reference = self._capture(example, trial.selection)
            feeds, _ = bind_feeds(trial.model, example, trial.marked)
            self._example = replace(trial, sample=example, reference=reference, feeds=feeds)
        found, expected = self._example.introduced(tap), self._example.reference.values.get(tap)
        return None if found is None or expected is None else distance(expected, found)

    def _baked(self) -> tuple[int, ...]:
        """Sizes that the export's inputs have and the compared ones have not."""
        if self._files.example is None:
            return ()
        theirs, ours = (_sizes(sample) for sample in (self._files.example, self.trial.sample))
        return tuple(sorted(theirs - ours))


def _run_plainly(model: bytes, feeds: Mapping[str, Array], level: str) -> Mapping[str, Array]:
    """In ONNX Runtime on the CPU, whatever the product runs on."""
    return OnnxRuntime(optimization=level).open(model).run(feeds)


def _allowed(row: LayerRow, expected: Array) -> float:
    """The largest error that counts as rounding at this row, also where it could not be measured."""
    if row.noise_floor is not None:
        return FACTOR * row.noise_floor
    if dtype_kind(expected.dtype) != "float":
        return 0.0
    finite = np.abs(expected.astype(np.float64))
    scale = float(np.max(finite, where=np.isfinite(finite), initial=0.0))
    return FACTOR * ulp(scale, expected.dtype)


def _sizes(sample: Sample) -> set[int]:
    return {size for leaf in tensor_leaves((sample.args, dict(sample.kwargs))) for size in leaf.shape}
