"""Candidates: run the probes of one marked file, going on without what the runtime cannot run."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from onnx import NodeProto

from alignkit.errors import BackendError
from alignkit.extract import Probe, extract_introduced, extract_propagated
from alignkit.graph import MarkedGraph
from alignkit.records import Array, Candidate, Capture
from alignkit.run import KernelError, RunSettings, Session

_MOST_EXCLUSIONS = 20


@dataclass(slots=True)
class _Exclusions:
    """Nodes that turned out not to run: by operator where no kernel exists, else one by one."""

    operators: set[str] = field(default_factory=set)
    nodes: dict[str, str] = field(default_factory=dict)  # name -> how it failed on these values

    def __call__(self, node: NodeProto) -> str:
        """Why ``node`` cannot run; empty when nothing speaks against it."""
        qualified = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
        if {qualified, node.op_type} & self.operators:
            return f"needs {qualified} {node.name!r}, which the runtime has no kernel for"
        return self.nodes.get(node.name, "") if node.name else ""

    def add(self, error: KernelError) -> None:
        known = len(self.operators) + len(self.nodes)
        if error.while_running:
            self.nodes[error.node] = str(error)
        else:
            self.operators.add(error.op)
        if len(self.operators) + len(self.nodes) == known or known >= _MOST_EXCLUSIONS:
            raise BackendError(f"{error}; leaving it out did not help.") from error


@dataclass(slots=True)
class ProbeRunner:
    """Runs both probes of one marked file; sessions are kept for the next sample."""

    marked: MarkedGraph
    settings: RunSettings
    _without: dict[str, _Exclusions] = field(default_factory=dict)
    _ready: dict[str, tuple[Probe, Session | None]] = field(default_factory=dict)

    def propagated(self, feeds: Mapping[str, Array]) -> Candidate:
        """The ordinary run of the graph, seen at every tap."""
        return self._run("propagated", lambda skip: extract_propagated(self.marked, without=skip), feeds, {})

    def introduced(self, feeds: Mapping[str, Array], reference: Capture) -> Candidate:
        """Every segment on its own, fed with the reference."""
        values = reference.values

        def extract(skip: _Exclusions) -> Probe:
            return extract_introduced(self.marked, values, without=skip)

        return self._run("introduced", extract, feeds, values)

    def _run(
        self,
        kind: str,
        extract: Callable[[_Exclusions], Probe],
        feeds: Mapping[str, Array],
        reference: Mapping[str, Array],
    ) -> Candidate:
        skip = self._without.setdefault(kind, _Exclusions())
        if skip.nodes:
            # Those failed on another sample's values: they get a new chance.
            skip.nodes.clear()
            self._ready.pop(kind, None)
        while True:
            try:
                probe, session = self._prepare(kind, extract, skip)
                fed = {**feeds, **{name: reference[tap] for name, tap in probe.feeds.items()}}
                values = session.run(fed) if session is not None else {}
            except KernelError as error:
                skip.add(error)
                self._ready.pop(kind, None)
            else:
                return _to_candidate(probe, values, feeds, reference, set(skip.nodes.values()))

    def _prepare(
        self, kind: str, extract: Callable[[_Exclusions], Probe], skip: _Exclusions
    ) -> tuple[Probe, Session | None]:
        if kind not in self._ready:
            probe = extract(skip)
            session = None
            if probe.model.graph.output:
                session = Session(probe.model.SerializeToString(), self.settings, probe.folder)
            self._ready[kind] = probe, session
        return self._ready[kind]


def _to_candidate(
    probe: Probe,
    values: Mapping[str, Array],
    feeds: Mapping[str, Array],
    reference: Mapping[str, Array],
    failures: Collection[str],
) -> Candidate:
    found = {tap: values[name] for tap, name in probe.outputs.items()}
    trivial = set()
    for tap, source in probe.passthrough.items():
        found[tap] = feeds[source] if source in feeds else reference[source]
        if source in reference and reference.get(tap) is reference[source]:
            trivial.add(tap)
    failed = frozenset(tap for tap, reason in probe.absent.items() if reason in failures)
    return Candidate(found, probe.absent, probe.values, frozenset(trivial), failed)
