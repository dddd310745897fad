"""Progress: the lines on a terminal, the silence elsewhere, the seconds in the report."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator

import pytest

from alignkit.progress import Progress, format_seconds


class Terminal(io.StringIO):
    """A text stream that says it is a terminal, and in which encoding."""

    def __init__(self, encoding: str = "utf-8") -> None:
        super().__init__()
        self._encoding = encoding

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._encoding

    def isatty(self) -> bool:
        return True


def ticking(*times: float) -> Callable[[], float]:
    """A clock that shows the given times, one per look."""
    remaining: Iterator[float] = iter(times)
    return lambda: next(remaining)


def test_a_stage_is_one_line_with_count_name_and_time() -> None:
    """While it runs the line is open; when it is over the same line is written again with its time."""
    terminal = Terminal()
    progress = Progress(6, stream=terminal, clock=ticking(10.0, 11.24))
    with progress.stage("run probe"):
        assert terminal.getvalue() == "[1/6] run probe …"
    assert terminal.getvalue() == "[1/6] run probe …\r[1/6] run probe … 1.2 s\n"


def test_stages_are_counted_in_order() -> None:
    """The count goes up by one per stage, and past a total that was guessed too low."""
    terminal = Terminal()
    progress = Progress(1, stream=terminal, clock=ticking(0, 1, 1, 2))
    for name in ("export", "run"):
        with progress.stage(name):
            pass
    assert "[1/1] export … 1.0 s\n" in terminal.getvalue()
    assert "[2/2] run … 1.0 s\n" in terminal.getvalue()


def test_without_a_total_only_the_count_is_shown() -> None:
    """Nobody has to know the number of stages in advance."""
    terminal = Terminal()
    with Progress(stream=terminal, clock=ticking(0, 1)).stage("export"):
        pass
    assert terminal.getvalue().endswith("\r[1] export … 1.0 s\n")


@pytest.mark.parametrize("quiet", [False, True])
def test_nothing_is_printed_unless_to_a_terminal_and_wanted(quiet: bool) -> None:
    """A pipe or file gets no line, nor does a terminal when quiet; the times are there all the same."""
    stream = Terminal() if quiet else io.StringIO()
    progress = Progress(2, quiet=quiet, stream=stream, clock=ticking(3.0, 5.5))
    with progress.stage("export"):
        pass
    assert stream.getvalue() == ""
    assert progress.timings == {"export": 2.5}


def test_standard_error_is_the_default(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lines go to standard error, so that standard output stays free for results."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress().stage("export"):
        pass
    assert "[1] export" in terminal.getvalue()
    assert capsys.readouterr().out == ""


def test_a_process_without_standard_error_is_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """``sys.stderr`` may be None; the times are taken and nothing fails."""
    monkeypatch.setattr(sys, "stderr", None)
    progress = Progress(clock=ticking(0.0, 1.0))
    with progress.stage("export"):
        pass
    assert progress.timings == {"export": 1.0}


def test_a_failed_stage_is_timed_says_so_and_lets_the_error_through() -> None:
    """The exception is not swallowed, the line says failed, and later stages go on counting."""
    terminal = Terminal()
    progress = Progress(2, stream=terminal, clock=ticking(0.0, 1.0, 2.0, 4.0))
    with pytest.raises(ValueError, match="broken"), progress.stage("export"):
        raise ValueError("broken")
    with progress.stage("run"):
        pass
    assert "\r[1/2] export … failed after 1.0 s\n" in terminal.getvalue()
    assert terminal.getvalue().endswith("[2/2] run … 2.0 s\n")
    assert progress.timings == {"export": 1.0, "run": 2.0}


def test_an_interrupt_closes_the_line_too() -> None:
    """After Ctrl-C the shell's prompt starts on a line of its own."""
    terminal = Terminal()
    progress = Progress(stream=terminal, clock=ticking(0.0, 1.0))
    with pytest.raises(KeyboardInterrupt), progress.stage("export"):
        raise KeyboardInterrupt
    assert terminal.getvalue().endswith("failed after 1.0 s\n")


def test_a_stage_inside_another_is_indented_and_both_are_timed() -> None:
    """The inner stage gets its own line and is not counted; the outer line is written again whole."""
    terminal = Terminal()
    progress = Progress(2, stream=terminal, clock=ticking(0.0, 1.0, 2.0, 5.0, 5.0, 6.0))
    with progress.stage("diagnose"), progress.stage("bisect"):
        pass
    with progress.stage("report"):
        pass
    assert terminal.getvalue() == (
        "[1/2] diagnose …\n"
        "  bisect …\r  bisect … 1.0 s\n"
        "\r[1/2] diagnose … 5.0 s\n"
        "[2/2] report …\r[2/2] report … 1.0 s\n"
    )
    assert progress.timings == {"diagnose": 5.0, "bisect": 1.0, "report": 1.0}


def test_a_nested_failure_closes_both_lines() -> None:
    """An error in an inner stage is told on both lines, and the next stage is again a counted one."""
    terminal = Terminal()
    progress = Progress(2, stream=terminal, clock=ticking(0.0, 1.0, 2.0, 3.0, 3.0, 4.0))
    with pytest.raises(ValueError, match="inner"), progress.stage("diagnose"), progress.stage("bisect"):
        raise ValueError("inner")
    with progress.stage("report"):
        pass
    assert "  bisect … failed after 1.0 s\n\r[1/2] diagnose … failed after 3.0 s\n" in terminal.getvalue()
    assert terminal.getvalue().endswith("[2/2] report … 1.0 s\n")


def test_a_stage_entered_again_adds_up() -> None:
    """Timings are seconds per stage name, in the order of first entry."""
    progress = Progress(quiet=True, clock=ticking(0.0, 1.0, 1.0, 3.0, 3.0, 7.0))
    for name in ("run", "compare", "run"):
        with progress.stage(name):
            pass
    assert list(progress.timings.items()) == [("run", 5.0), ("compare", 2.0)]


def test_the_timings_are_a_copy() -> None:
    """Changing what ``timings`` gave does not change what it gives next."""
    progress = Progress(quiet=True, clock=ticking(0.0, 1.0))
    with progress.stage("run"):
        pass
    progress.timings.clear()
    assert progress.timings == {"run": 1.0}


def test_the_real_clock_measures_seconds() -> None:
    """The default clock moves forward and counts seconds, not milliseconds."""
    progress = Progress(quiet=True)
    with progress.stage("nothing"):
        pass
    assert 0.0 <= progress.timings["nothing"] < 1.0


def test_a_terminal_without_unicode_gets_three_dots() -> None:
    """Where the terminal's encoding cannot show an ellipsis, three dots stand for it."""
    terminal = Terminal("ascii")
    with Progress(stream=terminal, clock=ticking(0, 1)).stage("export"):
        pass
    assert terminal.getvalue() == "[1] export ...\r[1] export ... 1.0 s\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0.0 s"),
        (1.24, "1.2 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (125.4, "2 min 05 s"),
        (3599.7, "60 min 00 s"),
    ],
)
def test_durations_read_well(seconds: float, text: str) -> None:
    """Tenths below a minute, minutes and seconds above, and never 60 s."""
    assert format_seconds(seconds) == text
