"""Run one named case in this process; its files live as long as the process."""

from __future__ import annotations

import atexit
import contextlib
from functools import cache
from pathlib import Path

import torch

from tests.faults.cases import resolve
from tests.faults.score import Score, run_case, workspace


@cache
def _folder() -> Path:
    stack = contextlib.ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(workspace())


def run_named(work: tuple[str, str, int]) -> Score:
    """``work`` is the name of a case, that of an exporter, and what is added to an injection's seeds."""
    torch.set_num_threads(1)  # small models, and a process a core
    name, exporter, shift = work
    return run_case(resolve(name, shift), exporter, _folder())
