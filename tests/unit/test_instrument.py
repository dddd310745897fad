"""Instrument: which taps exist, what they are called, and that nothing of them stays behind."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from alignkit.arguments import named_inputs
from alignkit.errors import ModelError, TapError
from alignkit.instrument import (
    Instrument,
    Selection,
    fast_path_modules,
    scripted_modules,
    select_modules,
    tap_explicit,
)
from alignkit.records import Tap, TapKind
from tests.diagnosis import Forward


class Log:
    """A visitor that lists every tap with a copy of its value, and may replace values."""

    def __init__(self, replace: Callable[[Tensor], Tensor] = lambda value: value) -> None:
        self.taps: list[Tap] = []
        self.values: dict[str, Tensor] = {}
        self.replace = replace

    def begin(self) -> None:
        self.taps, self.values = [], {}

    def __call__(self, tap: Tap, value: Tensor) -> Tensor:
        self.taps.append(tap)
        self.values[str(tap.id)] = value.detach().clone()
        return self.replace(value)

    @property
    def names(self) -> list[str]:
        return [str(tap.id) for tap in self.taps]


def logged(model: nn.Module, *args: Any, selection: Selection | None = None, **kwargs: Any) -> Log:
    log = Log()
    with Instrument(model, selection or Selection(), log), torch.no_grad():
        model(*args, **kwargs)
    return log


X = torch.tensor([[-1.0, 2.0]])


def test_inputs_and_outputs_of_every_module_are_tapped_in_execution_order() -> None:
    """The root's input comes first, its output last."""
    model = nn.Sequential(nn.ReLU(), nn.Sequential(nn.Tanh()))
    assert logged(model, X).names == [
        "(model)#0:in[0]",
        "0#0:in[0]",
        "0#0[0]",
        "1#0:in[0]",
        "1.0#0:in[0]",
        "1.0#0[0]",
        "1#0[0]",
        "(model)#0[0]",
    ]


def test_a_module_called_again_counts_its_calls() -> None:
    """A shared ReLU has one tap per call, and a new run starts at zero."""
    model = Forward(lambda m, x: m.relu(m.relu(x) - 1), relu=nn.ReLU())
    log = Log()
    with Instrument(model, Selection(), log):
        for _ in range(2):
            model(X)
            assert [n for n in log.names if n.startswith("relu") and ":in" not in n] == [
                "relu#0[0]",
                "relu#1[0]",
            ]
    assert log.values["relu#0[0]"].tolist() == [[0, 2]]
    assert log.values["relu#1[0]"].tolist() == [[0, 1]]


def test_one_module_under_two_names_is_tapped_once_per_call() -> None:
    """Weight sharing by registering the same object twice: one path, two calls, no double hooks."""
    shared = nn.ReLU()
    model = Forward(lambda m, x: m.b(m.a(x) - 1), a=shared, b=shared)
    names = logged(model, X).names
    assert len(names) == len(set(names))
    assert [n for n in names if n.startswith(("a#", "b#")) and ":in" not in n] == ["a#0[0]", "a#1[0]"]


def test_tied_parameters_in_two_modules_are_two_modules() -> None:
    """Only the tensor is shared."""
    model = Forward(lambda m, x: m.b(m.a(x)), a=nn.Linear(2, 2), b=nn.Linear(2, 2))
    model.b.weight = model.a.weight  # type: ignore[union-attr, assignment]
    assert {"a#0[0]", "b#0[0]"} <= set(logged(model, X).names)


class Countdown(nn.Module):
    """Calls itself."""

    def forward(self, x: Tensor, depth: int = 2) -> Tensor:
        return x if depth == 0 else self(x + 1, depth - 1) * 2


@pytest.mark.parametrize("wrapped", [True, False])
def test_recursion_names_every_level(wrapped: bool) -> None:
    """Calls that are open at the same time keep their own numbers, as a child and as the root."""
    model = Forward(lambda m, x: m.down(x), down=Countdown()) if wrapped else Countdown()
    log = logged(model, X)
    path = "down" if wrapped else "(model)"
    outputs = [log.values[f"{path}#{call}[0]"].tolist() for call in range(3)]
    assert outputs == [[[4, 16]], [[2, 8]], [[1, 4]]]
    assert len(log.names) == len(set(log.names))


@dataclasses.dataclass
class Result:
    """Registered with nobody."""

    logits: Tensor
    extra: tuple[Tensor, dict[str, Any]]
    loss: Tensor | None = None


def structures(_: nn.Module, x: Tensor) -> Any:
    return {"b": (x, None, 3, True, "text"), "a": Result(x + 1, (x + 2, {"k": [x + 3]}))}


def test_nested_outputs_are_flattened_and_rebuilt_in_their_own_types() -> None:
    """Tuples, dicts, dataclasses, lists; None, numbers, booleans and text pass through."""
    model = Forward(structures)
    log = Log(replace=lambda value: value * 10)
    with Instrument(model, Selection(inputs=False), log):
        found = model(torch.ones(1))
    assert log.names == [f"(model)#0[{i}]" for i in range(4)]
    assert isinstance(found["a"], Result)
    assert found["b"][1:] == (None, 3, True, "text")
    assert found["a"].loss is None
    flat = [found["b"][0], found["a"].logits, found["a"].extra[0], found["a"].extra[1]["k"][0]]
    assert [tensor.item() for tensor in flat] == [10, 20, 30, 40]
    assert list(found) == ["b", "a"]


def test_registered_dataclasses_are_opened_and_keep_their_type() -> None:
    """transformers' ModelOutput is a dict and a dataclass at once."""
    outputs = pytest.importorskip("transformers.modeling_outputs")
    model = Forward(lambda _, x: outputs.BaseModelOutput(last_hidden_state=x, hidden_states=(x + 1,)))
    log = Log(replace=lambda value: value + 10)
    with Instrument(model, Selection(inputs=False), log):
        found = model(torch.zeros(1))
    assert isinstance(found, outputs.BaseModelOutput)
    assert found.last_hidden_state.item() == 10
    assert found.hidden_states[0].item() == 11
    assert found.attentions is None
    assert len(log.names) == 2


def test_a_namedtuple_keeps_its_type() -> None:
    """torch.return_types and the user's own."""
    model = Forward(lambda m, x: m.top(x), top=Forward(lambda _, x: x.max(dim=1)))
    log = Log(replace=torch.clone)
    with Instrument(model, Selection(), log):
        found = model(X)
    assert type(found) is type(X.max(dim=1))
    assert found.values.tolist() == [2]
    assert found.indices.tolist() == [1]


@pytest.mark.parametrize("result", [None, 3, True, "text", (), {}])
def test_a_result_without_tensors_is_returned_as_it_is(result: Any) -> None:
    """Nothing to tap, nothing to change."""
    model = Forward(lambda m, x: m.child(x), child=Forward(lambda _, x: result))
    with Instrument(model, Selection(), Log()):
        assert model(X) is result


def test_a_visitor_that_changes_nothing_leaves_objects_as_they_are() -> None:
    """Identity checks in the user's code stay true: no container is rebuilt."""
    held: list[Any] = []

    def keep(_: nn.Module, x: Tensor) -> Any:
        held.append({"x": x})
        return held[-1]

    model = Forward(lambda m, x: m.child(x), child=Forward(keep))
    with Instrument(model, Selection(), Log()):
        assert model(X) is held[-1]


def test_keyword_and_default_arguments_are_tapped() -> None:
    """As the call spells them; what is no tensor is passed on."""
    child = Forward(lambda _, x, scale=None, on=True: x * scale if on else x)
    model = Forward(lambda m, x, scale: m.child(x, scale=scale, on=True), child=child)
    log = logged(model, X, scale=torch.tensor(3.0))
    assert log.values["child#0:in[0]"].tolist() == X.tolist()
    assert log.values["child#0:in[1]"].item() == 3.0
    assert log.values["(model)#0[0]"].tolist() == [[-3, 6]]


def test_functional_code_between_modules_belongs_to_the_parent() -> None:
    """What a module is given was made by its caller, what it returns by itself."""
    block = Forward(lambda m, x: m.b(m.a(x) * 3), a=nn.ReLU(), b=nn.Tanh())
    log = logged(Forward(lambda m, x: m.block(x), block=block), X)
    owners = {str(tap.id): tap.owner for tap in log.taps}
    assert owners["block.b#0:in[0]"] == "block"
    assert owners["block.b#0[0]"] == "block.b"
    assert owners["block#0:in[0]"] == "(model)"
    assert log.values["block.b#0:in[0]"].tolist() == [[0, 6]]


@pytest.mark.parametrize("replace", [torch.clone, lambda value: value])
def test_a_write_into_an_input_reaches_the_caller(replace: Callable[[Tensor], Tensor]) -> None:
    """A module may write into its argument in place while the caller goes on using it."""
    model = Forward(lambda m, x: (y := x * 1, m.relu(y), y + 1)[-1], relu=nn.ReLU(inplace=True))
    with Instrument(model, Selection(), Log(replace)):
        assert model(X.clone()).tolist() == [[1, 3]]


@pytest.mark.parametrize("replace", [torch.clone, lambda value: value])
def test_a_write_into_a_returned_input_reaches_the_caller(replace: Callable[[Tensor], Tensor]) -> None:
    """An Identity, a Dropout in eval mode: what it returns is what it was given."""
    model = Forward(lambda m, x: (y := x * 1, m.same(y).add_(5), y + 1)[-1], same=nn.Identity())
    with Instrument(model, Selection(), Log(replace)):
        assert model(X.clone()).tolist() == [[5, 8]]


def test_a_write_into_an_output_reaches_those_who_hold_it() -> None:
    """The module keeps what it returned, the caller writes into it."""

    def remember(module: Any, x: Tensor) -> Tensor:
        module.held = x * 1
        return module.held  # type: ignore[no-any-return]

    child = Forward(remember)
    model = Forward(lambda m, x: (m.child(x).add_(5), m.child.held)[-1], child=child)
    expected = model(X).tolist()
    with Instrument(model, Selection(), Log()):
        assert model(X).tolist() == expected == [[4, 7]]


def test_a_view_that_a_module_returns_is_still_a_view_for_its_caller() -> None:
    """``self.split(x)[0].zero_()`` writes through; with a visitor that only looks, it still does."""
    model = Forward(lambda m, x: (y := x * 1, m.child(y).zero_(), y)[-1], child=nn.Flatten(0))
    with Instrument(model, Selection(), Log()):
        assert model(X).tolist() == [[0, 0]]


def test_explicit_taps_go_to_the_active_instrument() -> None:
    """Inside: visited, with the calling module as owner. Outside: nobody takes it."""
    child = Forward(lambda _, x: tap_explicit(x + 1, "mine"))
    model = Forward(lambda m, x: m.child(x), child=child)
    log = logged(model, X)
    (tap,) = [tap for tap in log.taps if tap.id.kind is TapKind.EXPLICIT]
    assert (str(tap.id), tap.owner) == ("mine", "child")
    assert log.values["mine"].tolist() == [[0, 3]]
    assert tap_explicit(X, "mine") is None


def test_an_explicit_name_is_unique_within_one_forward_and_free_in_the_next() -> None:
    """The same name twice would hide one of two values."""
    once, twice = (
        Forward(lambda _, x: tap_explicit(x, "a")),
        Forward(
            lambda _, x: tap_explicit(tap_explicit(x, "a"), "a")  # type: ignore[arg-type]
        ),
    )
    with Instrument(once, Selection(), Log()):
        once(X)
        once(X)
    with Instrument(twice, Selection(), Log()), pytest.raises(TapError, match=r"'a' is used twice"):
        twice(X)


@pytest.mark.parametrize("name", ["", "conv#0[0]", "a.b#1:in[2]", "a#0/f#0[0]"])
def test_an_explicit_tap_cannot_take_a_module_taps_name(name: str) -> None:
    """Two values under one name would be joined with each other."""
    model = Forward(lambda _, x: tap_explicit(x, name))
    with Instrument(model, Selection(), Log()), pytest.raises(TapError, match="cannot name a tap"):
        model(X)


def state(model: nn.Module) -> list[Any]:
    """Everything about modules that an instrument may touch, but parameters."""
    return [
        (name, dict(vars(module)) | {k: list(v.items()) for k, v in vars(module).items() if "hooks" in k})
        for name, module in model.named_modules()
    ]


def test_the_model_is_afterwards_as_before() -> None:
    """The user's own hooks stay, and fire in their order; no other hook is left."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    model[0].register_forward_hook(lambda m, a, r: r + 1)
    model[1].eval()
    before, forward = state(model), model.forward
    logged(model, X)
    assert state(model) == before
    assert model.forward == forward


def test_the_model_is_as_before_after_an_exception() -> None:
    """Wherever the forward raises; and the next run starts afresh."""

    def fail(module: Any, x: Tensor) -> Tensor:
        if module.broken:
            raise RuntimeError("no")
        return x

    child = Forward(fail)
    child.broken = True  # type: ignore[assignment]
    model = Forward(lambda m, x: m.child(x), child=child)
    before = state(model)
    log = Log()
    with pytest.raises(RuntimeError, match="no"), Instrument(model, Selection(), log):
        model(X)
    assert state(model) == before
    assert tap_explicit(X, "a") is None
    child.broken = False  # type: ignore[assignment]
    assert "child#0[0]" in logged(model, X).names


def test_a_forward_that_catches_its_childs_exception_goes_on() -> None:
    """The child's call is closed all the same: what follows belongs to the parent."""

    def fail(_: nn.Module, x: Tensor) -> Tensor:
        raise ValueError("no")

    def attempt(module: Any, x: Tensor) -> Tensor:
        try:
            return module.bad(x)  # type: ignore[no-any-return]
        except ValueError:
            return module.good(x * 2)  # type: ignore[no-any-return]

    log = logged(Forward(attempt, bad=Forward(fail), good=nn.ReLU()), X)
    assert log.values["(model)#0[0]"].tolist() == [[0, 4]]
    owners = {str(tap.id): tap.owner for tap in log.taps}
    assert owners["good#0:in[0]"] == "(model)"


def test_no_hook_is_left_when_attaching_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Entering is all or nothing."""
    model = nn.Sequential(nn.ReLU(), nn.Tanh())
    before = state(model)

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("no more hooks")

    monkeypatch.setattr(model[1], "register_forward_hook", refuse)
    with pytest.raises(RuntimeError, match="no more hooks"), Instrument(model, Selection(), Log()):
        pass
    monkeypatch.undo()
    assert state(model) == before


def test_a_model_can_be_copied_and_pickled_after_the_context() -> None:
    """No closure is left on it."""
    model = nn.Sequential(nn.Linear(2, 2))
    logged(model, X)
    assert copy.deepcopy(model)(X).tolist() == model(X).tolist()


TREE = nn.ModuleDict(
    {"enc": nn.Sequential(nn.Linear(2, 2), nn.ReLU()), "dec": nn.Sequential(nn.Linear(2, 2), nn.Tanh())}
)


@pytest.mark.parametrize(
    ("selection", "paths"),
    [
        (Selection(), ["", "enc", "enc.0", "enc.1", "dec", "dec.0", "dec.1"]),
        (Selection(include=("enc*",)), ["", "enc", "enc.0", "enc.1"]),
        (Selection(include=("re:.*\\.1",)), ["", "enc.1", "dec.1"]),
        (Selection(exclude=("*.0",)), ["", "enc", "enc.1", "dec", "dec.1"]),
        (Selection(types=("Linear",)), ["", "enc.0", "dec.0"]),
        (Selection(depth=1), ["", "enc", "dec"]),
        (Selection(depth=0), [""]),
        (Selection(include=("enc*",), exclude=("*.1",), depth=2), ["", "enc", "enc.0"]),
    ],
)
def test_a_selection_picks_by_path_type_and_depth(selection: Selection, paths: list[str]) -> None:
    """All given conditions must hold; the root is always there."""
    assert [path for path, _ in select_modules(TREE, selection)] == paths


def test_types_match_base_classes() -> None:
    """``types=("Module",)`` is everything; a subclass is of its base's type."""
    assert len(select_modules(TREE, Selection(types=("Module",)))) == 7


@pytest.mark.parametrize("selection", [Selection(include=("nothing",)), Selection(types=("Conv9d",))])
def test_a_selection_that_matches_nothing_is_an_error(selection: Selection) -> None:
    """A misspelt name must not look like a model without layers."""
    with pytest.raises(TapError, match="no module"):
        select_modules(TREE, selection)


def test_a_broken_regular_expression_is_named() -> None:
    """When the selection is made, not when the model runs."""
    with pytest.raises(TapError, match=r"re:\("):
        Selection(include=("re:(",))


@pytest.mark.parametrize(
    ("model", "text"),
    [(nn.DataParallel(nn.ReLU()), "model.module"), (lambda x: x, "torch.nn.Module"), (None, "NoneType")],
)
def test_what_cannot_be_instrumented_is_refused(model: Any, text: str) -> None:
    """Replicas run elsewhere; a function has no modules."""
    with pytest.raises(ModelError, match=text):
        Instrument(model, Selection(), Log())


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_a_scripted_module_is_closed_and_seen_through_its_neighbours() -> None:
    """Python hooks do not run inside it: neither it nor what is in it is tapped."""
    scripted = torch.jit.script(nn.Sequential(nn.ReLU(), nn.Tanh()))
    model = nn.Sequential(nn.Linear(2, 2), scripted, nn.Linear(2, 2))
    assert scripted_modules(model) == ("1",)
    names = logged(model, X).names
    assert {"0#0[0]", "2#0:in[0]", "2#0[0]"} <= set(names)
    assert not [name for name in names if name.startswith("1")]


def test_fast_path_modules_are_known_and_can_be_left_closed() -> None:
    """Only in eval mode is there a fast path; ``outside`` keeps hooks away from them."""
    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    model = nn.Sequential(
        nn.Linear(4, 4), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.ReLU()
    )
    assert fast_path_modules(model.train()) == ()
    fast = fast_path_modules(model.eval())
    assert fast == ("1.layers.0", "1.layers.1")
    log = logged(model, torch.ones(1, 3, 4), selection=Selection(outside=fast))
    assert "1#0[0]" in log.names
    assert not [name for name in log.names if name.startswith(("1.layers.0", "1.layers.1"))]


def test_a_dataclass_argument_is_tapped_and_does_not_break_the_call() -> None:
    """Registered with nobody: its tensors are the model's inputs all the same."""
    model = Forward(lambda _, batch: batch.logits + batch.extra[0])
    batch = Result(X, (X + 1, {}))
    log = logged(model, batch)
    assert [n for n in log.names if ":in" in n] == ["(model)#0:in[0]", "(model)#0:in[1]"]
    assert [value.tolist() for _, value in named_inputs(model, (batch,), {})] == [
        X.tolist(),
        (X + 1).tolist(),
    ]


def test_two_instruments_at_once_each_see_every_tap() -> None:
    """The inner context's exit leaves the outer one working."""
    model = nn.Sequential(nn.ReLU())
    outer, inner = Log(), Log()
    with Instrument(model, Selection(), outer):
        with Instrument(model, Selection(), inner):
            model(X)
        assert outer.names == inner.names
        model(X)
    assert outer.names == inner.names
