"""Weights: does the segment hold the model's own, and is it right with them?

Exporters rename, transpose, split and regroup weights, so that a weight of the file is looked for
among the *forms* of the model's parameters. A form that is close to it and not equal is an older or
edited version, unless a BatchNorm behind it was folded into it. Where values tell nothing (another
checkpoint, a transposed square matrix), the parameter's form takes the weight's place and the
segment is run: right with it, wrong without.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import dropwhile, islice

import numpy as np
from onnx import ModelProto, numpy_helper

from alignkit.diagnose.bench import Bench, distance
from alignkit.diagnose.experiments import agreement
from alignkit.diagnose.segment import segment_model
from alignkit.errors import AlignkitError
from alignkit.records import Array, Experiment

_SAME_TENSOR = 0.9  # cosine similarity from which two weights are versions of one another
_EPSILONS = (1e-5, 1e-3, 1e-6, 1e-4, 1e-12)
_FOLDING = 1e-5  # rounding of a folded weight, relative to its largest
_MOST_ATTEMPTS = 24
_GATES = {4: (0, 3, 1, 2), 3: (1, 0, 2)}  # LSTM: torch has i f g o, ONNX i o f c; GRU: r z n, z r h


def compare_weights(bench: Bench) -> Experiment:
    """Does every weight of the segment stand in the model's state dict, bit for bit?"""
    name = "weights against the state dict"
    state = bench.state()
    if bench.fixed:
        name = f"weights against those of {bench.reference.sides.reference}"
        if not state:
            return Experiment("weights", None, "not run: the reference holds none")
    stale = [found for key, value in _weights(bench) for found in _stale(key, value, state)]
    if not stale:
        return Experiment(name, 0.0, "no difference found")
    parameter, error = max(stale, key=lambda item: item[1])
    return Experiment(name, error, f"{parameter} differs")


def substitute_weights(bench: Bench) -> Experiment | None:
    """Is the segment right once a parameter of its module takes the place of a weight? None if not."""
    model = segment_model(bench.marked, bench.segment)
    state = {key: value for key, value in bench.state().items() if _belongs(key, bench.module)}
    weights = dict(_weights(bench))
    attempts = [*_all_at_once(weights, state), *islice(_changes(weights, state), _MOST_ATTEMPTS)]
    for change in attempts:
        error = _error_with(bench, model, {name: value for name, (_, value) in change.items()})
        if error is not None and error <= bench.allowed:
            named = ", ".join(dict.fromkeys(parameter for parameter, _ in change.values()))
            return Experiment(f"the model's own {named} in the segment", error, agreement(error, bench))
    return None


Change = Mapping[str, tuple[str, Array]]  # weight of the file -> parameter's name and its form


def _changes(weights: Mapping[str, Array], state: Mapping[str, Array]) -> Iterator[Change]:
    """One weight replaced at a time, by a form that it does not have yet."""
    return (
        {name: (key, form)}
        for name, value in weights.items()
        for key, parameter in state.items()
        for form in forms_of(parameter, value, state, key)
        if not np.array_equal(form, value)
    )


def _all_at_once(weights: Mapping[str, Array], state: Mapping[str, Array]) -> list[Change]:
    """Every weight that is no form of any parameter, by the first form that fits it."""
    change: dict[str, tuple[str, Array]] = {}
    for name, value in weights.items():
        forms = [(key, form) for key, p in state.items() for form in forms_of(p, value, state, key)]
        if forms and not any(np.array_equal(form, value) for _, form in forms):
            taken = {key for key, _ in change.values()}
            change[name] = next((one for one in forms if one[0] not in taken), forms[0])
    return [change] if len(change) > 1 else []


def _error_with(bench: Bench, model: ModelProto, values: Mapping[str, Array]) -> float | None:
    changed = ModelProto()
    changed.CopyFrom(model)
    for tensor in changed.graph.initializer:
        if tensor.name in values:
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values[tensor.name]), tensor.name))
    try:
        found = bench.run(changed.SerializeToString(), bench.inputs(), bench.optimization)
        return bench.error_of(found[bench.segment.value])
    except (AlignkitError, ValueError, KeyError):
        return None


def _belongs(key: str, module: str) -> bool:
    """Whether a state dict's key is of ``module`` or inside it; of any for the root."""
    return module in ("", "(model)") or key.startswith(module + ".")


def _weights(bench: Bench) -> Iterator[tuple[str, Array]]:
    for tensor in bench.segment.weights:
        value = numpy_helper.to_array(tensor, base_dir=str(bench.marked.folder))
        if value.dtype.kind == "f" and value.size > 1:
            yield tensor.name, value


def _stale(name: str, value: Array, state: Mapping[str, Array]) -> list[tuple[str, float]]:
    """The parameter that ``value`` is another version of and how far apart they are, if it is one."""
    if name in state and state[name].shape == value.shape:
        error = distance(state[name].astype(value.dtype), value)
        return [(name, error)] if error and not _is_folded(value, [state[name]], state) else []
    forms = [(key, form) for key, p in state.items() for form in forms_of(p, value, state, key)]
    if any(np.array_equal(form, value) for _, form in forms):
        return []
    alike = [(key, distance(form, value)) for key, form in forms if _cosine(form, value) > _SAME_TENSOR]
    if alike and _is_folded(value, [form for _, form in forms], state):
        return []
    if not alike:
        folds = [(key, form) for key, p in state.items() for form in _with_next_norm(key, p, value, state)]
        alike = [(key, distance(form, value)) for key, form in folds if _cosine(form, value) > _SAME_TENSOR]
        largest = float(np.abs(value).max())
        alike = alike if all(error > _FOLDING * largest for _, error in alike) else []
    return [min(alike, key=lambda item: item[1])] if alike else []


def _with_next_norm(key: str, parameter: Array, value: Array, state: Mapping[str, Array]) -> Iterator[Array]:
    """``parameter`` with the BatchNorm folded into it that follows it in the model."""
    if parameter.shape != value.shape or parameter.ndim < 2 or parameter.dtype != value.dtype:
        return
    behind = dropwhile(lambda name: name != key, state)
    norm = next((name for name in behind if name.endswith("running_var")), None)
    if norm is not None and len(state[norm]) == len(parameter):
        scale = state.get(norm.removesuffix("running_var") + "weight", np.ones_like(state[norm]))
        factor = scale / np.sqrt(state[norm].astype(np.float64) + _EPSILONS[0])
        yield (parameter * factor.reshape(-1, *[1] * (parameter.ndim - 1))).astype(value.dtype)


def folded_forms(parameter: Array, value: Array, state: Mapping[str, Array]) -> Iterator[Array]:
    """``parameter`` with each BatchNorm of the model folded into it that fits, for every usual epsilon."""
    if parameter.shape != value.shape or not parameter.ndim or parameter.dtype != value.dtype:
        return
    for key, variance in state.items():
        stem = key.removesuffix("running_var")
        if stem == key or len(variance) != len(parameter):
            continue
        scale = state.get(f"{stem}weight", np.ones_like(variance))
        for eps in _EPSILONS:
            factor = scale / np.sqrt(variance.astype(np.float64) + eps)
            if parameter.ndim == 1:
                mean, shift = state[f"{stem}running_mean"], state.get(f"{stem}bias", np.zeros_like(scale))
                yield ((parameter - mean) * factor + shift).astype(value.dtype)
                yield (shift - mean * factor).astype(value.dtype)  # of a layer without a bias
                continue
            yield (parameter * factor.reshape(-1, *[1] * (parameter.ndim - 1))).astype(value.dtype)


def _is_folded(value: Array, parameters: Sequence[Array], state: Mapping[str, Array]) -> bool:
    """Whether ``value`` is one of ``parameters`` with a BatchNorm of the model folded into it.

    Then each channel of a weight is ``scale / sqrt(var + eps)`` times the parameter's, and a bias, less
    the norm's own, that many times the difference to the norm's mean (a layer without one has zeros).
    """
    for key, variance in state.items():
        stem = key.removesuffix("running_var")
        if stem == key or len(variance) not in value.shape[:2]:
            continue
        mean = state[f"{stem}running_mean"]
        scale, shift = state.get(f"{stem}weight", np.ones_like(mean)), state.get(f"{stem}bias", mean * 0)
        if value.ndim == 1:
            pairs = [(value - shift, one - mean) for one in (*parameters, mean * 0)]
        else:
            pairs = [(np.swapaxes(value, 0, a), np.swapaxes(one, 0, a)) for one in parameters for a in (0, 1)]
        if any(len(new) == len(variance) and _is_scaled(new, old, scale, variance) for new, old in pairs):
            return True
    return False


def _is_scaled(new: Array, old: Array, scale: Array, variance: Array) -> bool:
    """Whether ``new`` is ``old`` times ``scale / sqrt(variance + eps)`` per channel, for a usual ``eps``."""
    wide = new.astype(np.float64).reshape(len(new), -1)
    start = old.astype(np.float64).reshape(len(new), -1)
    for eps in _EPSILONS:
        folded = start * (scale / np.sqrt(variance.astype(np.float64) + eps))[:, None]
        if np.abs(folded - wide).max() <= _FOLDING * np.abs(wide).max():
            return True
    return False


def forms_of(parameter: Array, value: Array, state: Mapping[str, Array], key: str) -> Iterator[Array]:
    """``parameter`` as exporters write it, in the shape of ``value``.

    Itself, transposed, one of the equal parts of a packed projection, reshaped, and the gates of a
    recurrent layer in ONNX's order with their two biases joined.
    """
    if parameter.dtype != value.dtype:
        return
    if parameter.shape == value.shape:
        yield parameter
    if value.ndim == 2 and parameter.ndim == 2:
        yield from _projections(parameter, value)
    elif parameter.ndim == 1 and value.ndim == 1 and value.size and parameter.size % value.size == 0:
        if parameter.size > value.size:
            yield from np.split(parameter, parameter.size // value.size)
    elif parameter.size == value.size and parameter.ndim < value.ndim and 1 in value.shape[:1]:
        yield parameter.reshape(value.shape)
    yield from _gates(parameter, value, state, key)


def _projections(parameter: Array, value: Array) -> Iterator[Array]:
    rows, columns = value.shape[::-1]
    if parameter.shape[1] == columns and rows and parameter.shape[0] % rows == 0:
        for part in np.split(parameter, parameter.shape[0] // rows):
            yield part.T


def _gates(parameter: Array, value: Array, state: Mapping[str, Array], key: str) -> Iterator[Array]:
    """``weight_ih_l0`` and its like as LSTM and GRU nodes hold them: (directions, gates, …)."""
    if "_ih_l" not in key and "_hh_l" not in key:
        return
    reverse = state.get(f"{key}_reverse")
    sides = [parameter] if reverse is None else [parameter, reverse]
    for gates, order in _GATES.items():
        if parameter.shape[0] % gates:
            continue
        stacked = [_reordered(side, gates, order) for side in sides]
        if key.split(".")[-1].startswith("bias_ih"):
            other = [state.get(f"{key}{end}".replace("_ih_", "_hh_")) for end in ("", "_reverse")]
            joined = [one for one in other if one is not None][: len(sides)]
            if len(joined) == len(sides):
                pairs = zip(stacked, joined, strict=True)
                stacked = [np.concatenate([a, _reordered(b, gates, order)]) for a, b in pairs]
        form = np.stack(stacked)
        if form.shape == value.shape:
            yield form


def _reordered(side: Array, gates: int, order: tuple[int, ...]) -> Array:
    blocks = np.split(side, gates)
    return np.concatenate([blocks[place] for place in order])


def _cosine(left: Array, right: Array) -> float:
    norm = float(np.linalg.norm(left.ravel())) * float(np.linalg.norm(right.ravel()))
    return float(np.vdot(left.ravel(), right.ravel())) / norm if norm else 0.0
