"""The benchmark says what it measured: the table, the reading of answers, the broken file, the processes."""

from __future__ import annotations

import gc
import mmap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from tests.benchmarks import compared
from tests.benchmarks.broken import break_node
from tests.benchmarks.chain import Point, describe_flatness
from tests.benchmarks.files import PLAIN, Folder, make_files
from tests.benchmarks.measuring import Child, Plan, Stopped, measure_model
from tests.benchmarks.memory import peak_bytes, reset_peak, resident_bytes
from tests.benchmarks.models import DEFAULT, MODELS, Fault
from tests.benchmarks.peers import TOOLS, Case, Run, Tool
from tests.benchmarks.records import (
    FIRST_RUNS,
    MODULE_TAPS,
    NAMED,
    OP_TAPS,
    RUNS,
    SESSIONS,
    Answer,
    Measured,
    Row,
    judge,
)
from tests.benchmarks.table import render, render_legend

GIB = 2**30
SPOILT = "conv2d_1", "2"  # the second convolution of the tiny model: its value, its module


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """The tiny model's files, by the default exporter."""
    made = Folder(tmp_path_factory.mktemp("benchmarks") / "tiny")
    make_files("tiny", made)
    return made


def runs_of(tool: str, folder: Folder) -> dict[str, Run]:
    """The rows of ``tool``; the test is skipped, by the tool's name, where it is not installed."""
    if not TOOLS[tool].is_installed:
        pytest.skip(f"{tool} is not installed")
    return {run.row.label: run for run in TOOLS[tool].prepare(Case(folder, MODELS["tiny"]))}


def answer_of(run: Run, *, broken: bool) -> Answer:
    """What the tool says of the file."""
    answer = run.call(broken)
    assert answer is not None
    return answer


def weights(path: Path) -> dict[str, np.ndarray]:
    """Node -> its first constant."""
    model = onnx.load(path)
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    read = {node.name: [constants[n] for n in node.input if n in constants] for node in model.graph.node}
    return {name: values[0] for name, values in read.items() if values}


@pytest.mark.parametrize("kind", [PLAIN, MODULE_TAPS, OP_TAPS])
def test_broken_file_differs_in_one_constant_of_one_node(folder: Folder, kind: str) -> None:
    """All other nodes read what they read before; the place is known by its value and by its module."""
    healthy, broken = weights(folder.graph(kind)), weights(folder.graph(kind, broken=True))
    changed = [name for name in healthy if not np.array_equal(healthy[name], broken[name])]
    assert healthy.keys() == broken.keys()
    assert len(changed) == 1
    np.testing.assert_allclose(broken[changed[0]], healthy[changed[0]] * 1.01, rtol=1e-6)
    assert set(SPOILT) <= set(folder.places[kind])


def test_broken_file_runs_and_is_wrong(folder: Folder) -> None:
    """It is loaded with the weights of its twin, and its output is another."""
    x = MODELS["tiny"].build()[1][0].numpy()
    paths = [folder.graph(PLAIN), folder.graph(PLAIN, broken=True)]
    healthy, broken = (
        onnxruntime.InferenceSession(str(path)).run(None, {"input": x})[0]  # type: ignore[index]
        for path in paths
    )
    assert not np.allclose(healthy, broken, rtol=1e-4)


def test_no_such_node_is_an_error(folder: Folder, tmp_path: Path) -> None:
    """A benchmark of a fault that was not made would praise everybody who finds nothing."""
    source = folder.graph(PLAIN)
    with pytest.raises(ValueError, match="no Gemm with a constant in nowhere"):
        break_node(source, source.with_name("other.onnx"), Fault("nowhere", "Gemm", 2.0))
    with pytest.raises(ValueError, match="must lie beside"):
        break_node(source, tmp_path / "other.onnx", Fault("2", "Conv", 2.0))


# What each tool is known to say of this small model; the rows of alignkit blame the module alone.
FIRST_OF = {
    "alignkit": {
        "alignkit": NAMED,
        "alignkit, noise floor": NAMED,
        "alignkit, file without taps": NAMED,
        "alignkit, op taps": NAMED,
    },
    # Weights of several equal axes are not found by name, and nodes that read them are not run again.
    "onnx-diagnostic": {"onnx-diagnostic": "first of 3", "onnx-diagnostic, second run": "nothing found"},
    "polygraphy": {"Polygraphy": "first of 3"},
    "torch": {"torch verification": "first of 3"},
}


@pytest.mark.filterwarnings("ignore")  # what the tools themselves warn of
@pytest.mark.parametrize("tool", FIRST_OF)
def test_answers_of_tools(tool: str, folder: Folder, request: pytest.FixtureRequest) -> None:
    """Nothing is found in the healthy file, and of the broken one the place is found as the table says."""
    runs = runs_of(tool, folder)
    gc.freeze()  # torch collects garbage twice per value, which takes long in a process of many tests
    request.addfinalizer(gc.unfreeze)
    assert runs.keys() == FIRST_OF[tool].keys()
    for label, run in runs.items():
        healthy, broken = answer_of(run, broken=False), answer_of(run, broken=True)
        assert (healthy.found, healthy.compared > 0) == ((), True), label
        assert judge(broken, folder.places[run.kind]) == FIRST_OF[tool][label]
        assert healthy.compared == broken.compared


def test_floor_does_its_work(folder: Folder) -> None:
    """Three floors at module taps and one at operations, each of which runs and answers nothing."""
    runs = runs_of("floor", folder)
    assert [(run.row.taps, run.row.floor) for run in runs.values()] == [
        (MODULE_TAPS, SESSIONS),
        (MODULE_TAPS, FIRST_RUNS),
        (MODULE_TAPS, RUNS),
        (OP_TAPS, SESSIONS),
    ]
    for run in runs.values():
        run.before()
        assert run.call(False) is None


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Answer(9, ("b",), "b"), NAMED),
        (Answer(9, ("B",), "d"), NAMED),
        (Answer(9, ("b", "c"), "c"), "first of 2"),
        (Answer(9, ("a", "b"), "b"), "worst of 2, first a"),
        (Answer(9, ("a", "b"), "a"), "no: 2 found, first a"),
        (Answer(9, ("a",), "a"), "no: 1 found, first a"),
        (Answer(9, (), "b"), "nothing found"),
        (Answer(0, (), ""), "nothing compared"),
    ],
)
def test_only_the_node_alone_counts_as_named(answer: Answer, expected: str) -> None:
    """Whoever finds others too has not said which."""
    assert judge(answer, ("b", "B")) == expected


def measured(
    label: str, *seconds: float, taps: str = MODULE_TAPS, floor: str = "", **rest: object
) -> Measured:
    """A row of the tiny model."""
    return Measured("tiny", Row(label, taps, floor), seconds, peak=2 * GIB, before=GIB, **rest)  # type: ignore[arg-type]


RESULTS: Sequence[Measured] = (
    measured("floor", 1.0, 9.0, 1.0, floor=SESSIONS),
    measured("floor, first runs", 0.75, floor=FIRST_RUNS),
    measured("floor, runs again", 0.5, floor=RUNS),
    measured("floor, op taps", 2.0, taps=OP_TAPS, floor=SESSIONS),
    measured("alignkit", 1.25, 1.5, 7.0, healthy=Answer(9, (), "a", taps=14), verdict=NAMED),
    measured("alignkit, op taps", 5.0, taps=OP_TAPS),
    measured("slow", 30.0, healthy=Answer(8, ("a", "b"), "a"), verdict="no: 2 found, first a"),
    measured("once", 3.0, broken=Answer(8, ("a",), "a"), verdict="no: 1 found, first a"),
    measured("blind", 3.0, healthy=Answer(0, (), "")),
    Measured("tiny", Row("absent"), note="not installed"),
)


def test_table() -> None:
    """Medians, ratios to alignkit and to the floor with the same taps, and in words what is not there."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in render(RESULTS).splitlines()]
    assert {len(row) for row in rows} == {11}
    by_label = {row[1]: row[2:] for row in rows[2:]}
    assert rows[2][0] == "three convolutions"
    assert {row[0] for row in rows[3:]} == {""}
    memory = "2.00 GiB (+1.00 GiB)"
    assert by_label == {
        "floor": ["1 s", "0.67", "1.00", "1.33", "2.00", memory, "–", "–", "–"],
        "floor, first runs": ["0.75 s", "0.50", "0.75", "1.00", "1.50", memory, "–", "–", "–"],
        "floor, runs again": ["0.5 s", "0.33", "0.50", "0.67", "1.00", memory, "–", "–", "–"],
        "floor, op taps": ["2 s", "1.33", "1.00", "–", "–", memory, "–", "–", "–"],
        "alignkit": ["1.5 s", "1.00", "1.50", "2.00", "3.00", memory, "9 (14 taps)", "nothing", "**named**"],
        "alignkit, op taps": ["5 s", "3.33", "2.50", "–", "–", memory, "–", "–", "–"],
        "slow": ["30 s", "20.00", "30.00", "40.00", "60.00", memory, "8", "2", "no: 2 found, first a"],
        "once": ["3 s", "2.00", "3.00", "4.00", "6.00", memory, "8", "–", "no: 1 found, first a"],
        "blind": ["3 s", "2.00", "3.00", "4.00", "6.00", memory, "nothing", "–", "–"],
        "absent": ["not installed", *["–"] * 8],
    }


def test_legend_names_versions() -> None:
    """Of Python, of what all tools use, and of the peers that are there."""
    legend = render_legend(compared.versions(["torch"]), 15.0, 2)
    assert f"onnxruntime {onnxruntime.__version__}" in legend
    assert "polygraphy" not in legend


def test_a_tool_that_is_missing_is_skipped_by_name(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its row says so, the others go on, and the command succeeds; so does one that needs another file."""
    monkeypatch.setitem(compared.TOOLS, "polygraphy", Tool("nowhere", "no_such_package", "no-such"))
    arguments = ["--models", "tiny", "--tools", "polygraphy", "--keep", str(folder.path.parent)]
    (folder.path.parent / "tiny-dynamo").symlink_to(folder.path)
    assert compared.main(arguments) == 0
    assert "| polygraphy | not installed | – |" in capsys.readouterr().out
    monkeypatch.undo()
    *_, (found,) = measure_model("tiny", folder, ["torch"], Plan(exporter="torchscript"))
    assert found.note == "needs the default exporter"


def test_a_tool_in_its_own_process(folder: Folder) -> None:
    """Two rounds behind a warm-up on the broken file, whose answer is judged."""
    warm, *_, rows = measure_model("tiny", folder, ["alignkit"], Plan(rounds=2))
    assert all(row.verdict == NAMED and not row.seconds for row in warm)
    assert [len(row.seconds) for row in rows] == [2] * 4
    assert {row.verdict for row in rows} == {NAMED}
    assert all(row.healthy is not None and row.peak >= row.before > 0 for row in rows)


def test_a_run_beyond_its_limit_is_stopped(folder: Folder, tmp_path: Path) -> None:
    """The process is ended; the tool's other rows get a new one."""
    child = Child(["tiny", "floor", str(folder.path)], tmp_path / "log")
    with pytest.raises(Stopped, match="stopped after 0 s"):
        child.receive(0.0)
    assert child.ask({"run": 1, "broken": False}, 60)["seconds"] > 0
    child.close()


def test_a_process_that_dies_leaves_its_last_words(tmp_path: Path) -> None:
    """A tool that cannot load is a row with the reason, not a benchmark that hangs."""
    child = Child(["no such model", "floor", str(tmp_path)], tmp_path / "log")
    with pytest.raises(Stopped, match="failed: KeyError: 'no such model'"):
        child.receive(60)
    child.close()


def test_peak_memory_is_since_the_reset() -> None:
    """What was held before and given back is not counted again."""
    reset_peak()
    before = resident_bytes()
    with mmap.mmap(-1, 2**25) as fresh:  # an allocator may have at hand what is resident already
        fresh[:: mmap.PAGESIZE] = b"1" * (2**25 // mmap.PAGESIZE)
    assert peak_bytes() - before >= 0.9 * 2**25  # the system counts by the page, and late
    reset_peak()
    assert peak_bytes() - resident_bytes() < 0.5 * 2**25


def test_flatness_is_of_figures_per_tap() -> None:
    """Of time and memory apart; the first length also left out."""
    points = [
        Point(100, 100, 1.0, 100, 0.0),
        Point(1000, 1000, 5.0, 1000, 0.0),
        Point(5000, 5000, 20.0, 10000, 0.0),
    ]
    assert describe_flatness(points) == (
        "Per tap, dearest length over cheapest: time 2.50 (1.25 without the first), "
        "memory 2.00 (2.00 without the first)."
    )


def test_models_of_the_issue_are_there() -> None:
    """The default set; a fault in one convolutional network and in one transformer."""
    assert {"resnet50", "resnet50-b8", "bert-base", "vit-b16", "gpt2"} <= set(DEFAULT)
    assert {name for name in DEFAULT if MODELS[name].fault} == {"resnet50", "bert-4"}
