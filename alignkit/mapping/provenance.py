"""Provenance: what the names in a file say about where its values come from.

Three sources, the first that speaks of a node wins: the scopes that the default exporter keeps as
metadata, the node names of the TorchScript exporter (``/layer1/layer1.0/relu_1/Relu``), and the
parameters that a node reads. A node belongs to a *call* of a module and of all its parents; what such
a group of nodes hands out are the module's outputs, what it reads from outside are its inputs.

Names only propose. A converter may have merged nodes of several modules under one of their names.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby

from onnx import NodeProto

from alignkit.graph import graph_inputs, inputs_of
from alignkit.mapping.records import Claims
from alignkit.mapping.values import ValueGraph
from alignkit.mapping.weights import Stored
from alignkit.records import ROOT, Tap, TapKind

_SCOPES = "pkg.torch.onnx.name_scopes"

Scope = tuple[tuple[str, str], ...]
"""From the outermost module inwards: its path, and the spelling that tells its calls apart."""


@dataclass(slots=True)
class _Calls:
    """The nodes of each call of one module, in the file's order."""

    runs: list[list[int]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    last: int = -1  # position among scoped nodes of the latest of them


def claim_values(
    graph: ValueGraph, taps: Mapping[str, Tap], weights: Mapping[str, Stored], aliases: Mapping[str, str]
) -> Claims:
    """The values that the file's names put forward for each tap; ``weights`` as identified by value.

    ``aliases`` are further paths of shared modules, each with the one that the taps go by.
    """
    paths = _known_paths(taps, weights)
    named = paths | {path for path, known in aliases.items() if known in paths}
    spoken = {
        index: tuple((aliases.get(path, path), spelling) for path, spelling in scope)
        for index in range(len(graph.nodes))
        if (scope := _spoken(graph, index, named))
    }
    scopes = dict(_scopes(graph, spoken, paths, weights))
    calls = _collect_calls(scopes.items())
    ends = {value.name for value in graph.model.graph.output}
    ported: dict[tuple[str, int], tuple[frozenset[str], frozenset[str]]] = {}
    for path, expected in _calls_of(taps).items():
        for call, members in enumerate(_as_calls(calls.get(path), expected)):
            ported[path, call] = _ports(graph, members, scopes.keys(), ends)
    values = {}
    for name, tap in taps.items():
        if (tap.id.path, tap.id.call) in ported and tap.id.kind in (TapKind.MODULE, TapKind.INPUT):
            read, made = ported[tap.id.path, tap.id.call]
            values[name] = made if tap.id.kind is TapKind.MODULE else read
    unclear = _read_by_unknown(graph, scopes.keys())
    folded = frozenset().union(*(s.modules for s in weights.values() if s.folded and not s.twins))
    return Claims(
        {**values, **_claim_namesakes(graph, taps), **_claim_ends(graph, taps, ends)},
        frozenset(calls),
        unclear,
        _weighted(graph, weights),
        folded,
        {name: _makers(graph, name, spoken) for name in graph.producer},
    )


def _weighted(graph: ValueGraph, weights: Mapping[str, Stored]) -> dict[str, frozenset[str]]:
    """By module what the nodes compute that read its weights, whatever they are called."""
    computed: dict[str, set[str]] = {}
    for node in graph.nodes:
        known = (weights.get(_stored(graph, name)) for name in node.input)
        for path in frozenset().union(*(stored.modules for stored in known if stored and not stored.twins)):
            computed.setdefault(path, set()).update(filter(None, node.output))
    return {path: frozenset(values) for path, values in computed.items()}


def _makers(graph: ValueGraph, value: str, spoken: Mapping[int, Scope]) -> frozenset[str]:
    """The modules that the file itself names as makers of ``value``: its own, and those of what it views.

    Empty where one of them is not known.
    """
    makers: set[str] = set()
    following: str | None = value
    while following is not None:
        index = graph.producer.get(following)
        if index is not None and index in spoken:
            makers.add(spoken[index][-1][0])
        elif index is None or graph.viewed(following) is None:
            return frozenset()
        following = graph.viewed(following)
    return frozenset(makers)


def _read_by_unknown(graph: ValueGraph, scoped: Collection[int]) -> frozenset[str]:
    """Values that a node of no known module computes something new from."""
    unclear: set[str] = set()
    for index, node in reversed(list(enumerate(graph.nodes))):
        only_passes_on = graph.viewed(node.output[0]) is not None and unclear.isdisjoint(node.output)
        if index not in scoped and not only_passes_on:
            unclear |= inputs_of(node)
    return frozenset(unclear)


def _claim_namesakes(graph: ValueGraph, taps: Mapping[str, Tap]) -> dict[str, frozenset[str]]:
    """A tap that is named itself, as a value of another ONNX file is, claims the value of its name."""
    named = (name for name, tap in taps.items() if tap.id.kind is TapKind.EXPLICIT)
    return {name: frozenset({name}) for name in named if name in graph.producer}


def _claim_ends(
    graph: ValueGraph, taps: Mapping[str, Tap], ends: Collection[str]
) -> dict[str, frozenset[str]]:
    """The root is given the graph's inputs and returns its outputs."""
    given = {TapKind.INPUT: frozenset(graph_inputs(graph.model)), TapKind.MODULE: frozenset(ends)}
    return {n: given[t.id.kind] for n, t in taps.items() if t.id.path == ROOT and t.id.kind in given}


def _known_paths(taps: Mapping[str, Tap], weights: Mapping[str, Stored]) -> frozenset[str]:
    paths = {tap.id.path for tap in taps.values() if tap.id.kind is not TapKind.EXPLICIT}
    if paths <= {ROOT}:
        return frozenset()  # the values of another ONNX file, which knows no modules
    paths |= {path for stored in weights.values() if not stored.twins for path in stored.modules}
    return frozenset(path for path in paths if path and path != ROOT)


def _calls_of(taps: Mapping[str, Tap]) -> dict[str, int]:
    """How often the reference called each module."""
    calls: dict[str, int] = {}
    for tap in taps.values():
        if tap.id.kind is not TapKind.EXPLICIT and tap.id.path != ROOT:
            calls[tap.id.path] = max(calls.get(tap.id.path, 0), tap.id.call + 1)
    return calls


def _spoken(graph: ValueGraph, index: int, paths: frozenset[str]) -> Scope:
    """What the file itself says of the modules that a node belongs to."""
    node = graph.nodes[index]
    return _from_metadata(node, paths) or _from_name(node.name, paths)


def _scopes(
    graph: ValueGraph, spoken: Mapping[int, Scope], paths: frozenset[str], weights: Mapping[str, Stored]
) -> Iterator[tuple[int, Scope]]:
    """Every node that belongs to a known module, in the file's order."""
    makers: dict[str, str] = {}
    for index, node in enumerate(graph.nodes):
        if not any(name not in graph.fixed for name in node.output):
            continue  # folded away sooner or later, and kept wherever the exporter put it
        if scope := spoken.get(index) or _from_weights(graph, node, paths, weights, makers):
            makers.update(dict.fromkeys(node.output, scope[-1][0]))
            yield index, scope


def _from_metadata(node: NodeProto, paths: frozenset[str]) -> Scope:
    found = [entry.value for entry in node.metadata_props if entry.key == _SCOPES]
    if not found:
        return ()
    try:
        scopes = ast.literal_eval(found[0])
    except (SyntaxError, ValueError):
        return ()  # not written by the exporter
    return tuple((str(scope), str(scope)) for scope in scopes if scope in paths)


def _from_name(name: str, paths: frozenset[str]) -> Scope:
    """Each component continues the path so far, or repeats the end of it first, which in containers of
    containers is more than one name (``block/block.0/block.0.2``)."""
    if not name.startswith("/"):
        return ()
    scope: list[tuple[str, str]] = []
    path = spelled = ""
    for component in name[1:].split("/")[:-1]:
        spelled += "/" + component
        following = next((p for p in _continuations(path, component) if p in paths), None)
        if following is not None:
            path = following
            scope.append((path, spelled))
    return tuple(scope)


def _continuations(path: str, component: str) -> Iterator[str]:
    stem, _, number = component.rpartition("_")
    parts = path.split(".") if path else []
    for name in (component, stem) if stem and number.isdigit() else (component,):
        spelled = (".".join((*parts[:kept], name)) for kept in range(len(parts), -1, -1))
        # What does not lie inside the module so far would be a stranger's path, met by chance.
        yield from (found for found in spelled if not path or found.startswith(f"{path}."))


def _from_weights(
    graph: ValueGraph,
    node: NodeProto,
    paths: frozenset[str],
    weights: Mapping[str, Stored],
    makers: Mapping[str, str],
) -> Scope:
    """The module whose parameter a node reads; of several the one that has made what else it reads."""
    read = {_stored(graph, name) for name in node.input}
    owners = frozenset.union(*(weights[name].modules for name in read if name in weights), frozenset())
    for name in read & weights.keys():
        owners &= weights[name].modules
    if len(owners) > 1:
        owners &= {makers[name] for name in node.input if name in makers}
    if len(owners) != 1:
        return ()
    parts = min(owners).split(".")
    found = [".".join(parts[: i + 1]) for i in range(len(parts))]
    return tuple((path, path) for path in found if path in paths)


def _stored(graph: ValueGraph, name: str) -> str:
    """The initializer that ``name`` is a cast, transposed or dequantised view of."""
    while (origin := graph.viewed(name)) is not None:
        name = origin
    return name


def _collect_calls(scoped: Iterable[tuple[int, Scope]]) -> dict[str, _Calls]:
    """Nodes by module; a call ends where its spelling changes or another module's node follows."""
    calls: dict[str, _Calls] = {}
    for position, (index, scope) in enumerate(scoped):
        for path, spelling in scope:
            found = calls.setdefault(path, _Calls())
            if found.keys and found.keys[-1] == spelling and found.last == position - 1:
                found.runs[-1].append(index)
            else:
                found.runs.append([index])
                found.keys.append(spelling)
            found.last = position
    return calls


def _as_calls(found: _Calls | None, expected: int) -> list[list[int]]:
    """One list of nodes per call of the reference; none where the file's runs do not tell."""
    if found is None:
        return []
    if expected == 1:
        return [[index for run in found.runs for index in run]]
    if len(found.runs) == expected:
        return found.runs
    spelled = {key: [i for _, run in group for i in run] for key, group in _by_spelling(found)}
    return list(spelled.values()) if len(spelled) == expected else []


def _by_spelling(found: _Calls) -> Iterator[tuple[str, list[tuple[str, list[int]]]]]:
    order = {key: place for place, key in reversed(list(enumerate(found.keys)))}
    pairs = sorted(zip(found.keys, found.runs, strict=True), key=lambda pair: order[pair[0]])
    return ((key, list(group)) for key, group in groupby(pairs, key=lambda pair: pair[0]))


def _ports(
    graph: ValueGraph, members: list[int], scoped: Collection[int], ends: Collection[str]
) -> tuple[frozenset[str], frozenset[str]]:
    """What a group of nodes reads from outside, and what it hands out.

    Nodes of no module, such as the casts and quantisers that a converter put in and what an exporter's own
    rewriting made, only pass values on.
    """
    inside = set(members)
    made = {name for index in members for name in graph.nodes[index].output if name}
    read = {name for index in members for name in inputs_of(graph.nodes[index])} - made - graph.fixed

    def is_handed_out(value: str) -> bool:
        readers = [index for index in graph.readers.get(value, ()) if index not in inside]
        passed_on = [o for i in readers if i not in scoped for o in graph.nodes[i].output if o]
        return value in ends or any(i in scoped for i in readers) or any(map(is_handed_out, passed_on))

    def comes_from_inside(value: str) -> bool:
        waiting, seen = [value], set[str]()
        while waiting:
            value = waiting.pop()
            index = graph.producer.get(value)
            if value in made:
                return True
            if value in seen or index is None or index in scoped:
                continue
            seen.add(value)
            origin = graph.viewed(value)
            waiting += inputs_of(graph.nodes[index]) if origin is None else [origin]
        return False

    return (
        frozenset(value for value in read if not comes_from_inside(value)),
        frozenset(value for value in made if is_handed_out(value)),
    )
