"""``torch.ops.my.debug(x, "name")``: the explicit tap as a torch operator, for scripted code.

The operator exists once any of alignkit's public names was imported. It is composite: torch runs
its body wherever it meets it, so it needs no gradient formula, no fake kernel and, under the
default exporter, no translation; the exporter decomposes it into the node that the body marks.
Under the TorchScript exporter the call itself is the traced node, written by its symbolic.
"""

from __future__ import annotations

import weakref
from typing import Protocol

import torch
from torch import Tensor

from alignkit.instrument import tap_explicit
from alignkit.marker import define_operator, is_marking, mark_value


class Listener(Protocol):
    """Whoever keeps the values of explicit taps while no instrument is active."""

    def record(self, value: Tensor, name: str) -> None:
        """Keep a copy of ``value`` as ``name``."""


_listener: weakref.ref[Listener] | None = None


def listen(listener: Listener) -> None:
    """Hand what the operator sees outside every instrument to ``listener``, as long as it lives.

    The latest listener is the only one: a new debugger takes over from the one before.
    """
    global _listener
    _listener = weakref.ref(listener)


def _debug(value: Tensor, name: str) -> Tensor:
    if is_marking() and torch.compiler.is_exporting():
        return mark_value(value, name)
    # The TorchScript exporter runs this on real tensors and has traced the call already.
    tapped = None if is_marking() else tap_explicit(value, name)
    if tapped is None and _listener is not None and (listener := _listener()) is not None:
        listener.record(value, name)
    # An operator must not return its own argument.
    return value.clone() if tapped is None or tapped is value else tapped


_library = define_operator("debug(Tensor x, str name) -> Tensor", _debug)
