"""Damage done to a marked file of a healthy model, at a layer that the seed chooses."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path

import onnx
from torch import nn

from tests import zoo
from tests.faults.case import Fault, FaultCase, Prepared
from tests.faults.hosts import marked_file, segmenter, small_resnet, small_vit, text_encoder
from tests.faults.injectors import INJECTORS, WEIGHT_WAYS, Injection
from tests.faults.places import Place, callers, find_place, run_values, shows
from tests.zoo.case import Built, seeded

HOSTS: dict[str, Callable[[], Built]] = {
    "resnet": small_resnet,
    "vit": small_vit,
    "segmenter": segmenter,
    "text-encoder": text_encoder,
    **{name: zoo.resolve(name).build for name in ("bert", "gpt2", "lstm", "unet", "detector-dict")},
    **{
        name: zoo.resolve(name).build
        for name in ("digits-trained", "mobilenet-v3-small", "srcnn", "distilbert-model-output")
    },
}


def _trained_looking(name: str) -> Built:
    """A zoo model whose norms scale each channel otherwise.

    Fresh ones are all alike, and exporters keep one copy of equal tensors, under one of their names.
    """
    built = zoo.resolve(name).build()
    with seeded(12):
        for path, parameter in built.model.named_parameters():
            if "norm" in path.lower() and path.endswith("weight"):
                nn.init.uniform_(parameter, 0.5, 1.5)
    return built


HOSTS["llama"] = lambda: _trained_looking("llama")

_MOST_NODES = 400

Way = tuple[str, int]
"""How to damage a node (a key of ``INJECTORS``), and the seed that chooses it."""


def inject(
    built: Built, source: Path, target: Path, how: str, seed: int, taken: Collection[str] = ()
) -> tuple[Injection, Place]:
    """Damage one node in the way ``how``: one that ``seed`` chooses among those where it shows.

    Modules in ``taken`` are left alone. Raises ``ValueError`` when it shows nowhere.
    """
    calls = callers(built)
    order = list(range(_count(source, target, how)))
    random.Random(seed).shuffle(order)
    for which in order:
        injection = INJECTORS[how](source, target, which)
        place = _place(target, injection, calls)
        free = place is not None and place.module not in taken
        if place is not None and free and _shows(built, source, target, place):
            return injection, place
    raise ValueError(f"{how!r} shows at none of {len(order)} nodes of {source.name}.")


def _count(source: Path, target: Path, how: str) -> int:
    """How many nodes the way applies to."""
    for which in range(_MOST_NODES):
        try:
            INJECTORS[how](source, target, which)
        except ValueError:
            return which
    return _MOST_NODES


def _place(path: Path, injection: Injection, calls: dict[tuple[str, int], str]) -> Place | None:
    model = onnx.load(str(path), load_external_data=False)
    node = next(node for node in model.graph.node if injection.value in node.output)
    return find_place(model, node, calls)


def _shows(built: Built, source: Path, target: Path, place: Place) -> bool:
    before = run_values(source, built, place.values)
    try:
        after = run_values(target, built, place.values)
    except Exception:  # ONNX Runtime's exceptions share no base: the damaged file does not run
        return False
    return shows(before, after)


def _build(host: str, ways: tuple[Way, ...], exporter: str, folder: Path) -> Prepared:
    """The host's marked file damaged in each of ``ways``."""
    built, source = marked_file(host, HOSTS[host], exporter, folder)
    found: list[tuple[str, Injection, Place]] = []
    for how, seed in ways:
        target = folder / f"{host}-{exporter}-{_name(ways)}" / f"{len(found)}.onnx"
        target.parent.mkdir(parents=True, exist_ok=True)
        taken = [place.module for _, _, place in found]
        found.append((how, *inject(built, source, target, how, seed, taken)))
        source = target
    order = _positions(source)
    found.sort(key=lambda item: order[item[1].value])
    faults = tuple(Fault.at(place.module, _cause(how)) for how, _, place in found)
    changes = "; ".join(f"{place.module}: {injection.change}" for _, injection, place in found)
    return Prepared(built.model, built.args, built.kwargs, {"onnx": source}, faults, changes)


def _cause(how: str) -> str:
    return "weights" if how in WEIGHT_WAYS else "exporter"


def _positions(path: Path) -> dict[str, int]:
    """Value -> where in the file's order its node stands."""
    nodes = onnx.load(str(path), load_external_data=False).graph.node
    return {name: position for position, node in enumerate(nodes) for name in node.output}


def _name(ways: tuple[Way, ...]) -> str:
    return "+".join(f"{how}-{seed}" for how, seed in ways)


def _case(host: str, *ways: Way) -> FaultCase:
    kind = "injected" if len(ways) == 1 else "two faults"
    changed = " and ".join(how for how, _ in ways)
    return FaultCase(
        f"{kind.split()[0]}/{host}/{_name(ways)}",
        kind,
        partial(_build, host, ways),
        f"edited file: {changed}",
    )


def shifted(name: str, shift: int) -> FaultCase:
    """The case of that name with ``shift`` added to its seeds: the same damage at other places."""
    host, ways = name.split("/")[1:]
    pairs = (way.rsplit("-", 1) for way in ways.split("+"))
    return _case(host, *((how, int(seed) + shift) for how, seed in pairs))


CASES = (
    _case("resnet", ("weight", 1)),
    _case("resnet", ("transposed", 2)),
    _case("resnet", ("epsilon", 3)),
    _case("resnet", ("pads", 4)),
    _case("resnet", ("norm-scale", 5)),
    _case("vit", ("weight", 6)),
    _case("vit", ("transposed", 7)),
    _case("vit", ("epsilon", 8)),
    _case("vit", ("axis", 9)),
    _case("vit", ("index", 10)),
    _case("distilbert-model-output", ("attention-scale", 11)),
    _case("bert", ("attention-scale", 12)),
    _case("bert", ("element", 13)),
    _case("bert", ("transposed", 14)),
    _case("bert", ("operator", 15)),
    _case("gpt2", ("quantised", 16)),
    _case("gpt2", ("axis", 17)),
    _case("llama", ("rows", 18)),
    _case("llama", ("operator", 19)),
    _case("lstm", ("weight", 20)),
    _case("unet", ("concat", 21)),
    _case("unet", ("coordinates", 22)),
    _case("unet", ("mode", 23)),
    _case("unet", ("bias", 24)),
    _case("segmenter", ("rounding", 25)),
    _case("text-encoder", ("permutation", 26)),
    _case("text-encoder", ("rows", 27)),
    _case("detector-dict", ("operator", 28)),
    _case("detector-dict", ("bias", 29)),
    _case("digits-trained", ("element", 30)),
    _case("digits-trained", ("rows", 31)),
    _case("mobilenet-v3-small", ("slope", 32)),
    _case("mobilenet-v3-small", ("operator", 33)),
    _case("srcnn", ("mode", 34)),
    _case("resnet", ("weight", 41), ("epsilon", 42)),
    _case("bert", ("attention-scale", 43), ("rows", 44)),
    _case("unet", ("concat", 45), ("weight", 46)),
    _case("vit", ("operator", 47), ("bias", 48)),
)
