"""What the peers are handed in memory: the exported program that a file was made from, and its inputs."""

from __future__ import annotations

import importlib

import torch
from torch.export import ExportedProgram

from tests.benchmarks.peers import Case
from tests.torchvision_import import import_torchvision


def load_program(case: Case) -> tuple[ExportedProgram, tuple[torch.Tensor, ...]]:
    """From the case's folder. No more is imported than that takes: some tools walk through all objects."""
    if case.model.outputs:
        import_torchvision()  # which transformers would try itself
        importlib.import_module(case.model.outputs)
    return torch.export.load(case.folder.program), torch.load(case.folder.inputs, weights_only=True)
