"""The classic script: tap values by hand inside a forward, export, extract, run, print.

    python examples/classic_debugger.py

``Debugger()`` is made without a model. Each ``debugger.debug(x, name)`` returns ``x`` as it is; in a
plain call of the model it records the value, during an export it leaves a mark in the file.
"""

from __future__ import annotations

import os
import sys
import tempfile
from types import MethodType

import torch
from torch import nn

from alignkit import Debugger

debugger = Debugger()


class Model(nn.Module):
    """Four blocks of Conv, BatchNorm and ReLU."""

    def __init__(self):
        super().__init__()
        self.block0 = self.make_block(3, 8)
        self.block1 = self.make_block(8, 16)
        self.block2 = self.make_block(16, 16)
        self.block3 = self.make_block(16, 4)

    @staticmethod
    def make_block(channels, features):
        return nn.Sequential(nn.Conv2d(channels, features, 3), nn.BatchNorm2d(features), nn.ReLU())

    def forward(self, x):
        return self.block3(self.block2(self.block1(self.block0(x))))


def new_forward(self, x):
    """The forward above with a tap after every block."""
    x = self.block0(x)
    x = debugger.debug(x, "x_0")
    x = self.block1(x)
    x = debugger.debug(x, "x_1")
    x = self.block2(x)
    x = debugger.debug(x, "x_2")
    x = self.block3(x)
    x = debugger.debug(x, "x_3")
    return x  # noqa: RET504


def main():
    torch.manual_seed(0)
    torch_model = Model().eval()
    torch_model.forward = MethodType(new_forward, torch_model)
    dummy_input = torch.randn(1, 3, 32, 32)

    torch.onnx.export(torch_model, dummy_input, "before_debug.onnx", input_names=["input"])
    # The default exporter traces with fake tensors, which have no values; a plain call has.
    torch_model(dummy_input)

    debugger.extract_debug_model("before_debug.onnx", "after_debug.onnx")
    debugger.run_debug_model({"input": dummy_input.numpy()}, "after_debug.onnx")
    debugger.print_debug_result()

    # What was compared is at hand: two dicts of arrays by name, and the names in the file's order.
    print("taps in the file:", ", ".join(debugger.output_debug_name))
    for name in debugger.output_debug_name:
        difference = abs(debugger.torch_value[name] - debugger.onnx_value[name]).max()
        print(f"{name}: shape {debugger.torch_value[name].shape}, largest difference {difference:.1e}")
        if difference > 1e-5:
            return 1
    return 0 if debugger.output_debug_name == ["x_0", "x_1", "x_2", "x_3"] else 1


if __name__ == "__main__":
    home = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # the script writes its two files where it runs
        status = main()
        os.chdir(home)
    sys.exit(status)
