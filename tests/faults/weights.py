"""Files of another checkpoint of the same model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import nn

from alignkit.records import ROOT
from tests.faults.case import Fault, FaultCase, Prepared
from tests.faults.hosts import marked_file
from tests.faults.injected import HOSTS

Retrain = Callable[[nn.Module], None]


def _build(host: str, retrain: Retrain, module: str, exporter: str, folder: Path) -> Prepared:
    """The file holds the checkpoint from before ``retrain``, which the first of its changes, in
    execution order, made at ``module``."""
    built, path = marked_file(host, HOSTS[host], exporter, folder)
    model = copy.deepcopy(built.model)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        retrain(model)
    options = {"onnx": path}
    return Prepared(model, built.args, built.kwargs, options, (Fault.at(module, "weights"),))


def _all_parameters(model: nn.Module) -> None:
    """A few more steps of training: everything moves a little."""
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.02 * (parameter.abs().mean() + 0.01))


def _one(path: str) -> Retrain:
    def retrain(model: nn.Module) -> None:
        parameter = model.get_parameter(path)
        parameter.add_(torch.randn_like(parameter) * 0.05 * parameter.abs().mean())

    return retrain


def _statistics(path: str) -> Retrain:
    """BatchNorm statistics estimated anew."""

    def retrain(model: nn.Module) -> None:
        model.get_buffer(f"{path}.running_mean").add_(0.05)
        model.get_buffer(f"{path}.running_var").mul_(1.1)

    return retrain


def _fresh(path: str) -> Retrain:
    """A layer that was initialised again: another tensor altogether."""

    def retrain(model: nn.Module) -> None:
        nn.init.xavier_uniform_(model.get_parameter(path))

    return retrain


def _anchors(model: nn.Module) -> None:
    """Anchor boxes a little larger than before."""
    model.get_buffer("anchors")[:, 2:].mul_(1.05)


def _case(name: str, host: str, retrain: Retrain, module: str, why: str) -> FaultCase:
    return FaultCase(f"weights/{host}/{name}", "weights", partial(_build, host, retrain, module), why)


CASES = (
    _case("all", "resnet", _all_parameters, "conv1", "the file is a checkpoint behind, everywhere"),
    _case("one", "resnet", _one("layer3.0.conv2.weight"), "layer3.0.conv2", "one filter was fine-tuned"),
    _case("statistics", "resnet", _statistics("layer2.0.bn1"), "layer2.0.bn1", "statistics estimated anew"),
    _case("head", "resnet", _fresh("fc.weight"), "fc", "the head was trained afresh"),
    _case(
        "query",
        "bert",
        _one("bert.encoder.layer.1.attention.self.query.weight"),
        "bert.encoder.layer.1.attention.self.query",
        "one projection was fine-tuned",
    ),
    _case(
        "embedding",
        "bert",
        _one("bert.embeddings.word_embeddings.weight"),
        "bert.embeddings.word_embeddings",
        "a token table of another version",
    ),
    _case("packed", "vit", _one("blocks.1.attn.qkv.weight"), "blocks.1.attn.qkv", "a packed projection"),
    _case("recurrent", "lstm", _one("lstm.weight_hh_l1"), "lstm", "the recurrent matrix of the second layer"),
    _case("all", "digits-trained", _all_parameters, "conv1", "trained for a little longer"),
    _case(
        "norm",
        "llama",
        _one("network.model.layers.1.post_attention_layernorm.weight"),
        "network.model.layers.1.post_attention_layernorm",
        "an RMSNorm's scale",
    ),
    _case("anchors", "detector-dict", _anchors, ROOT, "a buffer of constants from another configuration"),
)
