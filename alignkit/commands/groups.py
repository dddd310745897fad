"""The options that several commands share, a function for each group."""

from __future__ import annotations

import argparse

from alignkit.commands.numbers import parse_bound, parse_tolerance, whole

Group = argparse._ArgumentGroup  # argparse has no public name for it

_LARGEST_SEED = 2**63 - 1


def add_inputs(group: Group, several: str) -> None:
    """What a run is fed; ``several`` says what several sources mean to the command."""
    group.add_argument(
        "--inputs",
        metavar="SOURCE",
        nargs="+",
        default=[],
        help=f".npz, .npy, .safetensors, .pt or file.py:attr; {several}",
    )
    group.add_argument(
        "--input-shape",
        metavar="NAME:1x3x224x224[:DTYPE]",
        nargs="+",
        default=[],
        help="random inputs of these shapes, where no inputs are given; with alternatives, "
        "'x:{1,4}x3x{224,256}x224', every combination",
    )
    group.add_argument(
        "--seed",
        type=whole(0, _LARGEST_SEED),
        metavar="N",
        default=0,
        help="for random weights and inputs (default: 0)",
    )


def add_trust(group: Group) -> None:
    """Leave to unpickle."""
    group.add_argument(
        "--trust", action="store_true", help="unpickle MODEL where it is a pickle, which runs code from it"
    )


def add_runtime(group: Group) -> None:
    """The runtimes of a file and how they run it."""
    group.add_argument(
        "--backend",
        metavar="NAME",
        action="append",
        default=[],
        help="ort (the default), ort:cuda, openvino, reference, or file.py:load, a runtime of your own; "
        "to compare, repeat it for candidates side by side",
    )
    group.add_argument(
        "--provider", metavar="EP", nargs="+", default=["cpu"], help="execution providers of ort"
    )
    group.add_argument(
        "--optimization",
        choices=("all", "extended", "basic", "disable"),
        default="all",
        help="graph optimisation level that the product runs at (default: %(default)s)",
    )
    group.add_argument("--disable-optimizer", metavar="NAME", nargs="+", default=[])
    group.add_argument("--custom-ops", metavar="LIBRARY", nargs="+", default=[], help="custom-op libraries")
    group.add_argument("--threads", type=whole(1), metavar="N", help="threads of an operator")


def add_tolerances(group: Group, default: str) -> None:
    """Bounds that replace ``default``, the usual way of judging."""
    for name in ("--atol", "--rtol"):
        group.add_argument(name, type=parse_bound, metavar="X", help=f"judge by this instead of {default}")
    group.add_argument(
        "--tolerance",
        metavar="TAP_OR_DTYPE=RTOL,ATOL",
        nargs="+",
        type=parse_tolerance,
        default=[],
        help="tolerance for a tap glob or a dtype",
    )


def add_taps(group: Group) -> None:
    """Which modules and operations are tapped."""
    group.add_argument("--include", metavar="GLOB", nargs="+", default=[], help="tap these modules only")
    group.add_argument("--exclude", metavar="GLOB", nargs="+", default=[], help="do not tap these")
    group.add_argument("--type", metavar="CLASS", nargs="+", default=[], help="tap modules of these classes")
    group.add_argument(
        "--depth", type=whole(1), metavar="N", help="tap down to this depth; 1: the root's children"
    )
    group.add_argument(
        "--granularity",
        choices=("module", "op"),
        default="module",
        help="op: tap every torch function as well, not only around a culprit",
    )


def add_report_output(group: Group, bad: str) -> None:
    """Where a report goes; ``bad`` says what exit code 1 means to the command."""
    group.add_argument("-o", "--output", metavar="DIR", help="write the report folder")
    group.add_argument("--force", action="store_true", help="write into a folder that is not empty")
    group.add_argument("--json", action="store_true", help="print report.json instead of the summary")
    group.add_argument("--exit-zero", action="store_true", help=f"exit 0 also when the {bad}")
