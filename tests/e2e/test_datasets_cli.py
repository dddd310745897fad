"""Data sets and sweeps of shapes on the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from alignkit.cli import main

TORCHSCRIPT = ("--exporter", "torchscript")

MODEL = '''\
import torch
from torch import nn


class Ceiling(nn.Module):
    """In the file no value is beyond 2."""

    def forward(self, x):
        return x.clamp(max=2.0) if torch.onnx.is_in_onnx_export() else x + 0.0


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.cap, self.last = Ceiling(), nn.Linear(4, 3)

    def forward(self, x):
        return self.last(self.cap(x))


class Mean(nn.Module):
    """The number of rows is frozen into the file."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(4, 3)

    def forward(self, x):
        return self.last(x).sum(0) / len(x)


def net():
    return Net().eval()


def mean():
    return Mean().eval()
'''

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve samples, of which one shows the fault and one is damaged."""
    path = tmp_path_factory.mktemp("user")
    (path / "sets.py").write_text(MODEL)
    (path / "data").mkdir()
    rows = np.random.default_rng(0).uniform(-1, 1, (12, 4)).astype(np.float32)
    rows[7] += 2
    for index, row in enumerate(rows):
        np.savez(path / "data" / f"sample_{index:02}.npz", x=row[None])
    (path / "data" / "sample_04.npz").write_bytes(b"PK\x03\x04 cut short")
    np.savez(path / "all.npz", x=rows)
    return path


@pytest.fixture
def call(folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Call:
    """``call("compare", …)`` in this process: exit code, stdout, stderr."""
    monkeypatch.chdir(folder)

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        code = main([*map(str, arguments), *TORCHSCRIPT])
        return code, *capfd.readouterr()

    return run


def test_one_of_many_files_fails(call: Call, folder: Path) -> None:
    """The first line names it and the layer; the damaged file is named, and the rest compared."""
    code, out, _ = call("compare", "sets.py:net", "--inputs", "data/*.npz", "-o", "report")
    assert code == 1
    first = out.splitlines()[0]
    assert first.startswith("DIVERGED: 1 of 12 samples fails: data/sample_07.npz, error starts at cap")
    told = " ".join(out.split())
    assert "1 of 12 samples diverge" in told
    assert "1 could not be compared" in told
    assert "data/sample_04.npz: data/sample_04.npz cannot be read" in told
    again = "--inputs report/example.npz report/worst_sample.npz"
    assert again in told
    code, out, _ = call("compare", "sets.py:net", *again.split())
    assert code == 1
    assert out.startswith("DIVERGED: 1 of 2 samples fails: report/worst_sample.npz, error starts at cap")


def test_one_file_of_many_samples(call: Call) -> None:
    """--split compares row by row; --json holds a row per sample."""
    code, out, err = call("compare", "sets.py:net", "--inputs", "all.npz", "--split", "--json")
    assert code == 1, err
    document = json.loads(out, parse_constant=pytest.fail)
    assert [row["name"] for row in document["samples"] if not row["aligned"]] == ["all.npz[7]"]
    assert len(document["samples"]) == 12
    assert {tuple(row["shape"]) for row in document["layers"]} == {(1, 4), (1, 3)}


def test_a_sweep_finds_the_baked_in_size(call: Call) -> None:
    """Right at the export's number of rows alone, and the report says so."""
    options = ("--input-shape", "x:{2,3,5}x4", "--dynamic", "x:0=rows")
    code, out, _ = call("compare", "sets.py:mean", *options)
    assert code == 1
    assert "Fails at 2 of 3 shapes: all with x axis 0 = 3 or 5." in out
    assert "cause      trace-constant" in out


def test_shapes_that_the_file_refuses(call: Call) -> None:
    """Without --dynamic they are rows that say what to do, and no pass."""
    code, out, _ = call("compare", "sets.py:net", "--input-shape", "x:{2,3}x4")
    assert code == 1
    assert out.startswith("INCONCLUSIVE: 1 of 2 samples could not be compared (x:3x4), all others agree")
    assert "or export with dynamic axes" in " ".join(out.split())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--inputs", "data/*.npy"], ["no file matches data/*.npy", "check the pattern"]),
        (["--inputs", "data", "none.npz"], ["no file none.npz", "check the path"]),
        (["--inputs", "data/sample_04.npz", "data/sample_04.npz"], ["data/sample_04.npz cannot be read"]),
        (["--input-shape", "x:2x4", "x:3x4"], ["given two shapes", "'x:{1,4}x3'"]),
        (["--input-shape", "x:{2,3}x4", "--inputs", "data"], ["--inputs and --input-shape"]),
        (["--inputs", "data", "--candidate-inputs", "all.npz"], ["1 candidate inputs for 12 inputs"]),
    ],
)
def test_data_sets_that_cannot_be(call: Call, arguments: list[str], words: list[str]) -> None:
    """One line, exit code 2, before anything is exported."""
    code, out, err = call("compare", "sets.py:net", *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert [word for word in words if word not in err] == []
