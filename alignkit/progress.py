"""Which stage is running and for how long: a line per stage on a terminal, seconds for the report."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

_COUNT_SECONDS = 0.1  # between two counts on a terminal


class Progress:
    """Times the stages of a run and, on a terminal, prints one line for each.

    ``[3/6] run probe …`` while it runs, ``[3/6] run probe … 1.2 s`` when it is over. ``total`` is
    the number of stages to expect, where known. Nothing is printed when ``quiet`` or when
    ``stream`` (standard error by default) is not a terminal; the times are taken all the same.
    """

    def __init__(
        self,
        total: int | None = None,
        *,
        quiet: bool = False,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._stream = sys.stderr if stream is None else stream
        # sys.stderr is None in a process without a console
        self._shown = not quiet and self._stream is not None and self._stream.isatty()
        self._total = total
        self._clock = clock
        self._started = 0
        self._depth = 0
        self._line_open = False
        self._timings: dict[str, float] = {}
        self._running = ""
        self._counted = 0.0

    @property
    def timings(self) -> dict[str, float]:
        """Stage -> seconds, in the order in which the stages were first entered.

        A stage entered again adds up. The time of a stage inside another is in both. A stage that
        failed is there, with the time until it did.
        """
        return dict(self._timings)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times the block as stage ``name``; an exception passes through and the line says it failed."""
        label = self._label(name)
        self._timings.setdefault(name, 0.0)
        self._open_line(label)
        self._running = label
        self._depth += 1
        outcome = "failed after "
        begin = self._clock()
        try:
            yield
            outcome = ""
        finally:
            seconds = self._clock() - begin
            self._depth -= 1
            self._timings[name] += seconds
            self._close_line(f"{label} {outcome}{format_seconds(seconds)}")

    def count(self, done: int, total: int | None = None) -> None:
        """On a terminal, how far the running stage is: ``[4/6] samples … 731/2000``."""
        now = self._clock() if self._shown else 0.0
        if not self._shown or now - self._counted < _COUNT_SECONDS:
            return
        self._counted = now
        self._write(f"\r{self._running} {done}" + (f"/{total}" if total else ""))

    def _label(self, name: str) -> str:
        """Stages of the run are counted; those inside another are indented below it."""
        dots = "…" if "utf" in (getattr(self._stream, "encoding", None) or "").lower() else "..."
        if self._depth:
            return f"{'  ' * self._depth}{name} {dots}"
        self._started += 1
        count = f"{self._started}/{max(self._started, self._total)}" if self._total else str(self._started)
        return f"[{count}] {name} {dots}"

    def _open_line(self, text: str) -> None:
        if self._shown:
            self._write("\n" + text if self._line_open else text)
            self._line_open = True

    def _close_line(self, text: str) -> None:
        if self._shown:
            # the whole line again: something else may have been printed since it was opened
            self._write(f"\r{text}\n")
            self._line_open = False

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def format_seconds(seconds: float) -> str:
    """``0.4 s``, ``59.9 s``, ``2 min 05 s``."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"
