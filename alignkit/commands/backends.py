"""What ``--backend`` names: a known backend, or a callable of the user's own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from alignkit.errors import BackendError
from alignkit.load.objects import imported_object, names_attr


@contextmanager
def named_backends(names: Sequence[str]) -> Iterator[list[Any]]:
    """For each name itself, or the backend that a callable ``path/file.py:load`` makes; ``ort`` for none.

    Its folder can be imported from until the block ends. Raises :class:`BackendError`.
    """
    with ExitStack() as stack:
        yield [_named(name, stack) for name in names or ["ort"]]


def _named(name: str, stack: ExitStack) -> Any:
    from alignkit.backends import BACKENDS, FunctionBackend

    if name.partition(":")[0] in BACKENDS or not names_attr(name):
        return name
    load: Any = stack.enter_context(imported_object(name, BackendError))
    if not callable(load):
        raise BackendError(
            f"{name} is {type(load).__name__}, not a callable that loads a model and returns what runs it."
        )
    return FunctionBackend(load, name)
