"""Which of a model's parameters an ONNX file holds: renamed, transposed, folded or quantised."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from onnx import ModelProto, TensorProto, numpy_helper

from alignkit.mapping.fingerprint import Fingerprint, distance, find_match, fingerprint
from alignkit.records import Array

_SAME = 5e-3  # a weight in half precision
_REORDERED = 1e-5  # the same numbers in another order, such as the gates of an LSTM
_SCALED = 0.1  # channels that are scaled, or quantised to eight bits; strangers are near 0.8
_LEAST = 16  # elements: smaller tensors are found by chance
_LEAST_REORDERED = 64
_CHANNELS = 8
_KINDS = {
    *(TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE),
    *(TensorProto.INT8, TensorProto.UINT8),
}


@dataclass(frozen=True, slots=True)
class _Parameter:
    name: str
    value: Array
    print: Fingerprint


class Stored(NamedTuple):
    """The parameter behind an initializer; ``folded``: its channels are scaled, as by a BatchNorm.

    ``twins`` are parameters with the same numbers: it may be theirs as well.
    """

    parameter: str
    folded: bool = False
    twins: tuple[str, ...] = ()

    @property
    def modules(self) -> frozenset[str]:
        """The paths of the modules whose parameter it may be."""
        return frozenset(name.rpartition(".")[0] for name in (self.parameter, *self.twins))


@dataclass(frozen=True, slots=True)
class FileWeights:
    """The weights of a file that are large and varied enough to be recognised, by name: their numbers of
    elements, and the parameters whose numbers each of them holds."""

    sizes: Mapping[str, int]
    found: Mapping[str, tuple[Stored, ...]]

    @property
    def share_found(self) -> float:
        """The share, by number of elements, that is among the parameters; 1 for a file without weights.

        Well below one half the file is another model's, or holds another checkpoint.
        """
        total = sum(self.sizes.values())
        return sum(self.sizes[name] for name, found in self.found.items() if found) / total if total else 1.0


def recognise_weights(model: ModelProto, parameters: Mapping[str, Array], folder: Path) -> FileWeights:
    """The weights of ``model``, whose external data lie in ``folder``, among ``parameters``."""
    known = _known(parameters)
    sizes, found = {}, {}
    for name, tensor in _weights(model, folder):
        sizes[name], found[name] = tensor.size, tuple(_found(tensor, known))
    return FileWeights(sizes, found)


def identify_weights(
    model: ModelProto, parameters: Mapping[str, Array], weights: FileWeights
) -> dict[str, Stored]:
    """Initializer -> the parameter that it holds or is named after.

    Exporters give equal parameters one initializer, whose name then says no more than its numbers do.
    """
    identified = {
        tensor.name: Stored(tensor.name, twins=_twins(tensor.name, parameters))
        for tensor in model.graph.initializer
        if tensor.name in parameters
    }
    for name, found in weights.found.items():
        if found and identified.get(name, found[0]).parameter in {one.parameter for one in found}:
            own = next((one for one in found if one.parameter == name), found[0])
            others = tuple(one.parameter for one in found if one is not own)
            identified[name] = own._replace(twins=others)
    return identified


def _weights(model: ModelProto, folder: Path) -> Iterator[tuple[str, Array]]:
    """The initializers that are large and varied enough to be recognised, one at a time."""
    for tensor in model.graph.initializer:
        if tensor.data_type in _KINDS and np.prod(tensor.dims, dtype=np.int64) >= _LEAST:
            array = numpy_helper.to_array(tensor, str(folder))
            if array.min() != array.max():
                yield tensor.name, array


def _known(parameters: Mapping[str, Array]) -> list[_Parameter]:
    found = [_Parameter(name, value, fingerprint(value)) for name, value in parameters.items()]
    return [p for p in found if p.print.kind == "float" and not p.print.simple and p.print.size >= _LEAST]


def _twins(name: str, parameters: Mapping[str, Array]) -> tuple[str, ...]:
    own = parameters[name]
    return tuple(o for o, value in parameters.items() if o != name and np.array_equal(value, own))


def _found(tensor: Array, known: list[_Parameter]) -> Iterator[Stored]:
    same_size = [p for p in known if p.print.size == tensor.size]
    if not same_size:
        return
    exact = fingerprint(tensor)
    same = [p for p in same_size if exact.kind == "float" and _is_same(tensor, exact, p)]
    yield from (Stored(parameter.name) for parameter in same)
    if same or tensor.ndim < 2:
        return
    for parameter in same_size:
        if _is_scaled(tensor, parameter.value):
            yield Stored(parameter.name, folded=exact.kind == "float")


def _is_same(tensor: Array, exact: Fingerprint, parameter: _Parameter) -> bool:
    if find_match("", tensor, exact, parameter.value, parameter.print, _SAME) is not None:
        return True
    apart = np.abs(exact.signature - parameter.print.signature).max()
    return tensor.size >= _LEAST_REORDERED and bool(apart <= _REORDERED * parameter.print.norm)


def _is_scaled(tensor: Array, parameter: Array) -> bool:
    """Whether the channels of ``parameter``, in either orientation, are scaled to give ``tensor``.

    A few channels tell.
    """
    orientations = [parameter] if parameter.ndim != 2 else [parameter, parameter.T]
    return any(
        distance(_channels(tensor, axis), _channels(candidate, axis)) <= _SCALED
        for candidate in orientations
        if candidate.shape == tensor.shape
        for axis in (0, 1)
    )


def _channels(tensor: Array, axis: int) -> Array:
    """The first channels along ``axis``, without signs and each of norm one."""
    some = np.take(tensor, range(min(_CHANNELS, tensor.shape[axis])), axis).astype(np.float64)
    exact = np.abs(some - (128.0 if tensor.dtype == np.uint8 else 0.0))
    others = tuple(other for other in range(exact.ndim) if other != axis)
    norms = np.sqrt((exact**2).sum(axis=others, keepdims=True))
    return np.asarray(exact / np.where(norms > 0, norms, 1.0))
