"""What each command takes, a function for each; nothing heavy is imported for it."""

from __future__ import annotations

from argparse import ArgumentParser

from alignkit.commands.groups import (
    Group,
    add_inputs,
    add_report_output,
    add_runtime,
    add_taps,
    add_tolerances,
    add_trust,
)
from alignkit.commands.numbers import whole


def add_compare(parser: ArgumentParser) -> None:
    """A model, the file it is held against, and all that a comparison can be told."""
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
    add_trust(what)
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
    add_inputs(what, "several are a data set: files, folders or 'patterns/*.npz'")
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
    add_runtime(parser.add_argument_group("runtime"))
    judging = parser.add_argument_group("taps and judging")
    _add_judging(judging)
    add_taps(judging)
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
    add_report_output(output, "models diverge")
    output.add_argument("--quiet", action="store_true", help="no progress on stderr")


def _add_export(group: Group) -> None:
    group.add_argument(
        "--exporter",
        choices=("dynamo", "torchscript", "both"),
        default="dynamo",
        help="dynamo is torch's default exporter (default: %(default)s)",
    )
    group.add_argument("--opset", type=whole(1), metavar="N", help="opset version of the exported file")
    group.add_argument(
        "--dynamic",
        metavar="NAME:AXIS[=DIM]",
        nargs="+",
        default=[],
        help="dynamic axes, e.g. x:0=batch,2=height",
    )


def _add_judging(group: Group) -> None:
    add_tolerances(group, "the noise floor")
    group.add_argument("--no-noise-floor", action="store_true", help="skip the float64 runs")


def add_capture(parser: ArgumentParser) -> None:
    """What runs, on which inputs, and where the dump goes."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="as for compare: an ONNX file runs on a backend, all else in PyTorch",
    )
    what = parser.add_argument_group("what is run")
    add_inputs(what, "one sample, for a dump holds one run")
    add_trust(what)
    add_taps(parser.add_argument_group("taps of a PyTorch model"))
    add_runtime(parser.add_argument_group("runtime of an ONNX file"))
    output = parser.add_argument_group("output")
    output.add_argument("-o", "--output", metavar="FILE", required=True, help="the dump, a safetensors file")
    output.add_argument(
        "--stats", action="store_true", help="keep statistics only, a few hundred bytes per tensor"
    )
    output.add_argument("--force", action="store_true", help="replace a file that is there already")
    output.add_argument("--quiet", action="store_true", help="no progress on stderr")


def add_diff(parser: ArgumentParser) -> None:
    """Two dumps and how they are judged."""
    parser.add_argument("reference", metavar="REFERENCE", help="a dump: what is right")
    parser.add_argument("candidate", metavar="CANDIDATE", help="a dump of another run on the same inputs")
    add_tolerances(parser.add_argument_group("judging"), "the tolerances of torch.testing")
    add_report_output(parser.add_argument_group("output"), "dumps differ")


def add_report(parser: ArgumentParser) -> None:
    """A saved report and the format to show it in."""
    parser.add_argument("path", metavar="DIR_OR_JSON", help="a report folder or its report.json")
    parser.add_argument(
        "--format", choices=("text", "csv", "json", "html", "md"), default="text", help="(default: text)"
    )


def add_plan(parser: ArgumentParser) -> None:
    """A file or a decoder, and the machine it is planned for."""
    parser.add_argument("model", metavar="MODEL.onnx", nargs="?", help="a file, with taps or as deployed")
    parser.add_argument("--decoder", metavar="SIZE", help="instead of a file: 7B, 70B, 400B or layers=N,…")
    parser.add_argument(
        "--input-shape",
        metavar="NAME:1x3x224x224",
        nargs="+",
        default=[],
        help="sizes of the inputs' free dimensions",
    )
    parser.add_argument("--batch", type=whole(1), metavar="N", help="rows of a decoder (default: 1)")
    parser.add_argument("--tokens", type=whole(1), metavar="N", help="tokens of a row (default: 2048)")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), help="of a decoder (default: float32)"
    )
    machine = parser.add_argument_group("machine")
    machine.add_argument("--max-memory", metavar="SIZE", help="as compare takes it, e.g. 256MiB")
    machine.add_argument("--machine-memory", metavar="SIZE", help="that a decoder's shard fits (64GiB)")
    machine.add_argument("--flops", metavar="RATE", help="instead of measuring it: e.g. 50G a second")
    machine.add_argument("--bandwidth", metavar="SIZE", help="likewise, read and written: e.g. 10GB a second")
    parser.add_argument("--json", action="store_true", help="print alignkit.plan/1 instead of the tables")
