"""Whatever is wrong with what the user gives: one clear line, exit 2, and everything as it was before."""

from __future__ import annotations

import contextlib
import copy
import os
import signal
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

import alignkit as ak
from alignkit.cli import main
from alignkit.errors import AlignkitError, AlignkitWarning, ExportError, ModelError
from alignkit.instrument import Instrument, Selection
from alignkit.isolation import run_isolated
from tests.command_line import NET, alignkit
from tests.zoo.plain import quiet_exporter

TORCHSCRIPT = ("--exporter", "torchscript")
NET_INPUT = ("net.py:net", "--input-shape", "2x4")

Fail = Callable[..., str]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the user's ``net.py`` and files that are not what they should be."""
    path = tmp_path_factory.mktemp("user")
    (path / "net.py").write_text(NET)
    (path / "broken.py").write_text("def build(:\n")
    (path / "needs.py").write_text("import a_package_that_is_not_there\n")
    (path / "text.onnx").write_text("this is no model\n" * 9)
    (path / "empty.onnx").write_bytes(b"")
    export_files(path)
    return path


class Sum(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a + b


def export_files(path: Path) -> None:
    linear = nn.Linear(4, 5)
    with quiet_exporter(), ak.Debugger(linear):
        torch.onnx.export(
            linear, (torch.ones(2, 4),), str(path / "marked.onnx"), dynamo=False, input_names=["input"]
        )
    whole = (path / "marked.onnx").read_bytes()
    (path / "half.onnx").write_bytes(whole[: len(whole) // 2])
    (path / "cut.onnx").write_bytes(whole[:-20])
    pair = Sum()
    inputs = (torch.ones(2, 4), torch.ones(2, 4))
    with quiet_exporter(), ak.Debugger(pair):
        torch.onnx.export(pair, inputs, str(path / "pair_marked.onnx"), dynamo=False, input_names=["a", "b"])
    with quiet_exporter():
        torch.onnx.export(pair, inputs, str(path / "pair.onnx"), dynamo=False, input_names=["a", "b"])


@pytest.fixture
def fail(folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Fail:
    """``fail("compare", …)``: requires exit 2, nothing on stdout, one line on stderr; returns the line."""
    monkeypatch.chdir(folder)

    def run(*arguments: str | Path) -> str:
        code = main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        assert (code, out) == (2, ""), err
        return the_line(err)

    return run


def the_line(stderr: str) -> str:
    """The message of the one line that stderr must be."""
    assert stderr.startswith("alignkit: error: ")
    assert stderr.endswith("\n")
    assert stderr.count("\n") == 1, stderr
    assert "Traceback" not in stderr
    return stderr.removeprefix("alignkit: error: ")


# --- the model ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("nowhere.py:build", ["no file nowhere.py", "check the path"]),
        ("not_a_package.at_all:build", ["module 'not_a_package.at_all' was not found", "not_a_package"]),
        ("broken.py:build", ["SyntaxError", "broken.py:1"]),
        ("needs.py:build", ["a_package_that_is_not_there", "needs.py:1", "install"]),
        ("net.py:biuld", ["net.py:biuld is not there", "did you mean 'build'"]),
        ("net.py", ["does not name an object", "net.py:attr"]),
        ("net.py:raising", ["RuntimeError: no weights and a second line", "net.py:"]),
        ("net.py:number", ["net.py:number gives int, not an nn.Module", "factory"]),
        ("net.py:wrapped", ["DataParallel", "model.module"]),
    ],
)
def test_model_that_cannot_be_loaded(fail: Fail, spec: str, words: list[str]) -> None:
    """The line says what is wrong with the model argument, where, and what to do."""
    line = fail("compare", spec, "--input-shape", "2x4", *TORCHSCRIPT)
    assert [word for word in words if word not in line] == []


def test_model_without_inputs(fail: Fail) -> None:
    """A model alone cannot be run; the line names the options that give inputs."""
    line = fail("compare", "net.py:net")
    assert "--inputs" in line
    assert "--input-shape" in line


def test_forward_that_raises(fail: Fail) -> None:
    """The forward's own exception in one line, before anything is exported."""
    line = fail("compare", "net.py:Raising", "--input-shape", "2x4", *TORCHSCRIPT)
    assert "forward raises ValueError: bad luck" in line


def test_forward_that_leaves(fail: Fail) -> None:
    """A ``sys.exit`` in the user's code is no success."""
    line = fail("compare", "net.py:Leaving", "--input-shape", "2x4", *TORCHSCRIPT)
    assert "SystemExit: from a forward" in line


def test_training_mode_is_in_the_report(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A model in training mode is compared as it is, and the report says so."""
    monkeypatch.chdir(folder)
    assert main(["compare", "net.py:training", *TORCHSCRIPT]) in (0, 1)
    out = capfd.readouterr().out
    assert "training mode" in " ".join(out.split())


# --- the inputs --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["net.py:Two", "--input-shape", "a:2x4", "c:2x4"], ["'c'", "choose from a, b"]),
        (["net.py:Two", "--input-shape", "2x4"], ["missing", "'b'"]),
        (["net.py:Two", "--input-shape", "2x4", "2x4", "2x4"], ["3 positional inputs", "takes 2 (a, b)"]),
        (["net.py:Two", "--input-shape", "2x5", "2x4"], ["2x5 and 4x4", "Check the inputs"]),
        (["net.py:Two", "--input-shape", "2x4:int64", "2x4"], ["dtype", "Check the inputs"]),
        (["net.py:net", "--input-shape", "2xx4"], ["'2xx4' is not a shape", "x:1x3x224x224"]),
        (["net.py:net", "--inputs", "none.npz"], ["no file none.npz", "check the path"]),
        (["net.py:net", "--inputs", "text.onnx"], ["text.onnx is not a .npz", "numpy.savez"]),
        (["net.py:net", "--inputs", "a.npy", "--input-shape", "2x4"], ["--inputs and --input-shape"]),
        ([*NET_INPUT, "--candidate-inputs", "net.py:samples"], ["2 candidate inputs for 1 inputs"]),
        ([*NET_INPUT, "--dynamic", "y:0"], ["--dynamic names 'y'", "inputs are x"]),
        ([*NET_INPUT, "--dynamic", "x:2"], ["axis 2 of 'x'", "has 2 axes"]),
        ([*NET_INPUT, "--dynamic", "batch"], ["'batch'", "x:0=batch"]),
    ],
)
def test_inputs_that_do_not_fit(fail: Fail, arguments: list[str], words: list[str]) -> None:
    """Wrong names, counts, shapes, dtypes, files and axes of inputs are told in the user's words."""
    line = fail("compare", *arguments, *TORCHSCRIPT)
    assert [word for word in words if word not in line] == []


# --- the ONNX file -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("none.onnx", ["no ONNX file at none.onnx", "Check the path"]),
        ("text.onnx", ["text.onnx is not an ONNX model", "Export it again"]),
        ("empty.onnx", ["empty.onnx is not an ONNX model", "Export it again"]),
        ("half.onnx", ["half.onnx", "truncated"]),
        ("cut.onnx", ["cut.onnx", "truncated"]),
        ("pair.onnx", ["ONNX input", "none of the given inputs (x)", "a, b"]),
        ("pair_marked.onnx", ["ONNX input 'b'", "none of the given inputs (x)", "a, b"]),
    ],
)
def test_file_that_cannot_be_compared(fail: Fail, file: str, words: list[str]) -> None:
    """Not there, not ONNX, cut short, or a model with other inputs."""
    line = fail("compare", *NET_INPUT, "--onnx", file, *TORCHSCRIPT)
    assert [word for word in words if word not in line] == []


def test_file_of_another_model_is_no_pass(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A marked file of another model with the same input diverges; its foreign taps are told."""
    monkeypatch.chdir(folder)
    assert main(["compare", *NET_INPUT, "--onnx", "marked.onnx", *TORCHSCRIPT]) == 1
    out = " ".join(capfd.readouterr().out.split())
    assert "missing" in out
    assert "shape [2, 5] in ONNX, [2, 3] in PyTorch" in out


def test_given_file_that_cannot_run(fail: Fail, folder: Path) -> None:
    """Of a deployed file that the runtime cannot run nothing was compared: an error, not a pass."""
    node = helper.make_node("NoSuchOperator", ["x"], ["y"], domain="custom", name="mystery")
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 4]) for name in "xy")
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("custom", 1)]
    graph = helper.make_graph([node], "graph", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), folder / "custom.onnx")
    line = fail("compare", *NET_INPUT, "--onnx", "custom.onnx", *TORCHSCRIPT)
    assert "NoSuchOperator" in line


# --- provider, options, output -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--provider", "tpu"], ["'tpu'", "available:", "CPUExecutionProvider"]),
        (["--include", "zz*"], ["no module matches", "zz*", "first (Linear), act (ReLU)"]),
        (["--type", "Conv7"], ["no module matches", "Conv7", "first (Linear), act (ReLU)"]),
        (["--include", "re:["], ["'re:['", "regular expression"]),
        (["--custom-ops", "none.so"], ["none.so cannot be loaded"]),
        (["-o", "net.py"], ["net.py", "is a file", "Name a folder"]),
        (["-o", "net.py/below"], ["net.py is a file", "Name another folder"]),
        (["-o", "."], ["is not empty", "--force"]),
    ],
)
def test_options_that_cannot_work(fail: Fail, options: list[str], words: list[str]) -> None:
    """Unknown providers, selections that match nothing, folders that are not ours."""
    line = fail("compare", *NET_INPUT, *TORCHSCRIPT, *options)
    assert [word for word in words if word not in line] == []


def test_output_is_checked_before_the_model_is_built(fail: Fail) -> None:
    """A report that could not be saved is told before the long work, even of a model that would fail."""
    assert "is not empty" in fail("compare", "net.py:raising", "-o", ".")
    assert "is a file" in fail("compare", "net.py:raising", "-o", "net.py/below", "--exporter", "both")


def test_folder_without_the_right_to_write(fail: Fail, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new folder below one that cannot be written to is refused at once (root always may write)."""
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
    line = fail("compare", "net.py:raising", "-o", "new/report")
    assert "is not writable" in line
    assert "Name another folder" in line


def test_report_that_is_not_there(fail: Fail, folder: Path) -> None:
    """``alignkit report`` of nothing, and of a file that is no report."""
    assert "no such file or folder" in fail("report", "nowhere")
    (folder / "some.json").write_text('{"a": 1}')
    assert "not a report" in fail("report", "some.json")


# --- the exporter ------------------------------------------------------------------------------


def test_exporter_failure_carries_its_reason(fail: Fail) -> None:
    """The exporter's own reason, here the operator it does not know, and not a word of its report."""
    line = fail("compare", "net.py:Unexportable", "--input-shape", "2x4", *TORCHSCRIPT)
    assert "the torchscript exporter failed" in line
    assert "special_bessel_j0" in line


def test_one_exporter_of_two_fails(folder: Path) -> None:
    """Of two exporters the one that works still gives its report; the other's reason is the line."""
    run = alignkit(
        "compare", "net.py:OnlyTorchscript", "--input-shape", "2x4", "--exporter", "both", "-o", "one",
        cwd=folder,
    )  # fmt: skip
    line = the_line(run.stderr)
    assert run.returncode == 2
    assert "the dynamo exporter failed" in line
    assert "torchscript" not in line
    assert "== torchscript exporter ==" in run.stdout
    assert not (folder / "one" / "dynamo").exists()
    assert (folder / "one" / "torchscript" / "report.json").is_file()


def test_export_that_crashes_the_interpreter(fail: Fail) -> None:
    """A segfault in the exporter ends a child; the line names the signal and the user's line."""
    number = next(i for i, text in enumerate(NET.splitlines(), 1) if "SIGSEGV" in text)
    line = fail("compare", "net.py:Crashing", "--input-shape", "2x4", *TORCHSCRIPT)
    assert "crashed the interpreter (SIGSEGV" in line
    assert f"net.py:{number}, in forward" in line
    assert "try the other exporter" in line


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
class TestIsolation:
    """``run_isolated``: what happens in the child reaches the parent, and nothing else does."""

    def test_value(self) -> None:
        """The value comes back; what the function changed or printed stays in the child."""
        changed: list[int] = []

        def function() -> tuple[int, int]:
            changed.append(1)
            return os.getpid(), len(changed)

        pid, length = run_isolated(function)
        assert pid != os.getpid()
        assert (length, changed) == (1, [])

    def test_silence(self, capfd: pytest.CaptureFixture[str]) -> None:
        """Neither Python's output nor that by descriptor is seen."""

        def function() -> None:
            print("by print")
            os.write(1, b"by descriptor")
            os.write(2, b"by descriptor")

        run_isolated(function)
        assert capfd.readouterr() == ("", "")

    @pytest.mark.parametrize("error", [ExportError("why"), KeyError("key"), SystemExit(3)], ids=repr)
    def test_exceptions_keep_type_and_traceback(self, error: BaseException) -> None:
        """Errors on purpose and bugs alike arrive as they are, the child's traceback as their cause."""

        def function() -> None:
            raise error

        with pytest.raises(type(error)) as caught:
            run_isolated(function)
        assert caught.value.args == error.args
        assert "in function\n" in str(caught.value.__cause__)

    def test_exception_that_cannot_be_sent(self) -> None:
        """An exception that pickle refuses arrives by its name and message."""

        class Local(Exception):
            pass

        def function() -> None:
            raise Local("message")

        with pytest.raises(RuntimeError, match="Local: message"):
            run_isolated(function)

    @pytest.mark.parametrize("ending", ["SIGKILL", "exit code 7"])
    def test_death(self, ending: str) -> None:
        """A child that dies is an error that says how it ended."""

        def function() -> None:
            if ending == "SIGKILL":
                os.kill(os.getpid(), signal.SIGKILL)
            os._exit(7)

        with pytest.raises(ExportError, match=ending):
            run_isolated(function)


# --- bugs --------------------------------------------------------------------------------------


def test_unexpected_exception_is_one_line(fail: Fail, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug ends in one line as well, which says how to see the traceback."""

    def bug(*arguments: Any, **options: Any) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr("alignkit.debugger.compare", bug)
    line = fail("compare", *NET_INPUT)
    assert "unexpected KeyError: 'a bug' (at " in line
    assert "ALIGNKIT_TRACEBACK=1" in line


@pytest.mark.parametrize("spec", ["net.py:raising", "net.py:Leaving"])
def test_traceback_on_request(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], spec: str
) -> None:
    """ALIGNKIT_TRACEBACK=1 shows the traceback before the line, the user's frame included."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("ALIGNKIT_TRACEBACK", "1")
    assert main(["compare", spec, "--input-shape", "2x4"]) == 2
    err = capfd.readouterr().err
    assert "Traceback (most recent call last)" in err
    assert "net.py" in err
    assert err.splitlines()[-1].startswith("alignkit: error: ")


# --- the Python API: everything as before ------------------------------------------------------


class Fragile(nn.Module):
    """Has all that a run can change, and raises where it is told to."""

    def __init__(self, where: str = "") -> None:
        super().__init__()
        self.conv = nn.Conv1d(2, 3, 1)
        self.norm = nn.BatchNorm1d(3)
        self.drop = nn.Dropout(0.5)
        self.frozen = nn.BatchNorm1d(3).eval()
        self.where = where
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        x = self.drop(self.frozen(self.norm(self.conv(x))))
        exporting = torch.onnx.is_in_onnx_export()
        if self.where == "always" or (self.where == "export" and exporting):
            raise ValueError("fragile")
        if self.where == "operator" and exporting:
            return torch.special.bessel_j0(x)
        return x


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def state(model: nn.Module) -> dict[str, Any]:
    """Everything that must be as before, in a form that compares by value."""
    return {
        "hooks": hooks(model),
        "training": [module.training for module in model.modules()],
        "tensors": {name: (id(t), t.detach().numpy().tobytes()) for name, t in tensors(model)},
        "grads": [p.grad is None and p.requires_grad for p in model.parameters()],
        "forward": [vars(module).get("forward") for module in model.modules()],
        "rng": torch.get_rng_state().numpy().tobytes(),
        "numpy": np.random.get_state()[1].tobytes(),
        "export": torch.onnx.export,
    }


def tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
@pytest.mark.parametrize("where", ["always", "export", "operator"])
def test_compare_that_fails_leaves_all_as_before(where: str, exporter: str) -> None:
    """An exception in the eager forward, in the traced one or in the exporter changes nothing."""
    model = Fragile(where)
    x = torch.randn(2, 2, 5)
    given = x.clone()
    before = state(model)
    # The default exporter then tries another way of tracing, without hooks, which does not raise.
    fails = (
        contextlib.nullcontext()
        if (where, exporter) == ("export", "dynamo")
        else pytest.raises(AlignkitError)
    )
    with fails as caught, pytest.warns(AlignkitWarning, match="training mode"):
        ak.compare(model, x, exporter=exporter)
    if caught is not None:
        assert isinstance(caught.value, ModelError) is (where == "always")
        assert ("bessel_j0" if where == "operator" else "fragile") in str(caught.value)
    assert state(model) == before
    assert torch.equal(x, given)


@pytest.mark.parametrize("training", [True, False])
def test_compare_that_succeeds_leaves_all_as_before(training: bool) -> None:
    """The same after a whole comparison; a model in training mode is still in it, submodule by submodule."""
    model = Fragile()
    if not training:
        model.eval()
    before = state(model)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        report = ak.compare(model, torch.randn(2, 2, 5, generator=torch.Generator()), exporter="torchscript")
    assert any(w.category is AlignkitWarning for w in caught) is training
    assert any("training mode" in note for note in report.notes) is training
    assert state(model) == before


def test_exception_in_the_users_block() -> None:
    """An exception in the ``with`` block passes through; hooks are gone and the exporter is restored."""
    model = Fragile().eval()
    before = state(model)
    seen = []

    def block() -> None:
        with ak.Debugger(model):
            seen.append((hooks(model) > 0, torch.onnx.export is before["export"]))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        block()
    assert seen == [(True, False)]
    assert state(model) == before


@pytest.mark.parametrize("where", ["always", "export"])
def test_exception_in_a_forward_inside_the_block(where: str, tmp_path: Path) -> None:
    """A forward that raises, eager or traced: the user's exception, and the model as after the same calls
    without a Debugger."""
    model = Fragile(where).eval()
    expected = copy.deepcopy(model)
    before = state(model)

    def calls(fragile: nn.Module) -> None:
        x = torch.ones(2, 2, 5)
        if where == "always":
            fragile(x)
        torch.onnx.export(fragile, (x,), str(tmp_path / "model.onnx"), dynamo=False)

    with quiet_exporter(), pytest.raises(ValueError, match="fragile"):
        calls(expected)
    with quiet_exporter(), pytest.raises(ValueError, match="fragile"), ak.Debugger(model):
        calls(model)
    after = state(model)
    assert [t.tolist() for _, t in tensors(model)] == [t.tolist() for _, t in tensors(expected)]
    assert {**after, "tensors": None} == {**before, "tensors": None}


def test_half_attached_hooks_are_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a module refuses a hook, those attached before it are taken off again."""
    model = Fragile()

    def refuse(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("no hooks here")

    monkeypatch.setattr(model.drop, "register_forward_pre_hook", refuse)
    with pytest.raises(RuntimeError, match="no hooks here"):
        Instrument(model, Selection(), lambda tap, value: value).__enter__()
    assert hooks(model) == 0


def test_wrapped_model() -> None:
    """DataParallel is refused with the next step, by compare and by Debugger."""
    wrapped = nn.DataParallel(nn.Linear(4, 4).eval()).eval()
    with pytest.raises(ModelError, match=r"pass model\.module"):
        ak.compare(wrapped, torch.ones(2, 4))
    with pytest.raises(ModelError, match=r"pass model\.module"), ak.Debugger(wrapped):
        pass
