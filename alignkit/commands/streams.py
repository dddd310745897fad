"""Keep standard output for the result: whatever else is printed meanwhile goes to standard error."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def stdout_reserved() -> Iterator[None]:
    """Send what the user's model, its factory and their subprocesses print to stderr in this block."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(_descriptor_to_stderr())
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        yield


@contextlib.contextmanager
def _descriptor_to_stderr() -> Iterator[None]:
    """For code that writes without Python's ``sys.stdout``: libraries in C++, subprocesses."""
    stdout = sys.stdout
    try:
        target, source = stdout.fileno(), sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):  # no console, a notebook, a test: no descriptor to move
        yield
        return
    stdout.flush()
    saved = os.dup(target)
    try:
        os.dup2(source, target)
        yield
    finally:
        stdout.flush()  # a logger may hold this object and have left text in it
        os.dup2(saved, target)
        os.close(saved)
