"""``alignkit`` as a new user calls it: models, inputs, exporters, tolerances, reports, exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import save_file

from alignkit.cli import main
from tests.command_line import NET, alignkit, command, environment, run_python

TORCHSCRIPT = ("--exporter", "torchscript")
FILES = {"index.html", "layers.csv", "report.json"}

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the user's ``net.py``, which is imported once for all tests."""
    path = tmp_path_factory.mktemp("user")
    (path / "net.py").write_text(NET)
    return path


@pytest.fixture
def call(folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Call:
    """``call("compare", …)`` in this process: exit code, stdout, stderr."""
    monkeypatch.chdir(folder)

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        return code, *capfd.readouterr()

    return run


def compare_json(call: Call, *arguments: str | Path) -> Any:
    """The document that ``compare … --json`` prints, read strictly."""
    code, out, err = call("compare", *arguments, *TORCHSCRIPT, "--json")
    assert code in (0, 1), err
    return json.loads(out, parse_constant=pytest.fail)


# --- the model ---------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ["net.py:build", "net.py:with_kwargs", "net.py:nested"])
def test_factory_with_inputs_needs_nothing_else(call: Call, spec: str) -> None:
    """A factory that returns model and arguments is all that has to be named."""
    code, out, err = call("compare", spec, *TORCHSCRIPT)
    assert (code, err) == (0, "")
    assert out.startswith("ALIGNED: ")


@pytest.mark.parametrize(
    "spec", ["net.py:Net", "net.py:net", "net.py:net.first", "torch.nn:Identity"], ids=lambda s: s
)
def test_class_instance_submodule_and_package(call: Call, spec: str) -> None:
    """A class, a module instance, a part of one and an installed package's class take --input-shape."""
    code, out, _ = call("compare", spec, "--input-shape", "2x4", *TORCHSCRIPT)
    assert code == 0
    assert out.startswith("ALIGNED: ")


def test_same_seed_same_model(call: Call) -> None:
    """Random weights and inputs come from --seed, so that a run can be repeated."""
    runs = [
        compare_json(call, "net.py:Net", "--input-shape", "2x4", "--seed", seed)["layers"]
        for seed in ("7", "7", "8")
    ]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


# --- the inputs --------------------------------------------------------------------------------


def test_inputs_of_every_format(call: Call, folder: Path) -> None:
    """.npy, .npz, .safetensors, .pt and an attribute give one data set; each sample is named."""
    x = np.ones((2, 4), np.float32)
    np.save(folder / "a.npy", x)
    np.savez(folder / "b.npz", x=x)
    save_file({"x": torch.from_numpy(x)}, folder / "c.safetensors")
    torch.save((torch.from_numpy(x),), folder / "d.pt")
    sources = ["a.npy", "b.npz", "c.safetensors", "d.pt", "net.py:samples"]
    document = compare_json(call, "net.py:net", "--inputs", *sources)
    assert document["aligned"] is True
    names = [row["name"] for row in document["samples"]]
    assert names == [*sources[:-1], "net.py:samples[0]", "net.py:samples[1]"]


def test_candidate_inputs_show_a_preprocessing_fault(call: Call, folder: Path) -> None:
    """What the deployed side is fed may differ, and then the report finds the difference."""
    np.save(folder / "seen.npy", np.ones((2, 4), np.float32))
    np.save(folder / "fed.npy", np.full((2, 4), 255, np.float32))
    document = compare_json(call, "net.py:net", "--inputs", "seen.npy", "--candidate-inputs", "fed.npy")
    assert document["aligned"] is False
    assert document["culprits"]


# --- the export --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def both(folder: Path) -> tuple[subprocess.CompletedProcess[str], Any]:
    """One run by both exporters, with a dynamic axis, on inputs of another shape than the export's."""
    run = alignkit(
        "compare", "net.py:build", "--exporter", "both", "--dynamic", "x:0=batch", "--opset", "18",
        "--input-shape", "x:5x4", "-o", "both", "--json", cwd=folder,
    )  # fmt: skip
    return run, json.loads(run.stdout, parse_constant=pytest.fail)


def test_both_exporters_give_a_report_each(
    both: tuple[subprocess.CompletedProcess[str], Any], folder: Path
) -> None:
    """--exporter both: a document by exporter on stdout, DIR/dynamo and DIR/torchscript on disk."""
    run, documents = both
    assert (run.returncode, run.stderr) == (0, "")
    assert documents.keys() == {"dynamo", "torchscript"}
    for exporter, document in documents.items():
        assert document["settings"]["exporter"] == exporter
        saved = folder / "both" / exporter
        assert {file.name for file in saved.iterdir()} >= FILES
        assert json.loads((saved / "report.json").read_text())["layers"] == document["layers"]


def test_dynamic_axis_takes_another_shape(both: tuple[subprocess.CompletedProcess[str], Any]) -> None:
    """A file exported for a batch of 2 is compared on a batch of 5 by both exporters."""
    for document in both[1].values():
        assert document["aligned"] is True
        assert {row["shape"][0] for row in document["layers"]} == {5}


def test_fixed_axis_refuses_another_shape(call: Call) -> None:
    """Without --dynamic the same inputs do not fit, and the line says what to do."""
    code, out, err = call("compare", "net.py:build", "--input-shape", "5x4", *TORCHSCRIPT)
    assert (code, out) == (2, "")
    assert "input 'x' has shape [5, 4], the ONNX graph takes [2, 4]" in err
    assert "dynamic" in err


def test_dynamic_axes_of_nested_inputs(call: Call) -> None:
    """Tensors inside a tuple argument are named arg_0, arg_1."""
    code, _, err = call("compare", "net.py:nested", "--dynamic", "pair_0:0=n", "pair_1:0=n", *TORCHSCRIPT)
    assert (code, err) == (0, "")


def test_dynamic_shapes_have_the_form_of_the_arguments(call: Call) -> None:
    """The default exporter is told of every argument, nested ones and plain numbers too."""
    from alignkit.commands.compare import _dynamic_shapes
    from alignkit.load import ModelInputs, load_model

    loaded = load_model("net.py:nested")
    example = ModelInputs((*(loaded.args or ()), 3.0), {}, "")
    shapes = _dynamic_shapes({"pair_1": {0: "n"}}, loaded.model, example)
    assert shapes == {"pair": (None, {0: "n"}), "scale": None}


def test_given_file_is_compared(call: Call, folder: Path) -> None:
    """--onnx takes a deployed file; one whose weight was changed diverges."""
    from tests.zoo.plain import quiet_exporter
    from tests.zoo.tamper import tamper_node

    assert call("compare", "net.py:build", *TORCHSCRIPT)[0] == 0  # imports net.py
    from alignkit.load import load_model

    model = load_model("net.py:net").model
    x = torch.linspace(-1, 1, 8).reshape(2, 4)
    with quiet_exporter():
        torch.onnx.export(model, (x,), str(folder / "good.onnx"), dynamo=False, input_names=["x"])
    tamper_node(folder / "good.onnx", folder / "bad.onnx")
    np.save(folder / "x.npy", x.numpy())
    good, bad = (
        compare_json(call, "net.py:net", "--onnx", name, "--inputs", "x.npy")
        for name in ("good.onnx", "bad.onnx")
    )
    assert (good["aligned"], bad["aligned"]) == (True, False)
    assert onnx.load(folder / "good.onnx").graph.input[0].name == "x"


# --- taps and judging --------------------------------------------------------------------------


def modules(document: Any) -> set[str]:
    return {row["module"] for row in document["layers"]}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--include", "first", "la*"], {"(model)", "first", "last"}),
        (["--include", "re:(first|act)"], {"(model)", "first", "act"}),
        (["--exclude", "first"], {"(model)", "act", "last"}),
        (["--type", "ReLU"], {"(model)", "act"}),
        (["--depth", "1"], {"(model)", "first", "act", "last"}),
    ],
)
def test_selection(call: Call, options: list[str], expected: set[str]) -> None:
    """--include, --exclude (globs and re:), --type and --depth choose the tapped modules."""
    assert modules(compare_json(call, "net.py:build", *options)) == expected


@pytest.mark.parametrize(
    ("options", "aligned"),
    [
        ([], False),
        (["--atol", "1e9"], True),
        (["--rtol", "1e9"], True),
        (["--atol", "1e9", "--tolerance", "(model)#0*=0,0"], False),
        (["--tolerance", "float32=0,1e9"], True),
    ],
)
def test_tolerances(call: Call, options: list[str], aligned: bool) -> None:
    """--atol, --rtol and --tolerance replace the noise floor, the more specific one first."""
    document = compare_json(call, "net.py:Wrong", "--input-shape", "2x4", *options)
    assert document["aligned"] is aligned


def test_runtime_options_reach_the_report(call: Call) -> None:
    """Provider (by its short name), optimisation level and disabled optimizers are in the settings."""
    document = compare_json(
        call, "net.py:build", "--provider", "cpu", "--optimization", "basic",
        "--disable-optimizer", "ConstantFolding", "--threads", "1", "--no-noise-floor",
    )  # fmt: skip
    settings = document["settings"]
    assert settings["providers"] == ["CPUExecutionProvider"]
    assert settings["optimization"] == "basic"
    assert settings["disabled_optimizers"] == ["ConstantFolding"]
    assert settings["noise_floor"] is False


# --- output and exit codes ---------------------------------------------------------------------


def test_exit_codes(call: Call) -> None:
    """0 aligned, 1 diverged (0 with --exit-zero), 2 for input errors, also with --exit-zero."""
    wrong = ("compare", "net.py:Wrong", "--input-shape", "2x4", *TORCHSCRIPT)
    assert call("compare", "net.py:build", *TORCHSCRIPT)[0] == 0
    code, out, _ = call(*wrong)
    assert code == 1
    assert out.startswith("DIVERGED: ")
    assert call(*wrong, "--exit-zero")[0] == 0
    assert call("compare", "net.py:nothing", "--exit-zero")[0] == 2


def test_report_folder_and_force(call: Call, folder: Path) -> None:
    """-o writes the report; a second run into it is refused until --force, foreign files stay."""
    arguments = ("compare", "net.py:build", *TORCHSCRIPT, "-o", "report")
    code, out, _ = call(*arguments)
    assert code == 0
    assert out.rstrip().endswith(f"Report: {Path('report', 'index.html')}")
    assert {file.name for file in (folder / "report").iterdir()} >= FILES
    before = (folder / "report" / "report.json").read_bytes()
    (folder / "report" / "notes.txt").write_text("mine")
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    assert "report already holds a report" in err
    assert "--force" in err
    assert (folder / "report" / "report.json").read_bytes() == before
    assert call(*arguments, "--force")[0] == 0
    assert (folder / "report" / "report.json").read_bytes() != before  # the timings differ
    assert (folder / "report" / "notes.txt").read_text() == "mine"


def test_json_is_pure_whatever_the_user_prints(folder: Path) -> None:
    """stdout holds one strict JSON document; the factory's own output, and its children's, is on stderr."""
    run = alignkit("compare", "net.py:loud", *TORCHSCRIPT, "--json", cwd=folder)
    document = json.loads(run.stdout, parse_constant=pytest.fail)
    assert document["schema"] == "alignkit.report/1"
    assert run.returncode == 0
    assert "the factory prints" in run.stderr
    assert "a child of the factory prints" in run.stderr


def test_stdout_is_given_back(call: Call, capfd: pytest.CaptureFixture[str]) -> None:
    """After a run, and after a failed one, what this process prints goes where it went before."""
    call("compare", "net.py:loud", *TORCHSCRIPT, "--json")
    call("compare", "net.py:raising")
    os.write(1, b"by descriptor\n")
    print("by print")
    assert capfd.readouterr().out == "by descriptor\nby print\n"


@pytest.mark.usefixtures("both")
def test_closed_pipe_is_no_traceback(folder: Path) -> None:
    """``alignkit report … | head -1``: the reader may leave before the end."""
    reader, writer = os.pipe()
    os.close(reader)
    run = subprocess.run(
        command("report", "both/torchscript", "--format", "html"),
        cwd=folder, env=environment(), stdout=writer, stderr=subprocess.PIPE, timeout=60,
    )  # fmt: skip
    os.close(writer)
    assert (run.returncode, run.stderr) == (141, b"")


def test_progress_only_on_a_terminal(folder: Path) -> None:
    """A line per stage on a terminal, silenced by --quiet; stderr into a pipe stays empty."""
    pty = pytest.importorskip("pty")
    shown = {}
    for options in ((), ("--quiet",)):
        terminal, stderr = pty.openpty()
        with os.fdopen(terminal, "rb", buffering=0) as screen:
            subprocess.run(
                command("compare", "net.py:build", *TORCHSCRIPT, *options),
                cwd=folder, env=environment(), stdout=subprocess.DEVNULL, stderr=stderr, check=True,
            )  # fmt: skip
            os.set_blocking(terminal, False)
            shown[options] = screen.read() or b""
            os.close(stderr)
    assert b"export with taps" in shown[()]
    assert shown["--quiet",] == b""


# --- report, help ------------------------------------------------------------------------------

HEAVY = ("torch", "onnx", "onnxruntime", "pandas", "matplotlib")


@pytest.mark.usefixtures("both")
def test_report_renders_every_format_without_heavy_imports(folder: Path) -> None:
    """``alignkit report`` of a folder and of its report.json, in each format, without torch and the like."""
    code = f"""
import io, json, sys
from contextlib import redirect_stdout
from alignkit.cli import main

shown = {{}}
for name in ("text", "csv", "json", "html", "md"):
    with redirect_stdout(io.StringIO()) as text:
        assert main(["report", "both/dynamo/report.json", "--format", name]) == 0
    shown[name] = text.getvalue()
with redirect_stdout(io.StringIO()) as text:
    assert main(["report", "both/dynamo"]) == 0
assert text.getvalue() == shown["text"]
print(json.dumps([shown, sorted(set({HEAVY}) & set(sys.modules))]))
"""
    run = run_python(code, folder)
    assert run.stderr == ""
    shown, imported = json.loads(run.stdout)
    assert imported == []
    saved = folder / "both" / "dynamo"
    assert shown["json"] == (saved / "report.json").read_text()
    assert shown["csv"].splitlines() == (saved / "layers.csv").read_text().splitlines()
    assert shown["html"] == (saved / "index.html").read_text()
    assert shown["text"].startswith("ALIGNED")
    assert shown["md"].startswith("#")


@pytest.mark.parametrize("arguments", [["--help"], ["compare", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(folder: Path, arguments: list[str]) -> None:
    """Help answers at once: neither torch nor numpy is imported for it."""
    code = f"""
import sys
from alignkit.cli import main
try:
    main({arguments})
except SystemExit as end:
    print(end.code, sorted(set({(*HEAVY, "numpy")}) & set(sys.modules)))
"""
    run = run_python(code, folder)
    assert run.stdout.splitlines()[-1] == "0 []"
    assert run.stderr == ""


# --- interrupts --------------------------------------------------------------------------------


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("whole_group", [True, False], ids=["terminal", "kill"])
def test_interrupt_leaves_nothing_behind(folder: Path, tmp_path: Path, whole_group: bool) -> None:
    """Ctrl-C during an export: one line, exit 130, no child, temporary file or half-written report."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    started = folder / "exporting"
    arguments = ("compare", "net.py:Slow", "--input-shape", "2x4", *TORCHSCRIPT, "-o", tmp_path / "report")
    process = subprocess.Popen(
        command(*arguments), cwd=folder, env=environment({"TMPDIR": str(temporary)}),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        # A background job starts its children with Ctrl-C ignored; a user's terminal does not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    with process:
        deadline = time.monotonic() + 60
        while not started.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        (os.killpg if whole_group else os.kill)(process.pid, signal.SIGINT)
        begin = time.monotonic()
        out, err = process.communicate(timeout=60)  # ends only when the child has closed the pipes too
    assert started.exists(), err
    started.unlink()
    assert time.monotonic() - begin < 20  # the forward alone sleeps for 60 seconds
    assert (process.returncode, out, err) == (130, "", "alignkit: interrupted\n")
    assert {file.name for file in temporary.iterdir()} <= {".ses"}  # onnxruntime's own, from its import
    assert not (tmp_path / "report").exists()
