"""Plans of decoders: the closed forms are those of a real file, and shards fit their machine."""

from __future__ import annotations

import pytest

from alignkit.budget import Budget
from alignkit.errors import InputError
from alignkit.plan.decoder import SIZES, decoder_units, pack_sizes, parse_decoder, plan_decoder
from alignkit.plan.records import DecoderPlan, Rates, Work
from alignkit.plan.schedule import plan_graph, read_file
from tests import zoo
from tests.benchmarks.bench_plan import input_shapes
from tests.zoo.files import marked_file

RATES = Rates(flops=50e9, bandwidth=10e9)
TINY = "layers=2,hidden=64,heads=4,kv=2,ffn=128,vocab=101"  # the zoo's Llama
GIB = 2**30


def plan(name: str, *, budget: int = GIB, machine: int = 64 * GIB, tokens: int = 2048) -> DecoderPlan:
    given = Budget(budget, given=True)
    return plan_decoder(name, RATES, tokens=tokens, budget=given, machine=machine)


def test_the_closed_forms_are_those_of_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every tap of a real Llama, in order; its parts; the operations of its products."""
    case = zoo.resolve("llama")
    built, path = case.build(), marked_file(case, "torchscript")
    file = read_file(path, input_shapes(built))
    real = plan_graph(file, RATES)
    batch, tokens = built.args[0].shape
    units = decoder_units(parse_decoder(TINY), batch, tokens, 4)
    sizes = [size for unit in units for size in unit.taps]
    assert sizes == [tap.nbytes for tap in real.taps if not tap.repeats]
    assert sum((unit.work for unit in units), Work()).total == real.work.total
    monkeypatch.setattr(Budget, "weight_bytes", 2**40)  # values alone are to decide
    monkeypatch.setattr(Budget, "part_bytes", 20000)
    cut = plan_graph(file, RATES, budget=Budget(8 * 20000)).parts
    assert pack_sizes(sizes, 20000) == [part.nbytes for part in cut]
    assert len(cut) > 5


@pytest.mark.parametrize(
    ("name", "parameters"), [("7B", 6_738_415_616), ("70B", 70_553_706_496), ("400B", 405_853_388_800)]
)
def test_sizes_have_the_parameters_of_the_models_they_are_named_after(name: str, parameters: int) -> None:
    """As those models' cards count them."""
    found = plan(name)
    assert found.parameters == parameters
    assert found.weights == 4 * parameters


def test_shards_hold_every_layer_once_and_fit() -> None:
    """In order, and as few as fit: none could take the first layer of the next."""
    found = plan("7B", machine=16 * GIB)
    assert sum(shard.units for shard in found.shards) == SIZES["7B"].layers + 2
    assert sum(shard.weights for shard in found.shards) == found.weights
    assert sum(shard.reference for shard in found.shards) == found.tap_bytes
    assert all(shard.peak <= 16 * GIB for shard in found.shards)
    assert found.shards[0].first == "embedding"
    assert found.shards[-1].last == "head"
    one_more = 2 * found.layer.weights + sum(found.layer.taps)
    assert len(found.shards) > 3
    for before, after in zip(found.shards[:-1], found.shards[1:], strict=True):
        assert int(after.first.split()[1]) == int(before.last.split()[1]) + 1
        assert before.peak + one_more > 16 * GIB
    assert len(plan("7B", machine=1024 * GIB).shards) == 1


def test_a_machine_that_is_too_small_is_told_what_works() -> None:
    """The smallest that does, which then does."""
    with pytest.raises(InputError, match=r"decoder's \w+.* alone takes") as caught:
        plan("400B", machine=8 * GIB)
    needed = int(str(caught.value).split("--machine-memory ")[1].split(",")[0])
    assert all(shard.peak <= needed for shard in plan("400B", machine=needed).shards)
    with pytest.raises(InputError):
        plan("400B", machine=needed - 1)


def test_a_budget_below_the_largest_tap_is_told_what_works() -> None:
    """For a decoder as for a file."""
    largest = 2048 * 32000 * 4  # the logits
    with pytest.raises(InputError, match=f"--max-memory {largest},"):
        plan("7B", budget=largest - 1)
    assert plan("7B", budget=largest).budget == largest // 8


def test_half_the_bytes_need_half_the_memory() -> None:
    """Of weights and taps; the operations stay."""
    full, half = (
        plan_decoder("7B", RATES, dtype=d, budget=Budget(GIB), machine=64 * GIB)
        for d in ("float32", "float16")
    )
    assert half.weights == full.weights / 2
    assert half.parameters == full.parameters
    assert half.layer.work.total == full.layer.work.total


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("13B", "no decoder '13B'; write 7B, 70B, 400B"),
        ("layers=2,hidden=64", "no decoder"),
        (TINY.replace("layers=2", "layers=0"), "no decoder"),
        (TINY.replace("heads=4", "heads=5"), "heads must divide hidden"),
        (TINY.replace("kv=2", "kv=3"), "kv must divide heads"),
    ],
)
def test_what_is_no_decoder_is_refused(text: str, message: str) -> None:
    """With what would be one."""
    with pytest.raises(InputError, match=message):
        parse_decoder(text)
