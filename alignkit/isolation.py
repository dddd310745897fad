"""Run a function in a forked child, so that a crash of the interpreter ends the child alone."""

from __future__ import annotations

import ctypes
import faulthandler
import multiprocessing
import os
import pickle
import re
import signal
import sys
import sysconfig
import tempfile
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import IO, Any, TypeVar

import torch

from alignkit.errors import ExportError

T = TypeVar("T")

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+) in (?P<function>.+)')


class ChildTraceback(Exception):
    """The cause of an exception that crossed from a child; its text is the child's traceback."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


@dataclass(frozen=True, slots=True)
class _Outcome:
    """How the function ended: ``error`` is None where it returned ``value``."""

    value: Any = None
    error: BaseException | None = None
    trace: str = ""


def run_isolated(function: Callable[[], T], seconds: float | None = None) -> T:
    """What ``function`` returns, computed in a child process that shares this one's memory as it is.

    Where processes cannot fork, or CUDA runs in this one (it does not survive a fork), it is called
    here. Raises what the function raises, :class:`ExportError` when the child dies, and
    :class:`TimeoutError` when it has not returned after ``seconds`` (None: as long as it takes).
    Whatever ends this call, an interrupt too, also ends the child.
    """
    if "fork" not in multiprocessing.get_all_start_methods() or torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return function()
    with tempfile.TemporaryFile() as last_words:
        outcome = _run_in_child(function, last_words, seconds)
    if outcome.error is not None:
        raise outcome.error from ChildTraceback(outcome.trace)
    return outcome.value  # type: ignore[no-any-return]


def _run_in_child(function: Callable[[], object], last_words: IO[bytes], seconds: float | None) -> _Outcome:
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_report_back, args=(function, sender, last_words), daemon=True)
    try:
        with warnings.catch_warnings():
            # Python warns of forking beside threads: the child starts none and takes no lock of theirs.
            warnings.simplefilter("ignore", DeprecationWarning)
            process.start()
        sender.close()
        if not receiver.poll(seconds):
            raise TimeoutError(f"not finished within {seconds:.3g} s")
        outcome: _Outcome = receiver.recv()
        return outcome
    except EOFError:
        process.join()
        raise _crash(process, last_words) from None
    finally:
        receiver.close()
        _end(process)


def _end(process: BaseProcess) -> None:
    """At once: what the child could still write would lie in a folder that is about to be removed."""
    if process.pid is not None:
        process.kill()
        process.join()


def _report_back(function: Callable[[], object], sender: Connection, last_words: IO[bytes]) -> None:
    _end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches both; the parent decides and ends this one
    faulthandler.enable(last_words, all_threads=False)
    _silence()
    # OpenMP's workers do not survive a fork; with one thread nothing waits for them.
    torch.set_num_threads(1)
    try:
        outcome = _Outcome(function())
    except (Exception, SystemExit) as error:
        outcome = _Outcome(error=_portable(error), trace=traceback.format_exc())
    sender.send(outcome)


def _end_with_parent() -> None:
    """Where the parent is killed, nobody waits for this child any more."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _silence() -> None:
    """What matters comes back through the pipe; libraries in C++ also print whole graphs."""
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - for the rest of the process
    for descriptor in (1, 2):
        os.dup2(sys.stdout.fileno(), descriptor)


def _portable(error: BaseException) -> BaseException:
    """``error``, or where it cannot be sent one that says the same."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _crash(process: BaseProcess, last_words: IO[bytes]) -> ExportError:
    code = process.exitcode
    ending = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
    return ExportError(
        f"the exporter crashed the interpreter ({ending}{_last_place(last_words)}); try the other "
        "exporter, or change what that line does while torch.onnx.is_in_onnx_export()."
    )


def _last_place(last_words: IO[bytes]) -> str:
    """Where the child was: the innermost line that belongs to no library, by the fault handler."""
    last_words.seek(0)
    libraries = tuple(sysconfig.get_path(name) + os.sep for name in ("stdlib", "purelib", "platlib"))
    for frame in _FRAME.finditer(last_words.read().decode(errors="replace")):
        if not frame["file"].startswith((*libraries, "<")):
            return f" at {frame['file']}:{frame['line']}, in {frame['function']}"
    return ""
