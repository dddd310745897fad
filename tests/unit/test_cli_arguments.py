"""The parser: every option's value, and one line for what is not one."""

from __future__ import annotations

import argparse

import pytest

from alignkit import __version__
from alignkit.cli import build_parser, main


def parse(*arguments: str) -> argparse.Namespace:
    return build_parser().parse_args(arguments)


def test_defaults() -> None:
    """What a comparison does when nothing but the model is named."""
    arguments = parse("compare", "net.py:build")
    assert arguments.model == "net.py:build"
    assert arguments.exporter == "dynamo"
    assert arguments.provider == ["cpu"]
    assert arguments.optimization == "all"
    assert (arguments.seed, arguments.threads, arguments.depth, arguments.opset) == (0, None, None, None)
    assert (arguments.atol, arguments.rtol, arguments.tolerance) == (None, None, [])
    flags = (arguments.force, arguments.json, arguments.exit_zero, arguments.quiet)
    assert not any(flags)


def test_values() -> None:
    """Numbers and tolerances arrive parsed, lists in order."""
    arguments = parse(
        "compare", "m", "--inputs", "a.npz", "b.npz", "--atol", "0", "--rtol", "1e-3", "--opset", "18",
        "--tolerance", "decoder.*=1e-3,1e-5", "a=b#0*=0,1", "--depth", "2", "--seed", "9",
    )  # fmt: skip
    assert arguments.inputs == ["a.npz", "b.npz"]
    assert (arguments.atol, arguments.rtol) == (0.0, 1e-3)
    assert arguments.tolerance == [("decoder.*", (1e-3, 1e-5)), ("a=b#0*", (0.0, 1.0))]
    assert (arguments.opset, arguments.depth, arguments.seed) == (18, 2, 9)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["COMMAND", "see alignkit --help"]),
        (["compare"], ["MODEL", "name it first", "see alignkit compare --help"]),
        (["compare", "--input-shape", "2x4", "net.py:build"], ["MODEL", "name it first"]),
        (["copmare", "m"], ["invalid choice: 'copmare'", "compare"]),
        (["compare", "m", "--nonsense"], ["--nonsense"]),
        (["compare", "m", "--exporter", "onnx"], ["'onnx'", "dynamo", "torchscript", "both"]),
        (["compare", "m", "--optimization", "most"], ["'most'", "extended"]),
        (["compare", "m", "--opset", "0"], ["--opset", "'0' is not a whole number from 1 up"]),
        (["compare", "m", "--threads", "-3"], ["--threads", "from 1 up"]),
        (["compare", "m", "--depth", "two"], ["--depth", "'two'"]),
        (["compare", "m", "--seed", "-1"], ["--seed", "from 0 to"]),
        (["compare", "m", "--seed", str(2**63)], ["--seed", "from 0 to"]),
        (["compare", "m", "--atol", "-1"], ["--atol", "'-1' is not a number from 0 up"]),
        (["compare", "m", "--rtol", "nan"], ["--rtol", "'nan'"]),
        (["compare", "m", "--rtol", "inf"], ["--rtol", "'inf'"]),
        (["compare", "m", "--rtol", "small"], ["--rtol", "'small'"]),
        (["compare", "m", "--tolerance", "1e-3"], ["--tolerance", "TAP_OR_DTYPE=RTOL,ATOL"]),
        (["compare", "m", "--tolerance", "x=1"], ["'x=1'", "decoder.*=1e-3,1e-5"]),
        (["compare", "m", "--tolerance", "x=1,-2"], ["'x=1,-2'"]),
        (["compare", "m", "--tolerance", "x=1,2,3"], ["'x=1,2,3'"]),
        (["compare", "m", "--tolerance", "=1,2"], ["'=1,2'"]),
        (["report", "r", "--format", "pdf"], ["'pdf'", "html"]),
    ],
)  # fmt: skip
def test_usage_errors_are_one_line(
    arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 2 and one line that names the option and what it takes, without a screen of usage."""
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("alignkit: error: ")
    assert [word for word in words if word not in err] == []


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """--version is the package's."""
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"alignkit {__version__}\n"
