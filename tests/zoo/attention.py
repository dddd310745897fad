"""Transformers: vision, language, and torch's own encoder."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tests.torchvision_import import import_torchvision
from tests.zoo.case import Built, Case, dynamic_axes, enliven, seeded

_VOCABULARY = 101
_SMALL = {"vocab_size": _VOCABULARY, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
_WEIGHT_SPREAD = 0.125  # 1 / sqrt(hidden size): at the usual 0.02 so small a model hardly attends
_TEXT_AXES = {0: "batch", 1: "sequence"}
_TEXT_INPUTS = {"input_ids": _TEXT_AXES, "attention_mask": _TEXT_AXES}


def _token_ids(batch: int, length: int) -> Tensor:
    return torch.randint(1, _VOCABULARY, (batch, length))


def _padding_mask(token_ids: Tensor) -> Tensor:
    """Ones, and zeros for the last two tokens of the last row."""
    mask = torch.ones_like(token_ids)
    mask[-1, -2:] = 0
    return mask


def _transformers() -> Any:
    import_torchvision()  # transformers imports it where it is installed
    import transformers

    return transformers


class LanguageModel(nn.Module):
    """The logits of a causal language model from transformers, as one wraps it to deploy it.

    The mask is an input too: without one, transformers looks for packed sequences with
    ``torch.diff``, which the legacy exporter does not know.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        output = self.network(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
        return output.logits  # type: ignore[no-any-return]


def _build_vit() -> Built:
    torchvision = import_torchvision()
    with seeded(21):
        model = torchvision.models.VisionTransformer(
            image_size=32, patch_size=8, num_layers=2, num_heads=4, hidden_dim=64, mlp_dim=128, num_classes=10
        ).eval()
        enliven(model)
        x, other = torch.randn(2, 3, 32, 32), torch.randn(2, 3, 32, 32)
    return Built(model, (x,), other_inputs=(other,))


def _build_timm_vit() -> Built:
    import_torchvision()
    import timm

    with seeded(22):
        model = timm.create_model(
            "vit_tiny_patch16_224", pretrained=False, img_size=64, depth=3, num_classes=10
        ).eval()
        enliven(model)
        x, other = torch.randn(1, 3, 64, 64), torch.randn(1, 3, 64, 64)
    return Built(model, (x,), other_inputs=(other,))


def _build_bert() -> Built:
    transformers = _transformers()
    config = transformers.BertConfig(
        **_SMALL,
        initializer_range=_WEIGHT_SPREAD,
        intermediate_size=128,
        max_position_embeddings=32,
        attn_implementation="eager",
    )
    with seeded(23):
        model = transformers.BertForSequenceClassification(config).eval()
        ids, other = _token_ids(2, 8), _token_ids(3, 11)
    options = dynamic_axes(_TEXT_INPUTS, {"logits": {0: "batch"}})
    mask, other_mask = _padding_mask(ids), _padding_mask(other)
    return Built(model, (ids,), {"attention_mask": mask}, options, other_inputs=(other, other_mask))


def _build_gpt2() -> Built:
    transformers = _transformers()
    config = transformers.GPT2Config(
        vocab_size=_VOCABULARY,
        n_embd=64,
        n_layer=2,
        n_head=4,
        n_positions=32,
        initializer_range=_WEIGHT_SPREAD,
        bos_token_id=0,
        eos_token_id=0,
        use_cache=False,
        attn_implementation="eager",
    )
    with seeded(24):
        model = LanguageModel(transformers.GPT2LMHeadModel(config)).eval()
        ids, other = _token_ids(2, 8), _token_ids(3, 11)
    options = dynamic_axes(_TEXT_INPUTS, {"logits": _TEXT_AXES})
    mask, other_mask = _padding_mask(ids), _padding_mask(other)
    return Built(model, (ids, mask), export_options=options, other_inputs=(other, other_mask))


def _build_llama() -> Built:
    transformers = _transformers()
    config = transformers.LlamaConfig(
        **_SMALL,
        initializer_range=_WEIGHT_SPREAD,
        intermediate_size=128,
        num_key_value_heads=2,
        max_position_embeddings=32,
        use_cache=False,
        attn_implementation="sdpa",
    )
    with seeded(25):
        model = LanguageModel(transformers.LlamaForCausalLM(config)).eval()
        ids, other = _token_ids(2, 8), _token_ids(3, 11)
    options = dynamic_axes(_TEXT_INPUTS, {"logits": _TEXT_AXES})
    mask, other_mask = _padding_mask(ids), _padding_mask(other)
    return Built(model, (ids, mask), export_options=options, other_inputs=(other, other_mask))


def _build_distilbert() -> Built:
    """Every hidden state as well: a dataclass with a tuple of tensors in it."""
    transformers = _transformers()
    config = transformers.DistilBertConfig(
        vocab_size=_VOCABULARY,
        dim=64,
        initializer_range=_WEIGHT_SPREAD,
        n_layers=2,
        n_heads=4,
        hidden_dim=128,
        max_position_embeddings=32,
        output_hidden_states=True,
        attn_implementation="eager",
    )
    with seeded(26):
        model = transformers.DistilBertForQuestionAnswering(config).eval()
        ids, other = _token_ids(2, 8), _token_ids(2, 8)
    return Built(model, (ids,), other_inputs=(other,))


def _build_bert_model() -> Built:
    """The bare model, whose forward is decorated and returns a dataclass."""
    transformers = _transformers()
    config = transformers.BertConfig(
        **_SMALL, initializer_range=_WEIGHT_SPREAD, intermediate_size=128, max_position_embeddings=32
    )
    with seeded(28):
        model = transformers.BertModel(config).eval()
        ids = _token_ids(2, 8)
    return Built(model, (ids,), {"attention_mask": _padding_mask(ids)})


def _build_encoder(*, frozen: bool = False) -> Built:
    """Each layer has a fused fast path, taken in eval mode where no gradient is needed.

    A reference run takes it always. An export, which runs with gradients on, takes it only if no
    parameter wants any (``frozen``).
    """
    with seeded(27):
        layer = nn.TransformerEncoderLayer(64, 4, dim_feedforward=128, batch_first=True)
        model = nn.TransformerEncoder(layer, num_layers=2).eval()
        for parameter in model.parameters():
            parameter.requires_grad_(not frozen)
            if parameter.dim() > 1:
                nn.init.xavier_normal_(parameter)  # the layers are copies of one another until now
        x, other = torch.randn(2, 9, 64), torch.randn(3, 9, 64)
    options = dynamic_axes({"src": {0: "batch"}}, {"encoded": {0: "batch"}})
    return Built(model, (x,), export_options=options, other_inputs=(other,))


CASES = (
    Case("vit", _build_vit, other_inputs="values"),
    Case("vit-timm", _build_timm_vit, other_inputs="values"),
    Case("bert", _build_bert, other_inputs="batch, sequence"),
    Case(
        "bert-model-kwargs",
        _build_bert_model,
        unsupported={"torchscript": "BertModel.forward() got multiple values for argument 'use_cache'"},
    ),
    Case("gpt2", _build_gpt2, other_inputs="batch, sequence"),
    Case("llama", _build_llama, other_inputs="batch, sequence", slow=True),
    Case("distilbert-model-output", _build_distilbert, other_inputs="values"),
    Case("transformer-encoder", _build_encoder, other_inputs="batch"),
    Case(
        "transformer-encoder-frozen",
        partial(_build_encoder, frozen=True),
        other_inputs="batch",
        unsupported={"torchscript": "Exporting the operator 'aten::_transformer_encoder_layer_fwd' to ONNX"},
    ),
)
