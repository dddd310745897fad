"""Run a function in a forked child, so that a crash of the interpreter ends the child alone."""

from __future__ import annotations

import multiprocessing
import signal
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import TypeVar

import torch

from alignkit.errors import AlignkitError, ExportError

T = TypeVar("T")


def run_isolated(function: Callable[[], T]) -> T:
    """What ``function`` returns, computed in a child process that shares this one's memory as it is.

    Where processes cannot fork it is called here. Raises what the function raises when that is an
    :class:`AlignkitError`, and :class:`ExportError` when the child dies.
    """
    if "fork" not in multiprocessing.get_all_start_methods():
        return function()
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_report_back, args=(function, sender))
    with warnings.catch_warnings():
        # Python warns of forking beside threads: the child starts none and takes no lock of theirs.
        warnings.simplefilter("ignore", DeprecationWarning)
        process.start()
    sender.close()
    try:
        outcome = receiver.recv()
    except EOFError:
        process.join()
        raise ExportError(f"the exporter crashed the interpreter ({_ending(process.exitcode)}).") from None
    finally:
        receiver.close()
        if process.is_alive():
            process.join(timeout=5)
        if process.is_alive():
            process.kill()
    if isinstance(outcome, AlignkitError):
        raise outcome
    return outcome  # type: ignore[no-any-return]


def _report_back(function: Callable[[], object], sender: Connection) -> None:
    # OpenMP's workers do not survive a fork; with one thread nothing waits for them.
    torch.set_num_threads(1)
    try:
        sender.send(function())
    except AlignkitError as error:
        sender.send(error)


def _ending(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        return signal.Signals(-exitcode).name
    return f"exit code {exitcode}"
