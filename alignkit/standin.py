"""Stand-ins: a reference that is no module of the user's own code, made to behave like one.

A :class:`StandIn` is called like a model, and shows the values inside it to the instrument that is
entered (see :func:`alignkit.instrument.visit_tap`), since no hook can. What it cannot do it says.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from alignkit.errors import ExportError
from alignkit.records import Sides, Tap

if TYPE_CHECKING:
    from alignkit.selection import Selection


class StandIn(nn.Module):
    """The module that a source of reference values is made into; subclasses define ``forward``.

    ``sides`` are the names of reference and candidate in a report.
    ``fixed`` is the reason why the source computes in one way only: it has no training mode, no
    seed and no branches for an exporter that an experiment could change, and nothing can be exported from
    it. ``exporter`` is the only one that takes it; None where any does. ``type_name`` is the class that
    is shown for it.
    """

    sides = Sides()
    fixed: str = ""
    type_name: str = ""
    exporter: str | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """What the report says of the source."""
        return ()

    @property
    def untapped(self) -> Mapping[Tap, str]:
        """Why the values of some taps cannot be seen."""
        return {}

    def name_beside(self, deployed: Path) -> None:
        """Name the sides of a comparison with that file."""
        self.sides = Sides(self.sides.reference, deployed.name)

    def fit(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments as this source is called with them. Raises :class:`InputError` where they do not fit."""
        return args, dict(kwargs)

    def stored_inputs(self) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """The arguments that the source itself holds, if it does."""
        return None

    def to_export(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], selection: Selection | None
    ) -> tuple[Any, tuple[Any, ...], Mapping[str, Any]]:
        """What an exporter takes for it, and the arguments; with taps where there is a ``selection``.

        Raises :class:`ExportError` where nothing can be exported.
        """
        raise ExportError(
            f"nothing can be exported from {self.sides.reference}: name the deployed file (--onnx)."
        )


def give_signature(module: nn.Module, signature: inspect.Signature) -> None:
    """Let the ``forward`` of this one ``module`` have ``signature``, for those who read it."""
    kind = type(module)

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return kind.forward(self, *args, **kwargs)

    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    others = [p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()]
    if not any(p.kind is inspect.Parameter.POSITIONAL_ONLY for p in others):
        own = own.replace(kind=inspect.Parameter.POSITIONAL_OR_KEYWORD)
    forward.__signature__ = inspect.Signature([own, *others])  # type: ignore[attr-defined]
    forward.__module__ = "torch."  # no code of the user's that could be looked into
    module.__class__ = type(kind.__name__, (kind,), {"forward": forward, "__module__": kind.__module__})
