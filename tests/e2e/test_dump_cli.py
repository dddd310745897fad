"""``alignkit capture`` and ``alignkit diff`` as a user types them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import pytest
import torch

from alignkit.cli import main
from alignkit.dump import read_dump
from alignkit.export import export_model
from alignkit.instrument import Selection
from tests.command_line import NET, alignkit, run_python

# Ten lines of numpy that write a dump, as the README shows them.
NUMPY = """\
import json
import numpy as np
from safetensors.numpy import save_file

x = np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)
taps = {"hidden": np.tanh(x), "y": np.tanh(x) * 2}
about = {"schema": "alignkit.dump/1", "tier": "full", "producer": "numpy",
         "taps": [{"name": name} for name in taps], "inputs": [{"name": "x"}]}
tensors = {"input/x": x, **{f"tap/{name}": value for name, value in taps.items()}}
save_file(tensors, "numpy.safetensors", metadata={"alignkit.dump": json.dumps(about)})
"""
MODEL = (
    NET
    + """

def changed():
    model, x = build()
    with torch.no_grad():
        model.last.bias += 0.5
    return model, x


torch.manual_seed(0)
_state = Net().state_dict()
_build = build


def build():
    model, x = _build()
    model.load_state_dict(_state)
    return model, x
"""
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The user's file, an input, a marked and a plain export, and dumps of all of them."""
    folder = tmp_path_factory.mktemp("dumps")
    (folder / "net.py").write_text(MODEL, encoding="utf-8")
    namespace: dict[str, object] = {"__name__": "net"}
    exec(compile(MODEL, "net.py", "exec"), namespace)
    model, x = namespace["build"]()  # type: ignore[operator]
    np.savez(folder / "x.npz", x=x.numpy())
    options = {"input_names": ["x"], "output_names": ["y"]}
    for name, selection in (("marked", Selection()), ("plain", None)):
        path = folder / f"{name}.onnx"
        export_model(
            model, (x,), {}, path, exporter="torchscript", options=options, selection=selection, known={}
        )
        # told by content, not by name
        path.rename(folder / name)
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.chdir(folder)
    for arguments in (
        ("net.py:build", "-o", "eager"),
        ("net.py:build", "-o", "eager-stats", "--stats"),
        ("net.py:changed", "-o", "changed"),
        ("marked", "--inputs", "x.npz", "-o", "ort"),
        ("plain", "--inputs", "x.npz", "-o", "values", "--optimization", "disable"),
    ):
        assert main(["capture", *arguments]) == 0
    monkeypatch.undo()
    return folder


class Run(NamedTuple):
    """What a call printed, and its exit code."""

    code: int
    out: str
    err: str


Call = Callable[..., Run]


@pytest.fixture
def call(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """``call("diff", …)`` in the folder, in this process: a new one imports torch for seconds."""
    monkeypatch.chdir(folder)

    def run(*arguments: str | Path) -> Run:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return Run(code, *capsys.readouterr())

    return run


def refused(run: Run) -> str:
    """The one line of a run that exits with 2 and prints nothing else."""
    assert (run.code, run.out) == (2, ""), run.out + run.err
    assert run.err.startswith("alignkit: error: ")
    assert run.err.count("\n") == 1
    return run.err


def test_capture_says_what_it_wrote(folder: Path) -> None:
    """One line on standard output; what the model prints goes elsewhere."""
    run = alignkit("capture", "net.py:loud", "-o", "loud", "--depth", "1", cwd=folder)
    assert run.returncode == 0
    assert run.stdout.startswith("loud: 8 taps of eager PyTorch, full tensors, ")
    assert "the factory prints" in run.stderr


def test_an_eager_dump_tells_the_taps(folder: Path) -> None:
    """Order, types, owners, source lines, what each reads, the inputs."""
    dump = read_dump(folder / "eager")
    assert list(dump.taps)[-1] == "(model)#0[0]"
    first = dump.taps["first#0[0]"]
    assert (first.module_type, first.owner, first.reads) == ("Linear", "first", ("first#0:in[0]",))
    assert first.source is not None
    assert first.source.text == "return self.last(self.act(self.first(x)))"
    assert list(dump.inputs) == ["x"]
    assert dump.about.versions["torch"] == torch.__version__
    assert dump.about.outputs == ("(model)#0[0]",)


@pytest.mark.parametrize("reference", ["eager", "eager-stats"])
def test_eager_against_the_marked_file(call: Call, reference: str) -> None:
    """The same run in another runtime is aligned, from full tensors and from statistics."""
    run = call("diff", reference, "ort")
    assert run.code == 0, run.out + run.err
    assert run.out.startswith("ALIGNED: 5 of 5 taps compared")
    assert "errors are propagated" in " ".join(run.out.split())


@pytest.mark.parametrize("reference", ["eager", "eager-stats"])
def test_a_changed_weight_is_where_it_starts(call: Call, reference: str, tmp_path: Path) -> None:
    """Exit 1, the layer with its line of code, and a report folder; exit 0 where asked for."""
    run = call("diff", reference, "changed", "-o", tmp_path / "report")
    assert run.code == 1
    assert run.out.startswith("DIVERGED: error starts at last")
    assert "unknown (low confidence)" in run.out
    assert "its inputs agree (last#0:in[0])" in " ".join(run.out.split())
    assert (tmp_path / "report" / "index.html").is_file()
    document = call("diff", reference, "changed", "--json", "--exit-zero")
    assert document.code == 0
    report = json.loads(document.out)
    assert report["culprits"][0]["tap"] == "last#0[0]"
    assert {row["introduced_max_abs"] for row in report["layers"]} == {None}
    assert call("diff", reference, "changed", "--atol", "1").code == 0


def test_values_of_a_plain_file(folder: Path) -> None:
    """By their ONNX names; the file's output under its own."""
    dump = read_dump(folder / "values")
    assert list(dump.taps)[-1] == "y"
    assert dump.about.outputs == ("y",)
    assert dump.taps["y"].op == "Gemm"
    marked = read_dump(folder / "ort")
    expected = marked.tensor(marked.taps["(model)#0[0]"])
    np.testing.assert_allclose(dump.tensor(dump.taps["y"]), expected, rtol=1e-6)


def test_before_and_after_a_change_of_the_file(folder: Path, call: Call, tmp_path: Path) -> None:
    """Two dumps of two files are joined by the names of their values; the changed node is named."""
    model = onnx.load(folder / "plain")
    bias = next(t for t in model.graph.initializer if t.name == "last.bias")
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + 1, bias.name))
    onnx.save(model, tmp_path / "changed.onnx")
    inputs = ("--inputs", folder / "x.npz")
    changed, new = tmp_path / "changed.onnx", tmp_path / "new"
    assert call("capture", changed, *inputs, "-o", new).code == 0
    run = call("diff", "values", new)
    assert run.code == 1
    assert run.out.startswith("DIVERGED: error starts at y (Gemm)")


def test_ten_lines_of_numpy_write_a_dump(tmp_path: Path) -> None:
    """What the README shows runs as written, and alignkit reads it."""
    assert len(NUMPY.splitlines()) == 10
    assert run_python(NUMPY, tmp_path).returncode == 0
    dump = read_dump(tmp_path / "numpy.safetensors")
    assert (list(dump.taps), list(dump.inputs), dump.about.producer) == (["hidden", "y"], ["x"], "numpy")
    run = alignkit("diff", "numpy.safetensors", "numpy.safetensors", cwd=tmp_path)
    assert run.returncode == 0
    assert run.stdout.startswith("ALIGNED: 2 of 2 taps compared")


def test_diff_loads_no_torch_and_no_runtime(folder: Path) -> None:
    """Dumps are compared on machines that have none of it."""
    code = (
        "import sys\nfrom alignkit.cli import main\nmain(['diff', 'eager', 'eager-stats'])\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'pandas', 'matplotlib'}\n"
        "print('loaded:', sorted(heavy & {name.split('.')[0] for name in sys.modules}))"
    )
    run = run_python(code, folder)
    assert run.stdout.splitlines()[0].startswith("ALIGNED")
    assert run.stdout.splitlines()[-1] == "loaded: []"


def test_an_existing_file_is_not_overwritten(folder: Path, call: Call) -> None:
    """Told before the model is built; --force replaces it."""
    before = (folder / "eager").read_bytes()
    assert "is there already" in refused(call("capture", "net.py:raising", "-o", "eager"))
    assert (folder / "eager").read_bytes() == before
    arguments = ("capture", "net.py:build", "-o", "again")
    assert call(*arguments).code == 0
    assert call(*arguments, "--force").code == 0


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("missing.onnx", "--inputs", "x.npz"), "no ONNX file at missing.onnx"),
        (("x.npz", "--inputs", "x.npz"), "x.npz is not an ONNX model"),
        (("net.py",), "does not name an object"),
        (("net.py:Net",), "no inputs for net.py:Net: give --inputs or --input-shape"),
        (("plain",), "no inputs for plain, which takes x: give --inputs or --input-shape"),
        (("plain", "--input-shape", "z:2x4"), "has an input 'z', unknown to the model"),
        (("plain", "--input-shape", "x:2x5"), "input 'x' has shape [2, 5], the ONNX graph takes"),
        (("net.py:build", "--inputs", "x.npz", "x.npz"), "a dump holds one run, but 2 samples are given"),
        (("net.py:build", "--inputs", "x.npz", "--input-shape", "2x4"), "give one of them"),
        (("plain", "--inputs", "x.npz", "--provider", "nonsense"), "no execution provider 'nonsense'"),
    ],
)
def test_what_capture_refuses(folder: Path, call: Call, arguments: tuple[str, ...], complaint: str) -> None:
    """One line, exit 2, and no file."""
    assert complaint in refused(call("capture", *arguments, "-o", "refused"))
    assert not (folder / "refused").exists()


@pytest.mark.parametrize(
    ("candidate", "complaint"),
    [
        ("missing", "there is no file missing"),
        ("x.npz", "is not a dump: it is no safetensors file"),
        ("plain", "is not a dump: it is no safetensors file"),
        ("values", "eager and values have no tap in common"),
        ("cut", "cut is damaged or cut short"),
        (
            "other-inputs",
            "the two runs were fed different inputs: 'x' differs between eager and other-inputs",
        ),
    ],
)
def test_what_diff_refuses(folder: Path, call: Call, candidate: str, complaint: str) -> None:
    """One line, exit 2."""
    (folder / "cut").write_bytes((folder / "eager").read_bytes()[:-5])
    if not (folder / "other-inputs").exists():
        arguments = ("net.py:net", "--input-shape", "x:2x4", "-o", "other-inputs")
        assert call("capture", *arguments).code == 0
    assert complaint in refused(call("diff", "eager", candidate))
