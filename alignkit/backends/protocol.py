"""What a backend is: something that opens an ONNX model, and gives every output by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from alignkit.errors import BackendError
from alignkit.memory import Buffers
from alignkit.records import Array


class KernelError(BackendError):
    """A node cannot run here: ``op`` is ``domain::Type`` or ``Type``, ``node`` its name or empty.

    ``while_running`` tells a node that failed on its values from an operator without a kernel.
    ``conclusive``: the failure speaks against the file, as a missing kernel or an evaluator's own bug
    does not.
    """

    def __init__(
        self, message: str, op: str, node: str, *, while_running: bool, conclusive: bool | None = None
    ) -> None:
        super().__init__(message)
        self.op = op
        self.node = node
        self.while_running = while_running
        self.conclusive = while_running if conclusive is None else conclusive


class Session(Protocol):
    """One loaded model. Arrays are cast only where the graph's type demands it."""

    def run(self, feeds: Mapping[str, Array], names: Sequence[str] | None = None) -> dict[str, Any]:
        """Every output (or those in ``names``) by name, in the graph's order.

        Raises :class:`InputError` when ``feeds`` do not fit, :class:`KernelError` when a node fails.
        """

    def run_into(
        self, buffers: Buffers, feeds: Mapping[str, Array], shapes: Mapping[str, tuple[int, ...]]
    ) -> dict[str, Any]:
        """Every output by name, written to ``buffers`` where it has the shape that ``shapes`` expects and
        the backend can do so; those arrays hold until the buffers are used again."""


class Unbuffered(ABC):
    """A session that can write to no memory but its own."""

    @abstractmethod
    def run(self, feeds: Mapping[str, Array], names: Sequence[str] | None = None) -> dict[str, Any]:
        """Every output (or those in ``names``) by name."""

    def run_into(
        self, buffers: Buffers, feeds: Mapping[str, Array], shapes: Mapping[str, tuple[int, ...]]
    ) -> dict[str, Any]:
        """As :meth:`run`."""
        return self.run(feeds)


@runtime_checkable
class Backend(Protocol):
    """A runtime for the candidate."""

    @property
    def name(self) -> str:
        """As the user names it, e.g. ``ort:cuda``."""

    @property
    def title(self) -> str:
        """As prose names it, e.g. ``ONNX Runtime``."""

    def open(self, model: bytes | Path, folder: Path | None = None) -> Session:
        """Load ``model``: a file, or serialised bytes whose external data lie in ``folder``.

        Raises :class:`KernelError` when a node has no kernel, :class:`BackendError` when the model
        cannot be loaded for another reason.
        """

    def describe(self) -> Mapping[str, Any]:
        """What the report says of its settings."""
