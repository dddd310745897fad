"""A model that is run or exported must be afterwards as it was before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def model_untouched(model: nn.Module) -> Iterator[None]:
    """Undo, on the way out, what a run can do to a model: buffers, training flags, RNG."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = [
        (module._buffers, name, buffer, buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    try:
        with torch.random.fork_rng(devices=_cuda_devices(model)):
            yield
    finally:
        for module, training in modes:
            module.training = training
        with torch.no_grad():
            for owner, name, buffer, saved in buffers:
                owner[name] = buffer  # the forward may have put another tensor there
                if buffer.data_ptr() and not torch.equal(buffer, saved):
                    buffer.copy_(saved)


def _cuda_devices(model: nn.Module) -> list[int]:
    tensors = (*model.parameters(), *model.buffers())
    return sorted({t.device.index or 0 for t in tensors if t.device.type == "cuda"})
