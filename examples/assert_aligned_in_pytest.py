"""Alignment as a test: copy this into your suite and put your model in place of the BERT.

    pytest examples/assert_aligned_in_pytest.py        (or run it as a script)

A failing ``alignkit.assert_aligned`` raises an ``AssertionError`` whose text is the report.
"""

from __future__ import annotations

import sys

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import alignkit


class GeluOfTheTarget(nn.Module):
    """GELU, but its tanh approximation in the exported file: "faster there", and not the same."""

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x, approximate="tanh" if torch.onnx.is_in_onnx_export() else "none")


@pytest.fixture
def bert(monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """A BERT of two layers with random weights: a layer is right or wrong whatever its weights are."""
    # BERT sees no pictures; where torchvision does not fit the installed torch, transformers trips on it.
    monkeypatch.setitem(sys.modules, "torchvision", None)
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=100, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128
    )
    return BertForSequenceClassification(config).eval()


@pytest.fixture
def sentences() -> dict[str, Tensor]:
    """Two sentences of eight tokens, the second padded by two."""
    mask = torch.ones(2, 8, dtype=torch.long)
    mask[1, -2:] = 0
    return {"input_ids": torch.randint(0, 100, (2, 8)), "attention_mask": mask}


def test_bert_is_aligned(bert: nn.Module, sentences: dict[str, Tensor]) -> None:
    """Every layer of the exported file computes what PyTorch computes, up to float rounding."""
    alignkit.assert_aligned(bert, kwargs=sentences)


def test_a_shortcut_taken_only_in_the_export_is_named(bert: nn.Module, sentences: dict[str, Tensor]) -> None:
    """The failure's text names the layer that was exchanged."""
    bert.bert.encoder.layer[1].intermediate.intermediate_act_fn = GeluOfTheTarget()
    with pytest.raises(alignkit.DivergenceError, match=r"starts at bert\.encoder\.layer\.1\.intermediate"):
        alignkit.assert_aligned(bert, kwargs=sentences, exporter="torchscript")


if __name__ == "__main__":
    sys.exit(pytest.main([__file__, "-q"]))
