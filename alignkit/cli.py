"""The command line: arguments and exit codes. What the commands do lies in ``alignkit.commands``.

Exit codes: 0 aligned, 1 diverged, 2 usage or input error (one line on stderr; the traceback behind
it with ``ALIGNKIT_TRACEBACK=1`` in the environment), 130 interrupted.
"""

from __future__ import annotations

import argparse
import io
import math
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

from alignkit import __version__
from alignkit.errors import EXIT_USAGE, AlignkitError

TRACEBACK = "ALIGNKIT_TRACEBACK"
"""The environment variable that asks for the traceback behind an error's one line."""

_INTERRUPTED = 130  # as shells report it: 128 + SIGINT
_BROKEN_PIPE = 141  # 128 + SIGPIPE
_LARGEST_SEED = 2**63 - 1

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
    _add_compare(commands.add_parser("compare", help="compare a model with its ONNX export, layer by layer"))
    _add_capture(commands.add_parser("capture", help="run a model or an ONNX file, and dump its values"))
    _add_diff(commands.add_parser("diff", help="compare two dumps, wherever they were made"))
    _add_report(commands.add_parser("report", help="render a saved report again"))
    _add_plan(commands.add_parser("plan", help="what a comparison would take: memory, parts, time"))
    return parser


def _add_compare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="package.module:attr or path/file.py:attr: a module, a class, or a factory that returns a "
        "model, (model, args) or (model, args, kwargs); or a file: TorchScript, .pt2, ONNX or a dump",
    )
    parser.add_argument(
        "candidate", metavar="CANDIDATE", nargs="?", help="the same as --onnx, e.g. compare a.onnx b.onnx"
    )
    what = parser.add_argument_group("what is compared")
    what.add_argument("--onnx", metavar="FILE", help="an existing file, with taps or as deployed")
    _add_trust(what)
    what.add_argument(
        "--pass",
        dest="passes",
        action="append",
        metavar="NAME",
        default=[],
        help="apply this to the file and compare after it as well, in the order given: onnxsim, onnxslim, "
        "fp16, fp16:io, ort-optimize, ort-optimize:basic, quantize-static, quantize-dynamic, or "
        "script.py:function (from onnx.ModelProto to onnx.ModelProto)",
    )
    _add_inputs(what, "several are a data set: files, folders or 'patterns/*.npz'")
    what.add_argument(
        "--split",
        action="store_true",
        help="the first axis of a file's arrays counts samples: compare them one by one",
    )
    what.add_argument(
        "--candidate-inputs",
        metavar="SOURCE",
        nargs="+",
        default=[],
        help="what the deployed side is fed, where its preprocessing differs",
    )
    _add_export(parser.add_argument_group("export"))
    _add_runtime(parser.add_argument_group("runtime"))
    judging = parser.add_argument_group("taps and judging")
    _add_judging(judging)
    _add_taps(judging)
    judging.add_argument(
        "--map", metavar="FILE", help="pin taps to values of a file without taps (alignkit.map/1)"
    )
    parser.add_argument_group("machine").add_argument(
        "--max-memory",
        metavar="SIZE",
        help="for the tensors that are held at a time, e.g. 256MiB; what is beyond of the reference goes to "
        "a temporary file (default: half of what is free)",
    )
    output = parser.add_argument_group("output")
    _add_report_output(output, "models diverge")
    output.add_argument("--quiet", action="store_true", help="no progress on stderr")


def _add_trust(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--trust", action="store_true", help="unpickle MODEL where it is a pickle, which runs code from it"
    )


def _add_report_output(group: argparse._ArgumentGroup, bad: str) -> None:
    group.add_argument("-o", "--output", metavar="DIR", help="write the report folder")
    group.add_argument("--force", action="store_true", help="write into a folder that is not empty")
    group.add_argument("--json", action="store_true", help="print report.json instead of the summary")
    group.add_argument("--exit-zero", action="store_true", help=f"exit 0 also when the {bad}")


def _add_inputs(group: argparse._ArgumentGroup, several: str) -> None:
    group.add_argument(
        "--inputs",
        metavar="SOURCE",
        nargs="+",
        default=[],
        help=f".npz, .npy, .safetensors, .pt or file.py:attr; {several}",
    )
    group.add_argument(
        "--input-shape",
        metavar="NAME:1x3x224x224[:DTYPE]",
        nargs="+",
        default=[],
        help="random inputs of these shapes, where no inputs are given; with alternatives, "
        "'x:{1,4}x3x{224,256}x224', every combination",
    )
    group.add_argument(
        "--seed",
        type=_whole(0, _LARGEST_SEED),
        metavar="N",
        default=0,
        help="for random weights and inputs (default: 0)",
    )


def _add_export(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--exporter",
        choices=("dynamo", "torchscript", "both"),
        default="dynamo",
        help="dynamo is torch's default exporter (default: %(default)s)",
    )
    group.add_argument("--opset", type=_whole(1), metavar="N", help="opset version of the exported file")
    group.add_argument(
        "--dynamic",
        metavar="NAME:AXIS[=DIM]",
        nargs="+",
        default=[],
        help="dynamic axes, e.g. x:0=batch,2=height",
    )


def _add_runtime(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--backend",
        metavar="NAME",
        action="append",
        default=[],
        help="ort (the default), ort:cuda, openvino, reference, or file.py:load, a runtime of your own; "
        "to compare, repeat it for candidates side by side",
    )
    group.add_argument(
        "--provider", metavar="EP", nargs="+", default=["cpu"], help="execution providers of ort"
    )
    group.add_argument(
        "--optimization",
        choices=("all", "extended", "basic", "disable"),
        default="all",
        help="graph optimisation level that the product runs at (default: %(default)s)",
    )
    group.add_argument("--disable-optimizer", metavar="NAME", nargs="+", default=[])
    group.add_argument("--custom-ops", metavar="LIBRARY", nargs="+", default=[], help="custom-op libraries")
    group.add_argument("--threads", type=_whole(1), metavar="N", help="threads of an operator")


def _add_judging(group: argparse._ArgumentGroup) -> None:
    _add_tolerances(group, "the noise floor")
    group.add_argument("--no-noise-floor", action="store_true", help="skip the float64 runs")


def _add_tolerances(group: argparse._ArgumentGroup, default: str) -> None:
    for name in ("--atol", "--rtol"):
        group.add_argument(name, type=_parse_bound, metavar="X", help=f"judge by this instead of {default}")
    group.add_argument(
        "--tolerance",
        metavar="TAP_OR_DTYPE=RTOL,ATOL",
        nargs="+",
        type=_parse_tolerance,
        default=[],
        help="tolerance for a tap glob or a dtype",
    )


def _add_taps(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--include", metavar="GLOB", nargs="+", default=[], help="tap these modules only")
    group.add_argument("--exclude", metavar="GLOB", nargs="+", default=[], help="do not tap these")
    group.add_argument("--type", metavar="CLASS", nargs="+", default=[], help="tap modules of these classes")
    group.add_argument(
        "--depth", type=_whole(1), metavar="N", help="tap down to this depth; 1: the root's children"
    )
    group.add_argument(
        "--granularity",
        choices=("module", "op"),
        default="module",
        help="op: tap every torch function as well, not only around a culprit",
    )


def _add_capture(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="as for compare: an ONNX file runs on a backend, all else in PyTorch",
    )
    what = parser.add_argument_group("what is run")
    _add_inputs(what, "one sample, for a dump holds one run")
    _add_trust(what)
    _add_taps(parser.add_argument_group("taps of a PyTorch model"))
    _add_runtime(parser.add_argument_group("runtime of an ONNX file"))
    output = parser.add_argument_group("output")
    output.add_argument("-o", "--output", metavar="FILE", required=True, help="the dump, a safetensors file")
    output.add_argument(
        "--stats", action="store_true", help="keep statistics only, a few hundred bytes per tensor"
    )
    output.add_argument("--force", action="store_true", help="replace a file that is there already")
    output.add_argument("--quiet", action="store_true", help="no progress on stderr")


def _add_diff(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("reference", metavar="REFERENCE", help="a dump: what is right")
    parser.add_argument("candidate", metavar="CANDIDATE", help="a dump of another run on the same inputs")
    _add_tolerances(parser.add_argument_group("judging"), "the tolerances of torch.testing")
    _add_report_output(parser.add_argument_group("output"), "dumps differ")


def _add_report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="DIR_OR_JSON", help="a report folder or its report.json")
    parser.add_argument(
        "--format", choices=("text", "csv", "json", "html", "md"), default="text", help="(default: text)"
    )


def _add_plan(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL.onnx", nargs="?", help="a file, with taps or as deployed")
    parser.add_argument("--decoder", metavar="SIZE", help="instead of a file: 7B, 70B, 400B or layers=N,…")
    parser.add_argument(
        "--input-shape",
        metavar="NAME:1x3x224x224",
        nargs="+",
        default=[],
        help="sizes of the inputs' free dimensions",
    )
    parser.add_argument("--batch", type=_whole(1), metavar="N", help="rows of a decoder (default: 1)")
    parser.add_argument("--tokens", type=_whole(1), metavar="N", help="tokens of a row (default: 2048)")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), help="of a decoder (default: float32)"
    )
    machine = parser.add_argument_group("machine")
    machine.add_argument("--max-memory", metavar="SIZE", help="of the values compared at a time, e.g. 64MiB")
    machine.add_argument("--machine-memory", metavar="SIZE", help="that a decoder's shard fits (64GiB)")
    machine.add_argument("--flops", metavar="RATE", help="instead of measuring it: e.g. 50G a second")
    machine.add_argument("--bandwidth", metavar="SIZE", help="likewise, read and written: e.g. 10GB a second")
    parser.add_argument("--json", action="store_true", help="print alignkit.plan/1 instead of the tables")


def _whole(least: int, most: int | None = None) -> Callable[[str], int]:
    """The argparse type of whole numbers in a range."""

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if number < least or (most is not None and number > most):
            upto = "up" if most is None else f"to {most}"
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} {upto}")
        return number

    return parse


def _parse_bound(text: str) -> float:
    """A number that an error can be held against: finite and not negative."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 up, e.g. 1e-4")
    return number


def _parse_tolerance(text: str) -> tuple[str, tuple[float, float]]:
    name, _, pair = text.rpartition("=")
    try:
        rtol, atol = map(_parse_bound, pair.split(","))
    except (ValueError, argparse.ArgumentTypeError):
        name = ""
    if not name:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not TAP_OR_DTYPE=RTOL,ATOL with numbers from 0 up, e.g. 'decoder.*=1e-3,1e-5'"
        )
    return name, (rtol, atol)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    arguments = build_parser().parse_args(argv)
    try:
        code = _run(arguments)
        sys.stdout.flush()  # a closed pipe shows here and not at the end of the interpreter
        return code
    except AlignkitError as error:
        return _fail(error, str(error))
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
