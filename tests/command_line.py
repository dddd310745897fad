"""What the tests of the command line share: the user's file, and ways to call ``alignkit``."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]

NET = '''\
"""The file of a user: models in every form that the command line takes."""

import os
import signal
import sys

import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.act = nn.ReLU()
        self.last = nn.Linear(8, 3)

    def forward(self, x):
        return self.last(self.act(self.first(x)))


def build():
    return Net().eval(), torch.linspace(-1, 1, 8).reshape(2, 4)


def loud():
    print("the factory prints")
    os.system("echo a child of the factory prints")
    return build()


def with_kwargs():
    return Two().eval(), None, {"a": torch.ones(2, 4), "b": torch.ones(2, 4)}


net = build()[0]
wrapped = nn.DataParallel(net)
samples = [torch.ones(2, 4), (torch.zeros(2, 4),)]


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.proj = nn.Linear(4, 4)

    def forward(self, a, b):
        return self.proj(a) + b


class Nested(nn.Module):
    def forward(self, pair, scale=None):
        return pair[0] * (scale or 2.0) + pair[1]


def nested():
    return Nested().eval(), ((torch.ones(2, 4), torch.ones(2, 4)),)


class Wrong(nn.Module):
    """Exports something else than it computes."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x):
        x = self.inner(x)
        return x * 3 if torch.onnx.is_in_onnx_export() else x * 2


class Crashing(nn.Module):
    """Ends the interpreter while it is exported."""

    def forward(self, x):
        if torch.onnx.is_in_onnx_export():
            os.kill(os.getpid(), signal.SIGSEGV)
        return x * 2


class Unexportable(nn.Module):
    def __init__(self):
        super().__init__()
        self.proj = nn.Linear(4, 4)

    def forward(self, x):
        return torch.special.bessel_j0(self.proj(x))


class OnlyTorchscript(nn.Module):
    """The default exporter cannot branch on data; the other one follows the branch it saw."""

    def __init__(self):
        super().__init__()
        self.proj = nn.Linear(4, 4)

    def forward(self, x):
        x = self.proj(x)
        return x * 2 if float(x.sum()) > 1e9 else x


class Raising(nn.Module):
    def forward(self, x):
        raise ValueError("bad luck\\nwith a second line")


class RaisingInExport(nn.Module):
    def __init__(self):
        super().__init__()
        self.proj = nn.Linear(4, 4)

    def forward(self, x):
        if torch.onnx.is_in_onnx_export():
            raise ValueError("not while exporting")
        return self.proj(x)


class Leaving(nn.Module):
    def forward(self, x):
        sys.exit("from a forward")


class Slow(nn.Module):
    """Says when it is being exported, and then takes its time."""

    def forward(self, x):
        if torch.onnx.is_in_onnx_export():
            import time

            with open("exporting", "w") as file:
                file.write("now")
            time.sleep(60)
        return x * 2


def raising():
    raise RuntimeError("no weights\\nand a second line")


def training():
    return Net().train(), torch.ones(2, 4)


number = 3
'''


def alignkit(
    *arguments: str | Path, cwd: Path, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """``alignkit …`` as a process of its own, in ``cwd``."""
    return subprocess.run(
        command(*arguments), cwd=cwd, env=environment(env), capture_output=True, text=True, timeout=120
    )


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "alignkit", *map(str, arguments)]


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's, with the package importable from any folder."""
    return {**os.environ, "PYTHONPATH": str(ROOT), **(more or {})}


def run_python(code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, env=environment(), capture_output=True, text=True, timeout=120
    )
