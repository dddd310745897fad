"""Words: a plan as text, and as what ``--json`` prints (schema ``alignkit.plan/1``)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from textwrap import wrap
from typing import Any

from alignkit.plan.records import DecoderPlan, GraphPlan, Load, Memory, Rates, Shard, TapSize
from alignkit.sizes import count_words, seconds_words, size_words

SCHEMA = "alignkit.plan/1"
_SHOWN = 8
"""Rows of a table: the rest is summed up, and in the JSON one by one."""

_SCOPE = (
    "Not counted: the export, the float64 runs of the noise floor, the run as deployed, a diagnosis; and the "
    "second capture that random numbers or fast paths of torch's own attention layers ask for."
)

_Row = Sequence[str]


def graph_words(plan: GraphPlan) -> str:
    """The plan of a file, about thirty lines."""
    inputs = ", ".join(f"{name} {_times(dims)}" for name, dims in plan.inputs.items())
    distinct = sum(not tap.repeats for tap in plan.taps)
    parts = f"{_many(len(plan.parts), 'part')} of at most {size_words(plan.budget)}"
    facts = [
        ("taps", f"{len(plan.taps)} ({plan.taps_are}) on {distinct} values, {size_words(plan.tap_bytes)}"),
        ("largest", _tap_words(plan.largest)),
        ("parts", f"{parts}, {_many(plan.sessions, 'session')}"),
        ("memory", _memory_words(plan.memory)),
        ("forward", f"{count_words(plan.work.total, 'FLOP')}, {size_words(plan.work.moved)} moved"),
        ("rates", _rate_words(plan.rates)),
    ]
    blocks = [
        [f"Plan of comparing {plan.path} ({inputs})", *_facts(facts)],
        _tap_table(plan),
        _part_table(plan) if len(plan.parts) > 1 else [],
        _operator_table(plan),
        _stage_table(plan.stages),
        _wrapped((*plan.notes, _SCOPE)),
    ]
    return "\n\n".join("\n".join(lines) for lines in blocks if lines)


def decoder_words(plan: DecoderPlan) -> str:
    """The plan of a decoder; shards that are alike share a row."""
    d, layer = plan.dimensions, plan.layer
    total = sum(sum(shard.stages.values()) for shard in plan.shards)
    parts = sum(shard.parts for shard in plan.shards)
    size = f"{d.layers} layers, hidden {d.hidden}, heads {d.heads}, kv {d.kv}, ffn {d.ffn}, vocab {d.vocab}"
    passed = f"{size_words(plan.passed)} passed on"
    facts = [
        ("weights", f"{count_words(plan.parameters)} parameters in {plan.dtype}, {size_words(plan.weights)}"),
        ("taps", f"{size_words(plan.tap_bytes)}, largest of a layer {size_words(max(layer.taps))}"),
        (
            "layer",
            f"weights {size_words(layer.weights)}, taps {size_words(sum(layer.taps))}, working set "
            f"{size_words(layer.working)}, {count_words(layer.work.total, 'FLOP')}",
        ),
        ("parts", f"{parts} of at most {size_words(plan.budget)}, {2 * parts} sessions"),
        (
            "shards",
            f"{len(plan.shards)} for {size_words(plan.machine)} of memory each, {passed}",
        ),
        ("time", f"{seconds_words(total)} one shard after another"),
        ("rates", _rate_words(plan.rates)),
    ]
    notes = [
        "Memory: weights twice (PyTorch's and the runtime's), what the budget holds of the reference, parts, "
        "working set; the rest of the reference goes to a temporary file.",
        *(
            ["The FLOP rate is float32's: kernels of another precision run at their own."]
            * (plan.dtype != "float32")
        ),
        _SCOPE,
    ]
    head = f"Plan of comparing a decoder of {plan.name} ({size}), {plan.batch} x {plan.tokens} tokens"
    blocks = [[head, *_facts(facts)], _shard_table(plan.shards), _wrapped(notes)]
    return "\n\n".join("\n".join(lines) for lines in blocks)


def _wrapped(notes: Iterable[str]) -> list[str]:
    return [line for note in notes for line in wrap(f"- {note}", 100, subsequent_indent="  ")]


def _facts(facts: Iterable[tuple[str, str]]) -> list[str]:
    return [
        line
        for name, text in facts
        for line in wrap(f"  {name:<9}{text}", 110, subsequent_indent=" " * 11, break_on_hyphens=False)
    ]


def _tap_words(tap: TapSize | None) -> str:
    if tap is None or tap.nbytes is None:
        return "none"
    return f"{tap.name} ({_dims_words(tap)} {tap.dtype}), {size_words(tap.nbytes)}"


def _dims_words(tap: TapSize) -> str:
    return "?" if tap.dims is None else _times(tap.dims)


def _times(dims: Sequence[int]) -> str:
    return "x".join(map(str, dims)) or "scalar"


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _rate_words(rates: Rates) -> str:
    flops = f"{count_words(rates.flops, 'FLOP')}/s{' (measured)' if 'flops' in rates.measured else ''}"
    return f"{flops}, {size_words(rates.bandwidth)}/s{' (measured)' if 'bandwidth' in rates.measured else ''}"


def _memory_words(memory: Memory) -> str:
    weights = "PyTorch's, the runtime's" + (", the file's" if memory.stored else "")
    held = {
        f"weights ({weights})": 2 * memory.weights + memory.stored,
        "reference": memory.reference,
        "outputs": memory.outputs,
        "carried": memory.carried,
        "working set": memory.working,
    }
    parts = ", ".join(f"{name} {size_words(size)}" for name, size in held.items())
    spilled = f"; {size_words(memory.spilled)} of the reference in a temporary file"
    return f"{size_words(memory.peak)}: {parts}{spilled if memory.spilled else ''}"


def _tap_table(plan: GraphPlan) -> list[str]:
    known = sorted(
        (tap for tap in plan.taps if tap.nbytes and not tap.repeats), key=lambda tap: -(tap.nbytes or 0)
    )
    rows = [(tap.name, _dims_words(tap), tap.dtype, size_words(tap.nbytes or 0)) for tap in known[:_SHOWN]]
    rest = known[_SHOWN:]
    if rest:
        rows.append((f"{len(rest)} more values", "", "", size_words(sum(tap.nbytes or 0 for tap in rest))))
    return _table(("tap", "shape", "dtype", "memory"), rows, left=3)


def _part_table(plan: GraphPlan) -> list[str]:
    rows = [
        (
            str(place),
            str(part.taps),
            *map(size_words, (part.nbytes, part.carried)),
            *map(_load_words, _loads(part)),
        )
        for place, part in enumerate(plan.parts[:_SHOWN])
    ]
    if rest := plan.parts[_SHOWN:]:
        size = size_words(sum(part.nbytes for part in rest))
        rows.append((f"{len(rest)} more", str(sum(part.taps for part in rest)), size, "", "", ""))
    return _table(("part", "taps", "memory", "carried", "propagated", "introduced"), rows, left=1)


def _loads(part: Any) -> tuple[Load | None, Load | None]:
    return part.propagated, part.introduced


def _load_words(load: Load | None) -> str:
    if load is None:
        return "no session"
    return count_words(load.work.total, "FLOP") if load.work.total else "-"


def _operator_table(plan: GraphPlan) -> list[str]:
    ordered = sorted(plan.operators.items(), key=lambda item: (-item[1].total, -item[1].moved))
    rows = [
        (name, str(work.nodes), count_words(work.total) if work.total else "-", size_words(work.moved))
        for name, work in ordered[:_SHOWN]
    ]
    if rest := [work for _, work in ordered[_SHOWN:]]:
        moved = size_words(sum(work.moved for work in rest))
        rows.append((f"{len(rest)} more operators", str(sum(work.nodes for work in rest)), "-", moved))
    return _table(("operator", "nodes", "FLOP", "moved"), rows, left=1)


def _stage_table(stages: Mapping[str, float]) -> list[str]:
    rows = [(stage, seconds_words(seconds)) for stage, seconds in stages.items()]
    return _table(("stage", "time"), [*rows, ("total", seconds_words(sum(stages.values())))], left=1)


def _shard_table(shards: Sequence[Shard]) -> list[str]:
    rows = []
    for _, group in groupby(enumerate(shards, 1), key=lambda item: _figures(item[1])):
        alike = list(group)
        first, last = alike[0], alike[-1]
        number = str(first[0]) if first is last else f"{first[0]}-{last[0]}"
        rows.append((number, f"{first[1].first} to {last[1].last}", *_figures(first[1])))
    return _table(("shard", "from … to", "units", "weights", "taps", "memory", "parts", "time"), rows, left=2)


def _figures(shard: Shard) -> tuple[str, ...]:
    return (
        str(shard.units),
        *map(size_words, (shard.weights, shard.reference, shard.peak)),
        str(shard.parts),
        seconds_words(sum(shard.stages.values())),
    )


def _table(head: _Row, rows: Sequence[_Row], left: int) -> list[str]:
    """Columns under ``head``, the first ``left`` of them flush left."""
    if not rows:
        return []
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]

    def line(row: _Row) -> str:
        cells = [
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return "  " + "  ".join(cells).rstrip()

    return [line(head), *map(line, rows)]


def graph_dict(plan: GraphPlan) -> dict[str, Any]:
    """The plan of a file for JSON: bytes, operations, seconds."""
    found = {"schema": SCHEMA, **asdict(plan)}
    found["memory"]["peak"] = plan.memory.peak
    found["tap_bytes"], found["sessions"] = plan.tap_bytes, plan.sessions
    found["flops"], found["seconds"] = plan.work.total, sum(plan.stages.values())
    return found


def decoder_dict(plan: DecoderPlan) -> dict[str, Any]:
    """The plan of a decoder for JSON."""
    seconds = sum(sum(shard.stages.values()) for shard in plan.shards)
    return {"schema": SCHEMA, **asdict(plan), "seconds": seconds}
