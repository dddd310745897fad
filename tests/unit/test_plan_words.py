"""What a plan prints, and the sizes and rates that it reads."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from onnx import parser

from alignkit.cli import main
from alignkit.errors import InputError
from alignkit.plan.rates import measure_rates
from alignkit.sizes import count_words, parse_flops, parse_size, seconds_words, size_words

MODEL = """<ir_version: 10, opset_import: ["" : 20, "my" : 1]>
g (float[n, 256] x) => (float[n, 256] y) {
  a = Neg(x)  a1 = my.Debug<name: string = "first">(a)
  b = Abs(a1) y = my.Debug<name: string = "second">(b)
}"""
RATES = ("--flops", "50G", "--bandwidth", "10GB")


@pytest.fixture
def model(tmp_path: Path) -> str:
    path = tmp_path / "model.onnx"
    onnx.save(parser.parse_model(MODEL), path)
    return str(path)


@pytest.mark.parametrize(
    ("text", "size"),
    [("256MiB", 2**28), ("1.5GB", 1_500_000_000), ("10kb", 10_000), ("77", 77), ("2 KiB", 2048)],
)
def test_sizes_are_read_in_both_kinds_of_units(text: str, size: int) -> None:
    """Of 1000 and of 1024, in either case; bytes without one."""
    assert parse_size(text, "--max-memory") == size


@pytest.mark.parametrize(
    ("text", "rate"), [("50G", 5e10), ("50GFLOP/s", 5e10), ("5e10", 5e10), ("1.5T", 1.5e12)]
)
def test_rates_are_read(text: str, rate: float) -> None:
    """As people write them."""
    assert parse_flops(text, "--flops") == rate


@pytest.mark.parametrize("text", ["", "MiB", "0", "-1", "1e999", "12 parsecs", "0B", "nan"])
def test_what_is_no_size_is_refused(text: str) -> None:
    """By the option's name."""
    with pytest.raises(InputError, match=r"--max-memory .* is not a size"):
        parse_size(text, "--max-memory")


def test_figures_are_short() -> None:
    """Three digits in the largest fitting unit."""
    assert [size_words(size) for size in (12, 1024, 2.5 * 2**20, 3 * 2**50)] == [
        "12 bytes",
        "1 KiB",
        "2.5 MiB",
        "3 PiB",
    ]
    assert [count_words(count) for count in (7, 3.64e9, 1.5e19)] == ["7", "3.64 G", "15 E"]
    assert count_words(0, "FLOP") == "0 FLOP"
    seconds = (0.0032, 4.5, 720.0, 12240.0, 181440.0)
    assert [seconds_words(s) for s in seconds] == ["3.2 ms", "4.5 s", "12 min", "3.4 h", "2.1 days"]


def test_rates_are_measured_unless_given() -> None:
    """And the plan says which; both are those of a machine that could run Python."""
    found = measure_rates(None, 5e9)
    assert found.measured == ("flops",)
    assert found.flops > 1e7
    assert measure_rates(1e10).bandwidth > 1e7
    assert measure_rates(1e10, 5e9).measured == ()


def test_the_text_shows_what_the_json_holds(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Taps, parts, memory and time; the JSON is strict, and its sums are those of its parts."""
    arguments = ["plan", model, "--input-shape", "x:1024x256", "--max-memory", "8MiB", *RATES]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert "x 1024x256" in text
    assert "2 parts of at most 1 MiB, 4 sessions" in text
    assert "first (1024x256 float32), 1 MiB" in text
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert found["schema"] == "alignkit.plan/1"
    assert [tap["nbytes"] for tap in found["taps"]] == [2**20, 2**20]
    assert found["tap_bytes"] == sum(part["nbytes"] for part in found["parts"]) == 2 * 2**20
    assert found["seconds"] == pytest.approx(sum(found["stages"].values()))
    assert found["rates"] == {"flops": 5e10, "bandwidth": 1e10, "measured": []}


def test_decoders_are_planned_from_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    """As a table in which equal shards share a row, and as JSON."""
    arguments = ["plan", "--decoder", "70B", "--tokens", "1024", "--dtype", "bfloat16", *RATES]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert "70.6 G parameters in bfloat16" in text
    assert "1 x 1024 tokens" in text
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    rows = [line for line in text.splitlines() if " to layer " in line or " to head" in line]
    assert 1 < len(rows) < len(found["shards"])
    assert sum(shard["units"] for shard in found["shards"]) == 82


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["MODEL"], "free dimension 'n'"),
        (["MODEL", "--input-shape", "x:4x256", "--max-memory", "1KiB"], "--max-memory 4096"),
        (["MODEL", "--input-shape", "x:4x256", "--tokens", "3"], "--tokens is for --decoder"),
        (["MODEL", "--decoder", "7B"], "name either"),
        ([], "name either"),
        (["--decoder", "7B", "--input-shape", "x:1"], "--input-shape is for a file"),
        (["--decoder", "7B", "--machine-memory", "1GiB"], "--machine-memory"),
        (["MODEL", "--input-shape", "x:4x256", "--flops", "fast"], "--flops 'fast' is not a rate"),
        (["nowhere.onnx"], "no ONNX file at nowhere.onnx"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], message: str, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """On stderr, with exit code 2; nothing is printed as a plan."""
    given = [model if argument == "MODEL" else argument for argument in arguments]
    assert main(["plan", *given, *([] if "--flops" in given else RATES)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert message in printed.err
    assert "unexpected" not in printed.err
