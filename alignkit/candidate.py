"""Candidates: run the probes of one marked file, part by part, going on without what cannot run.

A run is made in parts of bounded size: each part is a probe of its own, and all write their
values to memory that is used again. The introduced probe falls apart anywhere, for every segment is
fed with the reference; a part of the propagated one goes on from the values that earlier parts gave.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from onnx import NodeProto
from onnx.helper import tensor_dtype_to_np_dtype

from alignkit.backends import Backend, KernelError, OnnxRuntime, Session
from alignkit.budget import PART_BYTES
from alignkit.errors import BackendError
from alignkit.extract import NodeFilter, Probe, extract_introduced, extract_propagated
from alignkit.graph import MarkedGraph, TensorType, weight_size
from alignkit.memory import Buffers, give_back
from alignkit.metrics import dtype_kind
from alignkit.parts import last_uses, plan_parts, weights_by_tap
from alignkit.records import Array, Candidate, Capture

_MOST_EXCLUSIONS = 20


@dataclass(slots=True)
class _Exclusions:
    """Nodes that turned out not to run: by operator where no kernel exists, else one by one."""

    operators: dict[str, str] = field(default_factory=dict)  # -> how a node without a name failed
    nodes: dict[str, str] = field(default_factory=dict)  # name -> how it failed on these values
    faults: set[str] = field(default_factory=set)  # those of the failures that speak against the file

    def __call__(self, node: NodeProto) -> str:
        """Why ``node`` cannot run; empty when nothing speaks against it."""
        qualified = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
        for op in (qualified, node.op_type):
            if op in self.operators:
                lacks = f"needs {qualified} {node.name!r}, which the runtime has no kernel for"
                return self.operators[op] or lacks
        return self.nodes.get(node.name, "") if node.name else ""

    def add(self, error: KernelError, names: Iterable[str]) -> None:
        """``names`` are the file's nodes: the runtime tells the name of an optimised one, which begins
        with that of a node it was made of."""
        known = len(self.operators) + len(self.nodes)
        if not error.while_running:
            self.operators.setdefault(error.op, "")
        elif error.node or error.conclusive:
            own = [name for name in names if name and error.node.startswith(name)]
            self.nodes[max(own, key=len, default=error.node)] = str(error)
        else:  # all of its kind, since nobody is accused by it
            self.operators.setdefault(error.op, str(error))
        if error.conclusive:
            self.faults.add(str(error))
        if len(self.operators) + len(self.nodes) == known or known >= _MOST_EXCLUSIONS:
            raise BackendError(f"{error}; leaving it out did not help.") from error

    def forgive(self) -> None:
        """What failed on another sample's values gets a new chance."""
        self.nodes.clear()
        self.faults.clear()
        self.operators = {op: reason for op, reason in self.operators.items() if not reason}

    @property
    def filter(self) -> NodeFilter | None:
        """Itself, or None as long as everything runs."""
        return self if self.names else None

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self.operators.keys() | self.nodes.keys())


@dataclass(slots=True)
class ProbeRunner:
    """Runs both probes of one marked file; ``reuse`` keeps the sessions for the next sample.

    ``overlaps``: a part's arrays hold while the next part runs, and not only until it starts.
    ``prepack`` lets ONNX Runtime copy each matrix in the order that its products read it, as it does in a
    product: for a session that runs once or twice that costs more than it saves, and rounds hardly otherwise.
    ``part_bytes`` and ``weight_bytes`` bound the values that a part gives and the weights that it reads.
    """

    marked: MarkedGraph
    backend: Backend
    reuse: bool = False
    part_bytes: int = PART_BYTES
    overlaps: bool = True
    weight_bytes: int | None = None
    prepack: bool = False
    _without: dict[str, _Exclusions] = field(default_factory=dict)
    _ready: dict[object, tuple[Probe, Session | None]] = field(default_factory=dict)
    _read: dict[str, int] = field(default_factory=dict)  # tap -> bytes of weights, where those are too large
    _buffers: tuple[Buffers, Buffers] = field(default_factory=lambda: (Buffers(), Buffers()))

    def __post_init__(self) -> None:
        total = sum(map(weight_size, self.marked.weights.values()))
        if self.weight_bytes is not None and total > self.weight_bytes:
            self._read = weights_by_tap(self.marked)

    def propagated(self, feeds: Mapping[str, Array], reference: Capture) -> Iterator[Candidate]:
        """The ordinary run of the graph, seen at every tap, part by part."""
        skip = self._skip("propagated")
        parts = self._parts(reference.values)
        last_use = last_uses(self.marked, parts)
        known: dict[str, Array] = {}  # what later parts go on from
        for place, taps in enumerate(parts):

            def extract(taps: Collection[str] = taps, known: Collection[str] = tuple(known)) -> Probe:
                return extract_propagated(self.marked, taps, known, without=skip.filter)

            key = ("propagated", *taps)
            part = self._part(key, extract, skip, feeds, known, reference, alone=len(parts) == 1)
            yield part
            known = {tap: value for tap, value in known.items() if last_use[tap] > place}
            needed = {tap for tap in part.values if last_use.get(tap, place) > place}
            known.update({tap: part.values[tap].copy() for tap in needed})
        self._let_go()

    def introduced(
        self, feeds: Mapping[str, Array], reference: Capture, taps: Collection[str] | None = None
    ) -> Iterator[Candidate]:
        """Every segment on its own (or those that end at ``taps``), fed with the reference, part by part."""
        skip = self._skip("introduced")
        values = reference.values
        available = _feedable(self.marked, values)
        parts = self._parts(values, taps)
        for part in parts:

            def extract(taps: Collection[str] = part) -> Probe:
                return extract_introduced(self.marked, available, taps, without=skip.filter)

            key = ("introduced", *part)
            yield self._part(key, extract, skip, feeds, values, reference, alone=len(parts) == 1)
        self._let_go()

    def come_closer(self) -> bool:
        """Run from now on with the product's very kernels; False where that is so already."""
        if self.prepack or not isinstance(self.backend, OnnxRuntime) or self.backend.session_options:
            return False
        self.prepack = True
        self._ready.clear()
        return True

    def _parts(
        self, values: Mapping[str, Array], taps: Collection[str] | None = None
    ) -> list[tuple[str, ...]]:
        limit = self.weight_bytes or 0
        return plan_parts(self.marked, values, self.part_bytes, taps, weights=self._read, weight_limit=limit)

    def _let_go(self) -> None:
        """Where memory is short none of it is kept for another run."""
        if not self.overlaps:
            self._buffers = (Buffers(), Buffers())
            give_back()

    def _skip(self, kind: str) -> _Exclusions:
        skip = self._without.setdefault(kind, _Exclusions())
        skip.forgive()
        return skip

    def _part(
        self,
        key: tuple[str, ...],
        extract: Callable[[], Probe],
        skip: _Exclusions,
        feeds: Mapping[str, Array],
        known: Mapping[str, Array],
        reference: Capture,
        *,
        alone: bool,
    ) -> Candidate:
        """:meth:`_run`; the taps of a part that cannot run say why, and the other parts go on."""
        try:
            return self._run(key, extract, skip, feeds, known, reference)
        except BackendError as error:
            if alone:
                raise
            return Candidate({}, {**self.marked.nested, **dict.fromkeys(key[1:], str(error))}, {})

    def _run(
        self,
        key: tuple[str, ...],
        extract: Callable[[], Probe],
        skip: _Exclusions,
        feeds: Mapping[str, Array],
        known: Mapping[str, Array],
        reference: Capture,
    ) -> Candidate:
        """``known``: the values that the probe is fed behind taps."""
        if self.overlaps:
            # Once per part, however often it is tried: what the part before wrote is still being measured.
            self._buffers = self._buffers[::-1]
        while True:
            try:
                probe, session = self._prepare((*key, skip.names), extract)
                fed = {**feeds, **{name: known[tap] for name, tap in probe.feeds.items()}}
                expected = {name: reference.values.get(tap) for tap, name in probe.outputs.items()}
                shapes = {name: value.shape for name, value in expected.items() if value is not None}
                values = session.run_into(self._buffers[0], fed, shapes) if session is not None else {}
            except KernelError as error:
                skip.add(error, (node.name for node in self.marked.nodes))
            else:
                return _to_candidate(probe, values, feeds, known, reference, skip.faults)

    def _prepare(self, key: tuple[object, ...], extract: Callable[[], Probe]) -> tuple[Probe, Session | None]:
        if (known := self._ready.get(key)) is not None:
            return known
        probe = extract()
        session = None
        if probe.model.graph.output:
            session = self._open(probe)
        if self.reuse:
            self._ready[key] = probe, session
        return probe, session

    def _open(self, probe: Probe) -> Session:
        backend = self.backend
        if isinstance(backend, OnnxRuntime):
            backend = replace(backend, prepack=self.prepack)
        return backend.open(probe.model.SerializeToString(), probe.folder)


def _feedable(marked: MarkedGraph, values: Mapping[str, Array]) -> frozenset[str]:
    """The taps behind which the graph can go on from ``values``: of a kind and rank that it takes there.

    A model may compute something else there while it is exported.
    """
    return frozenset(
        debug.tap
        for debug in marked.debugs
        if debug.tap in values and _fits(values[debug.tap], marked.types.get(debug.outflow))
    )


def _fits(value: Array, known: TensorType | None) -> bool:
    if known is None or not known.elem:
        return True
    kind = dtype_kind(tensor_dtype_to_np_dtype(known.elem))
    return known.rank in (None, value.ndim) and dtype_kind(value.dtype) == kind


def _to_candidate(
    probe: Probe,
    values: Mapping[str, Array],
    feeds: Mapping[str, Array],
    known: Mapping[str, Array],
    reference: Capture,
    failures: Collection[str],
) -> Candidate:
    found = {tap: values[name] for tap, name in probe.outputs.items()}
    trivial = set()
    for tap, source in probe.passthrough.items():
        found[tap] = feeds[source] if source in feeds else known[source]
        of_reference = source not in feeds and known is reference.values
        if of_reference and reference.first(tap) == reference.first(source):
            trivial.add(tap)
    failed = frozenset(tap for tap, reason in probe.absent.items() if reason in failures)
    return Candidate(found, probe.absent, probe.values, frozenset(trivial), failed)
