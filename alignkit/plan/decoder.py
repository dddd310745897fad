"""A decoder of a given size, planned without a file: cut into shards of layers that fit a machine.

The taps are those of a Llama-like model as transformers builds it, attention in one call: what every module
takes and returns. A shard is compared by itself: its layers, fed with the values before its first one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import fields, replace

from alignkit.budget import PART_TAPS, Budget
from alignkit.errors import InputError
from alignkit.plan.costs import predict_stages, side_by_side
from alignkit.plan.records import PRODUCT, DecoderPlan, Dimensions, Load, Memory, Rates, Shard, Unit, Work
from alignkit.sizes import size_words

SIZES = {
    "7B": Dimensions(layers=32, hidden=4096, heads=32, kv=32, ffn=11008, vocab=32000),
    "70B": Dimensions(layers=80, hidden=8192, heads=64, kv=8, ffn=28672, vocab=128256),
    "400B": Dimensions(layers=126, hidden=16384, heads=128, kv=8, ffn=53248, vocab=128256),
}

DTYPES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of an element."""

_NODES_OF_LAYER = 80
"""Of an exported layer, attention and the rotation of positions spelled out."""


def parse_decoder(text: str) -> Dimensions:
    """``7B``, ``70B``, ``400B``, or ``layers=2,hidden=64,heads=4,kv=2,ffn=128,vocab=101``.

    Raises :class:`InputError`.
    """
    if (known := SIZES.get(text.upper())) is not None:
        return known
    names = [field.name for field in fields(Dimensions)]
    given = dict(re.findall(r"(\w+)=(\d+)", text))
    if sorted(given) != sorted(names) or text.count("=") != len(names) or "0" in given.values():
        raise InputError(
            f"no decoder {text!r}; write {', '.join(SIZES)} or all of {','.join(f'{n}=N' for n in names)}."
        )
    dimensions = Dimensions(**{name: int(size) for name, size in given.items()})
    if dimensions.hidden % dimensions.heads or dimensions.heads % dimensions.kv:
        raise InputError(
            f"in the decoder {text!r} heads must divide hidden, and kv must divide heads; give other sizes."
        )
    return dimensions


def plan_decoder(
    name: str,
    rates: Rates,
    *,
    batch: int = 1,
    tokens: int = 2048,
    dtype: str = "float32",
    budget: Budget,
    machine: int,
    threads: int = 1,
) -> DecoderPlan:
    """How the decoder ``name`` (see :func:`parse_decoder`) would be compared on ``batch`` rows of ``tokens``,
    shard after shard on machines with ``machine`` bytes of memory, each within ``budget``.

    Raises :class:`InputError` where one layer does not fit, or one value does not fit the budget.
    """
    dimensions = parse_decoder(name)
    units = decoder_units(dimensions, batch, tokens, DTYPES[dtype])
    largest = max(size for unit in units for size in unit.taps)
    if largest > budget.total:
        raise InputError(
            f"the budget of {size_words(budget.total)} is smaller than the largest tap of the decoder, which "
            f"takes {size_words(largest)}. Give at least --max-memory {largest}, or fewer --tokens."
        )
    shards = tuple(_shard(group, budget, rates, threads) for group in _cut(units, budget, machine))
    weights = sum(unit.weights for unit in units)
    return DecoderPlan(
        name,
        dimensions,
        dtype,
        batch,
        tokens,
        weights // DTYPES[dtype],
        units[1],
        weights,
        sum(size for unit in units for size in unit.taps),
        batch * tokens * dimensions.hidden * DTYPES[dtype],
        budget.part_bytes,
        machine,
        shards,
        rates,
    )


def decoder_units(d: Dimensions, batch: int, tokens: int, itemsize: int) -> list[Unit]:
    """The embedding, the layers, and the final norm with the head, whose weights are not shared."""
    rows = batch * tokens
    hidden = rows * d.hidden * itemsize
    table = d.vocab * d.hidden * itemsize
    # Token ids and their mask, the embedding, positions with their two rotations, the mask of the scores.
    angles = tokens * d.hidden // d.heads * itemsize
    first = (rows * 8, rows * 8, hidden, tokens * 8, angles, angles, batch * tokens * tokens)
    embedding = Unit("embedding", table, first, Work({}, 2 * hidden, 1), hidden)
    product = 2 * rows * d.hidden * d.vocab
    logits = rows * d.vocab * itemsize
    head = Unit(
        "head",
        table + d.hidden * itemsize,
        (hidden, logits),
        Work({PRODUCT: product}, table + 4 * hidden + logits, 8),
        hidden + logits,
    )
    layer = _layer(d, batch, tokens, itemsize)
    return [embedding, *(replace(layer, name=f"layer {place}") for place in range(d.layers)), head]


def _layer(d: Dimensions, batch: int, tokens: int, itemsize: int) -> Unit:
    rows, width = batch * tokens, d.hidden // d.heads * d.kv
    hidden, narrow, wide = (rows * size * itemsize for size in (d.hidden, width, d.ffn))
    weights = 2 * d.hidden * (d.hidden + width) + 3 * d.hidden * d.ffn + 2 * d.hidden
    scores = batch * d.heads * tokens * tokens
    taps = (
        *(hidden, hidden, narrow, narrow, hidden, hidden),  # norm, q, k, v, the heads' values, o
        *(
            hidden,
            hidden,
            wide,
            wide,
            wide,
            wide,
            hidden,
        ),  # sum, norm, gate, its activation, up, product, down
        hidden,
    )
    products = 2 * rows * (weights - 2 * d.hidden) + 4 * scores * (d.hidden // d.heads)
    # Scores are written, masked, and normalised in two passes; values are read once and written once.
    moved = weights * itemsize + 8 * scores * itemsize + 3 * sum(taps)
    working = 2 * scores * itemsize + 4 * hidden + 2 * wide
    return Unit("layer", weights * itemsize, taps, Work({PRODUCT: products}, moved, _NODES_OF_LAYER), working)


def pack_sizes(sizes: Iterable[int], budget: int) -> list[int]:
    """Bytes of each part when values of these sizes are compared in order, ``budget`` bytes at a time: as
    :func:`alignkit.parts.plan_parts` cuts a file."""
    parts: list[list[int]] = [[]]
    for size in sizes:
        too_large = size and sum(parts[-1]) + size > budget
        if parts[-1] and (too_large or len(parts[-1]) == PART_TAPS):
            parts.append([])
        parts[-1].append(size)
    return [sum(part) for part in parts]


def _memory(units: Sequence[Unit], budget: Budget) -> Memory:
    taps = [size for unit in units for size in unit.taps]
    outputs = side_by_side(pack_sizes(taps, budget.part_bytes), budget)
    working = max(unit.working for unit in units)
    # A part goes on from two values of the part before: what is added, and what it is added to.
    carried = 2 * max(min(unit.taps[-1], unit.taps[0]) for unit in units)
    held = min(sum(taps), budget.held_bytes)
    weights = sum(unit.weights for unit in units)
    return Memory(weights, 0, held, outputs, carried, working, sum(taps) - held)


def _cut(units: Sequence[Unit], budget: Budget, machine: int) -> list[list[Unit]]:
    """Consecutive units, as many as fit the machine. Raises :class:`InputError` where one does not."""
    worst = max(units, key=lambda unit: _memory([unit], budget).peak)
    if (needed := _memory([worst], budget).peak) > machine:
        raise InputError(
            f"the decoder's {worst.name} alone takes {size_words(needed)}, more than the machine's "
            f"{size_words(machine)}. Give --machine-memory {needed}, less --max-memory, or fewer --tokens."
        )
    groups: list[list[Unit]] = [[]]
    for unit in units:
        if groups[-1] and _memory([*groups[-1], unit], budget).peak > machine:
            groups.append([])
        groups[-1].append(unit)
    return groups


def _shard(units: Sequence[Unit], budget: Budget, rates: Rates, threads: int) -> Shard:
    taps = [size for unit in units for size in unit.taps]
    memory = _memory(units, budget)
    parts = max(len(pack_sizes(taps, budget.part_bytes)), -(-memory.weights // budget.weight_bytes))
    forward = sum((unit.work for unit in units), Work())
    # Each part reads the weights of its own layers; together the parts compute one forward.
    weights = memory.weights // parts
    loads = [Load(forward * (1 / parts), weights, {PRODUCT: weights} if forward.flops else {})] * parts
    stages = predict_stages(forward, loads, loads, taps, rates, budget, threads)
    return Shard(
        units[0].name,
        units[-1].name,
        len(units),
        memory.weights,
        sum(taps),
        memory.peak,
        parts,
        stages,
    )
