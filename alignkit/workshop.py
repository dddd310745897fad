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
from alignkit.capture import capture_reference
from alignkit.deployed import candidate_leaves, deployed_feeds
from alignkit.diagnose import (
    Bench,
    Closer,
    Diagnosis,
    Fusion,
    Start,
    Suspect,
    bundle_name,
    distance,
    find_culprits,
    make_bundle,
    segment_model,
)
from alignkit.errors import AlignkitError
from alignkit.extract import extract_introduced
from alignkit.fusion import question_fusion
from alignkit.graph import MarkedGraph
from alignkit.instrument import Selection
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
from alignkit.settings import Again, Files, Settings, same_inputs
from alignkit.storage import temporary_folder
from alignkit.trial import Trial, open_trial
from alignkit.workbench import Workbench, allowed_error, owner_of, run_plainly
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
        self._workbench = Workbench(trial, files, settings)
        self._stack = ExitStack()
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
        self._workbench.questioned = frozenset(suspect.row.tap for suspect in suspects)
        owners = {owner: None for suspect in suspects if (owner := owner_of(self.reference, suspect.row.tap))}
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

    def _zoom(self, again: Again, selection: Selection) -> Trial:
        folder = self._stack.enter_context(temporary_folder())
        model, sample = self.trial.model, self.trial.sample
        where = (model, sample.args, sample.kwargs, selection)
        reference = capture_reference(*where, budget=self._settings.budget)
        path = again(folder / "zoomed.onnx", selection, reference.taps)
        return open_trial(model, sample, selection, reference, path, self._settings)

    def look_closer(self, suspect: Suspect) -> Closer | None:
        return self._closer.get(suspect.row.tap)

    def bench(self, suspect: Suspect, closer: Closer | None, training: tuple[str, ...]) -> Bench | None:
        """None where there is nothing to experiment on."""
        whole = self._workbench.set_up(self.trial, suspect.row, suspect.segment, training)
        if whole is None or closer is None or self._zoomed is None:
            return whole
        inner = self._workbench.set_up(self._zoomed, closer.row, closer.segment, training)
        return whole if inner is None else replace(inner, whole=whole)

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
        return [owner for owner in owners if owner not in (ROOT, owner_of(self.reference, tap))]

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
            alone = self._workbench.run(model, feeds, "disable")[segment.value]
        except (AlignkitError, ValueError, KeyError):
            return None
        error = distance(np.asarray(alone), ran[row.tap])
        if error <= allowed_error(row, ran[row.tap]):
            return None
        how = ", unoptimised" if isinstance(self._backend, OnnxRuntime) else ""
        name = f"the same segment on its own{how}, on the values of the ordinary run"
        return Experiment(name, error, "differs from what the ordinary run makes of them")

    def bundle(self, culprit: Culprit, bench: Bench) -> Culprit:
        run = self._backend
        tuned = run if isinstance(run, OnnxRuntime) else OnnxRuntime()
        if run is not tuned:
            # The bundle's script runs ONNX Runtime: it shows what is wrong there as well.
            bench = replace(bench, run=run_plainly, optimization="disable")
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
