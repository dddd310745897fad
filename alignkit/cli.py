"""The command line: its commands and exit codes. What each takes and does lies in ``alignkit.commands``.

Exit codes: 0 aligned, 1 diverged, 2 usage or input error (one line on stderr; the traceback behind
it with ``ALIGNKIT_TRACEBACK=1`` in the environment), 130 interrupted.
"""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from alignkit import __version__
from alignkit.commands.arguments import add_capture, add_compare, add_diff, add_plan, add_report
from alignkit.errors import EXIT_USAGE, AlignkitError

TRACEBACK = "ALIGNKIT_TRACEBACK"
"""The environment variable that asks for the traceback behind an error's one line."""

_INTERRUPTED = 130  # as shells report it: 128 + SIGINT
_TERMINATED = 143  # likewise, by SIGTERM
_BROKEN_PIPE = 141  # 128 + SIGPIPE

_EPILOG = """\
examples:
  alignkit compare torchvision.models:resnet18 --input-shape 1x3x224x224 -o report
  alignkit compare model.py:build --exporter both --json
  alignkit compare before.onnx after.onnx --inputs sample.npz
  alignkit compare model.py:build --inputs samples/a.npz samples/b.npz --atol 1e-4 --rtol 1e-3
  alignkit compare model.py:build --backend ort --backend openvino
  alignkit compare model.py:build --inputs 'samples/*.npz' -o report
  alignkit compare model.py:build --input-shape 'x:{1,4}x3x{224,256}x{224,256}' --dynamic x:0,2,3
  alignkit report report --format md
  alignkit capture model.onnx --inputs sample.npz -o run.safetensors
  alignkit diff eager.safetensors run.safetensors -o report
  alignkit plan model.onnx --max-memory 64MiB
"""


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line: the usage of ``compare`` alone would fill a screen."""

    def error(self, message: str) -> NoReturn:
        if message.endswith("required: MODEL"):
            message += " (name it first: an option that takes several values takes all that follow)"
        self.exit(EXIT_USAGE, f"alignkit: error: {message}; see {self.prog} --help.\n")


def build_parser() -> argparse.ArgumentParser:
    """The parser; nothing heavy is imported for it."""
    parser = _Parser(
        prog="alignkit",
        description="Find the layer where a deployed ONNX model stops agreeing with its PyTorch model.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"alignkit {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add_compare(commands.add_parser("compare", help="compare a model with its ONNX export, layer by layer"))
    add_capture(commands.add_parser("capture", help="run a model or an ONNX file, and dump its values"))
    add_diff(commands.add_parser("diff", help="compare two dumps, wherever they were made"))
    add_report(commands.add_parser("report", help="render a saved report again"))
    add_plan(commands.add_parser("plan", help="what a comparison would take: memory, parts, time"))
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    arguments = build_parser().parse_args(argv)
    try:
        with _ended_in_order():
            code = _run(arguments)
        sys.stdout.flush()  # a closed pipe shows here and not at the end of the interpreter
        return code
    except AlignkitError as error:
        return _fail(error, str(error))
    except _Terminated:
        print("alignkit: terminated", file=sys.stderr)
        return _TERMINATED
    except KeyboardInterrupt:
        print("alignkit: interrupted", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:
        # The reader of our output went away; there is nobody left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    except (Exception, SystemExit) as error:  # a bug, ours or the user's: still one line
        from alignkit.load.objects import describe_error

        return _fail(error, f"unexpected {describe_error(error)}; set {TRACEBACK}=1 to see the traceback.")


class _Terminated(BaseException):
    """The process was asked to end."""


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """A request to end unwinds the stack as Ctrl-C does, so that temporary files go."""

    def end(number: int, frame: FrameType | None) -> None:
        raise _Terminated

    if threading.current_thread() is not threading.main_thread():
        yield  # no place to ask for signals
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _run(arguments: argparse.Namespace) -> int:
    """Run the command; its modules are imported only now."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A module may have any name; a terminal that cannot show a character must not end the run.
        sys.stdout.reconfigure(errors="backslashreplace")
    if arguments.command == "report":
        from alignkit.commands.report import run_report

        return run_report(arguments)
    if arguments.command == "plan":
        from alignkit.commands.plan import run_plan

        return run_plan(arguments)
    if arguments.command == "diff":
        from alignkit.commands.diff import run_diff

        return run_diff(arguments)
    if arguments.command == "capture":
        from alignkit.commands.capture import run_capture

        return run_capture(arguments)
    from alignkit.commands.compare import run_compare

    return run_compare(arguments)


def _fail(error: BaseException, message: str) -> int:
    if os.environ.get(TRACEBACK):
        traceback.print_exception(type(error), error, error.__traceback__)
    print(f"alignkit: error: {' '.join(message.split())}", file=sys.stderr)
    return EXIT_USAGE


if __name__ == "__main__":
    sys.exit(main())
