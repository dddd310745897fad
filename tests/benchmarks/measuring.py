"""Run tools in turn, each in a process of its own, and take times and peak memory.

The first run of a row warms it up, on the broken file where there is one. Then the rows take turns for so
many rounds, all of them in each, so that a busy spell of the machine hits them alike. A row that took longer
than ``patience`` to warm up is not run again: that run counts. (One that explains what it finds is, once.)
The tools that are known to be slow are run at the end, once.
"""

from __future__ import annotations

import json
import select
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.benchmarks.files import Folder
from tests.benchmarks.models import MODELS
from tests.benchmarks.peers import TOOLS
from tests.benchmarks.records import Answer, Measured, Row, judge

ROOT = Path(__file__).parents[2]
_READY_WITHIN = 300.0  # seconds for a process to load what it is handed
_LONGER = 4  # times the limit, where an answer on a broken file is waited for
_LONGEST_NOTE = 80


@dataclass(frozen=True, slots=True)
class Plan:
    """How to measure. ``limit`` and ``patience`` are seconds of one run: beyond the first it is stopped,
    beyond the second not repeated."""

    rounds: int = 3
    limit: float = 60.0
    patience: float = 15.0
    exporter: str = "dynamo"


class Stopped(Exception):
    """A process that gives no answer in time, or none any more; the message says which."""


class Child:
    """A worker process and the conversation with it. ``log`` takes what it prints.

    One that was ended, because it took too long or by itself, is started anew when it is asked again.
    """

    def __init__(self, arguments: Sequence[str], log: Path) -> None:
        self._command = [sys.executable, "-m", "tests.benchmarks.worker", *arguments]
        self._log = log
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        with self._log.open("wb") as errors:
            pipe = subprocess.PIPE
            return subprocess.Popen(self._command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=errors)

    def receive(self, within: float) -> dict[str, Any]:
        """Its next line. Raises :class:`Stopped` after ``within`` seconds, and when it has ended."""
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], within)[0]:
            self.close()
            raise Stopped(f"stopped after {within:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            raise Stopped(f"failed: {self._last_words()}")
        reply: dict[str, Any] = json.loads(line)
        return reply

    def ask(self, order: Mapping[str, Any], within: float) -> dict[str, Any]:
        """Send one order and wait for its answer; see :meth:`receive`."""
        if self._process.poll() is not None:
            self.close()
            self._process = self._start()
            self.receive(_READY_WITHIN)
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        self._process.stdin.flush()
        return self.receive(within)

    def close(self) -> None:
        """End the process."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _last_words(self) -> str:
        text = self._log.read_text(encoding="utf-8", errors="replace").strip()
        return _short(text.splitlines()[-1] if text else f"exit code {self._process.returncode}")


@dataclass(slots=True)
class _Line:
    """A row of a tool that is running."""

    child: Child
    index: int
    kind: str
    is_slow: bool
    result: Measured
    warm: float = 0.0
    times: list[float] = field(default_factory=list)

    def run(self, broken: bool, within: float) -> Answer | None:
        """One run; its time is put down, and its memory where it is the most so far."""
        reply = self.child.ask({"run": self.index, "broken": broken}, within)
        if "failure" in reply:
            raise Stopped(f"failed: {_short(reply['failure'])}")
        self.times.append(reply["seconds"])
        if reply["peak"] > self.result.peak:
            self.result = replace(self.result, peak=reply["peak"], before=reply["before"])
        return Answer.from_json(reply["answer"]) if reply["answer"] else None

    def stop(self, reason: str) -> None:
        """No further run."""
        self.result = replace(self.result, note=reason)

    @property
    def measured(self) -> Measured:
        """What is known so far."""
        return replace(self.result, seconds=tuple(self.times))


Say = Callable[[str], None]


def measure_model(
    name: str, folder: Folder, tools: Sequence[str], plan: Plan, say: Say = lambda _: None
) -> Iterator[list[Measured]]:
    """All rows of ``tools`` on one model, in that order: after each round what is known so far.

    ``say`` is told how far it is.
    """
    with ExitStack() as stack:
        started = [(tool, stack.enter_context(_started(name, tool, folder, plan))) for tool in tools]
        lines: list[_Line] = []
        absent: list[Measured] = []
        for tool, child in started:
            try:
                lines += _open_lines(name, tool, child, plan)
            except Stopped as reason:
                absent.append(Measured(name, Row(tool), note=str(reason)))
        for _ in _take_turns(lines, folder.places, plan, say):
            yield [*(line.measured for line in lines), *absent]


def _take_turns(
    lines: Sequence[_Line], places: Mapping[str, Sequence[str]], plan: Plan, say: Say
) -> Iterator[None]:
    quick, slow = ([line for line in lines if line.is_slow is wanted] for wanted in (False, True))
    for line in quick:
        _warm_up(line, places.get(line.kind, ()), plan)
        say(f"{line.result.row.label}: {line.result.note or f'{line.warm:.3g} s to warm up'}")
    yield
    for number in range(plan.rounds):
        say(f"round {number + 1} of {plan.rounds}")
        for line in quick:
            _repeat(line, plan)
        yield
    for line in slow:
        say(line.result.row.label)
        _warm_up(line, places.get(line.kind, ()), plan)
        yield


@contextmanager
def _started(name: str, tool: str, folder: Folder, plan: Plan) -> Iterator[Child | None]:
    """The tool's process, which loads while others are started; None where it cannot run."""
    entry = TOOLS[tool]
    if not entry.is_installed or (entry.needs_program and plan.exporter != "dynamo"):
        yield None
        return
    child = Child([name, tool, str(folder.path)], folder.path / f"{tool}.log")
    try:
        yield child
    finally:
        child.close()


def _open_lines(name: str, tool: str, child: Child | None, plan: Plan) -> list[_Line]:
    if child is None:
        missing = not TOOLS[tool].is_installed
        raise Stopped("not installed" if missing else "needs the default exporter")
    ready = child.receive(_READY_WITHIN)
    rows = zip(ready["rows"], ready["kinds"], strict=True)
    return [
        _Line(child, i, kind, TOOLS[tool].is_slow, Measured(name, Row(**row)))
        for i, (row, kind) in enumerate(rows)
    ]


def _warm_up(line: _Line, place: Sequence[str], plan: Plan) -> None:
    try:
        answer = line.run(bool(place), plan.limit * (_LONGER if place else 1))
    except Stopped as reason:
        line.stop(str(reason))
        return
    if place and answer:
        line.result = replace(line.result, broken=answer, verdict=judge(answer, place))
    else:
        line.result = replace(line.result, healthy=answer)
    line.warm = line.times[0]
    if not line.is_slow and (line.warm <= plan.patience or (place and line.result.row.explains)):
        line.times.clear()


def _repeat(line: _Line, plan: Plan) -> None:
    if line.result.note or (line.times and line.warm > plan.patience):
        return
    try:
        line.result = replace(line.result, healthy=line.run(False, plan.limit * _LONGER))
    except Stopped as reason:
        line.stop(str(reason))


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_NOTE else text[: _LONGEST_NOTE - 1] + "…"


def export_files(name: str, folder: Folder, exporter: str) -> None:
    """Have a process of its own export the model. Raises :class:`Stopped` with its last words."""
    command = [sys.executable, "-m", "tests.benchmarks.files", name, str(folder.path), exporter]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise Stopped(f"the export of {MODELS[name].title} failed: {lines[-1]}")
