"""Any runtime that the user has: a Python callable that loads a model and returns one that runs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alignkit.backends.binding import bind_feeds
from alignkit.backends.graph import read_model, read_signature, self_contained
from alignkit.backends.protocol import Session, Unbuffered
from alignkit.errors import AlignkitError, BackendError
from alignkit.records import Array

Outputs = Mapping[str, Array]
Load = Callable[[bytes | Path], Callable[[Mapping[str, Array]], Outputs]]
"""``load(model)`` takes a serialised model, or the path of a file too large for that or as deployed, and
returns what runs it: arrays by the names of the graph's inputs in, every output by name out."""


@dataclass(frozen=True, slots=True)
class FunctionBackend:
    """The backend that ``load`` makes; ``name`` is how the user calls it."""

    load: Load
    name: str

    @property
    def title(self) -> str:
        """Its name: nothing else is known of it."""
        return self.name

    def open(self, model: bytes | Path, folder: Path | None = None) -> Session:
        """Call ``load``. Raises :class:`BackendError` with what it raised, in one line."""
        return _Session(self, model, folder)

    def describe(self) -> Mapping[str, Any]:
        """It tells nothing of its settings."""
        return {}


class _Session(Unbuffered):
    def __init__(self, backend: FunctionBackend, model: bytes | Path, folder: Path | None) -> None:
        proto = read_model(model)
        self._name = backend.name
        self._signature = read_signature(proto)
        self._held = ExitStack()  # what the runtime may read for as long as it runs
        given = model
        if isinstance(model, bytes) and folder is not None:
            given = self._held.enter_context(self_contained(proto, folder))
        self._run = _call(f"{self._name} could not load the model", backend.load, given)
        if not callable(self._run):
            raise BackendError(
                f"{self._name} returned {type(self._run).__name__}, not a callable: it must return what runs "
                "the model, from arrays by name to arrays by name."
            )

    def run(self, feeds: Mapping[str, Array], names: Sequence[str] | None = None) -> dict[str, Any]:
        """Every output (or those in ``names``) by name."""
        bound = bind_feeds(feeds, self._signature.inputs)
        found = _call(f"{self._name} could not run the model", self._run, bound)
        if not isinstance(found, Mapping):
            raise BackendError(
                f"what {self._name} loaded returned {type(found).__name__}, not a mapping from output name "
                "to array."
            )
        wanted = list(names) if names is not None else list(self._signature.outputs)
        missing = [name for name in wanted if name not in found]
        if missing:
            raise BackendError(
                f"what {self._name} loaded returned no output {missing[0]!r}; it returned "
                f"{', '.join(map(repr, list(found)[:5])) or 'nothing'}. Return every output by its name."
            )
        return {name: _array(found[name]) for name in wanted}


def _array(value: Any) -> Any:
    return value if isinstance(value, (list, Mapping)) else np.asarray(value)


def _call(what: str, function: Any, argument: Any) -> Any:
    try:
        return function(argument)
    except AlignkitError:
        raise  # the user's own use of them, e.g. of KernelError for an operator that is not there
    except (Exception, SystemExit) as error:
        said = " ".join(str(error).split())[:300]
        raise BackendError(f"{what}: {type(error).__name__}: {said}") from error
