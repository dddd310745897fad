"""Right models fed wrong inputs: the deployed side's own preprocessing differs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from alignkit.records import ROOT
from tests import zoo
from tests.faults.case import Fault, FaultCase, Prepared
from tests.faults.hosts import marked_file
from tests.faults.injected import HOSTS

_FAULT = (Fault.at(ROOT, "input"),)


def _images(host: str, spoil: Callable[[Tensor], Tensor], exporter: str, folder: Path) -> Prepared:
    """A healthy marked file of ``host``, its deployed side fed ``spoil(image)``."""
    built, path = marked_file(host, HOSTS[host], exporter, folder)
    args = tuple(spoil(value) if index == 0 else value for index, value in enumerate(built.args))
    options = {"onnx": path, "candidate_inputs": [(args)]}
    return Prepared(built.model, built.args, built.kwargs, options, _FAULT)


def _padding_side(exporter: str, folder: Path) -> Prepared:
    """GPT-2, tokens and mask padded on the left in one place and on the right in the other."""
    built, path = marked_file("gpt2", zoo.resolve("gpt2").build, exporter, folder)
    ids, mask = (value.clone() for value in built.args)
    mask[:] = 1
    mask[:, -3:], ids[:, -3:] = 0, 0
    rolled = ids.roll(3, 1), mask.roll(3, 1)
    options = {"onnx": path, "inputs": [(ids, mask)], "candidate_inputs": [rolled]}
    return Prepared(built.model, built.args, built.kwargs, options, _FAULT)


Spoil = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def _tokens(spoil: Spoil, exporter: str, folder: Path) -> Prepared:
    """BERT, its deployed side fed ``spoil(tokens, mask)``."""
    built, path = marked_file("bert", zoo.resolve("bert").build, exporter, folder)
    ids, mask = built.args[0], built.kwargs["attention_mask"]
    options = {"onnx": path, "inputs": [(ids, mask)], "candidate_inputs": [spoil(ids, mask)]}
    return Prepared(built.model, built.args, built.kwargs, options, _FAULT)


def _layout(image: Tensor) -> Tensor:
    """The bytes of an NHWC image read as NCHW."""
    return image.permute(0, 2, 3, 1).contiguous().reshape(image.shape)


_MEAN, _STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


def _unnormalised(image: Tensor) -> Tensor:
    return image * _STD[:, None, None] + _MEAN[:, None, None]


def _image_case(name: str, host: str, spoil: Callable[[Tensor], Tensor], why: str) -> FaultCase:
    return FaultCase(f"inputs/{name}", "inputs", partial(_images, host, spoil), why)


def _token_case(name: str, spoil: Spoil, why: str) -> FaultCase:
    return FaultCase(f"inputs/{name}", "inputs", partial(_tokens, spoil), why)


CASES = (
    _image_case("nhwc", "resnet", _layout, "an NHWC buffer is read as NCHW"),
    _image_case("bgr", "resnet", lambda x: x.flip(1), "channels in the order of OpenCV"),
    _image_case("scale-255", "vit", lambda x: x * 255, "bytes instead of 0 to 1"),
    _image_case("no-normalisation", "mobilenet-v3-small", _unnormalised, "mean and deviation not applied"),
    _image_case("float16", "unet", lambda x: x.half().float(), "the image passed through float16"),
    _image_case("mirrored", "vit", lambda x: x.flip(-1), "rows read from the other end"),
    _image_case(
        "rotated", "detector-dict", lambda x: x.transpose(2, 3).contiguous(), "height and width exchanged"
    ),
    FaultCase("inputs/padding-side", "inputs", _padding_side, "tokens padded on the other side"),
    _token_case("inverted-mask", lambda ids, mask: (ids, 1 - mask), "ones for padding"),
    _token_case("other-vocabulary", lambda ids, mask: (ids - 1, mask), "tokens are off by one"),
)
