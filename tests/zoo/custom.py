"""Models with operators of their own: in standard ONNX operators, or in a domain nobody implements."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.onnx import register_custom_op_symbolic, symbolic_helper  # type: ignore[attr-defined]

from tests.zoo.case import Built, Case, dynamic_axes, seeded, settled

CUSTOM_DOMAIN = "custom"
"""The ONNX domain of ``deform_conv2d``, for which onnxruntime has no kernel."""


def scaled_add(a: Tensor, b: Tensor) -> Tensor:
    """2 a + b, elementwise."""
    return 2 * a + b


def bicubic_resize(x: Tensor, scales: Tensor) -> Tensor:
    """``x`` (N, C, H, W) resized by ``scales`` (4,): one factor per axis, the first two of them 1."""
    factors = [float(scale) for scale in scales[2:]]
    return F.interpolate(x, scale_factor=factors, mode="bicubic", align_corners=False)


def deform_conv2d(x: Tensor, offset: Tensor, weight: Tensor, bias: Tensor, padding: int) -> Tensor:
    """Deformable convolution with stride 1, in plain PyTorch.

    ``x`` is (N, C, H, W), ``weight`` (O, C, kh, kw) and ``bias`` (O,). ``offset``
    (N, 2 kh kw, Ho, Wo) moves each sampling point: y then x of the first kernel element, and so on.
    Points between pixels are bilinear; outside the image there are zeros. Result: (N, O, Ho, Wo).
    """
    kernel = weight.shape[2] * weight.shape[3]
    points = offset.reshape(-1, kernel, 2, *offset.shape[2:]) + _sampling_points(offset, weight, padding)
    size = x.new_tensor(x.shape[2:])
    grid = (2 * points + 1) / size[:, None, None] - 1  # pixel centres, as grid_sample counts them
    grid = grid.permute(0, 1, 3, 4, 2).flip(-1)  # (N, kernel, Ho, Wo, (x, y))
    samples = F.grid_sample(x, grid.flatten(1, 2), mode="bilinear", align_corners=False)
    samples = samples.reshape(*x.shape[:2], kernel, *offset.shape[2:])
    return torch.einsum("nckhw,ock->nohw", samples, weight.flatten(2)) + bias[:, None, None]


def _sampling_points(offset: Tensor, weight: Tensor, padding: int) -> Tensor:
    """Where an ordinary convolution samples, as (kernel, 2, Ho, Wo) rows and columns."""

    def positions(kernel: int, size: int) -> Tensor:
        return torch.arange(kernel)[:, None] + torch.arange(size) - padding

    height, width = offset.shape[2:]
    rows = positions(weight.shape[2], height)[:, None, :, None]
    columns = positions(weight.shape[3], width)[None, :, None, :]
    shape = (weight.shape[2], weight.shape[3], height, width)
    points = torch.stack([rows.expand(shape), columns.expand(shape)], dim=2)
    return points.flatten(0, 1).to(offset.dtype)


def _resized_like(x: Tensor, scales: Tensor) -> Tensor:
    """The shape of a resized ``x``, of which only a run knows height and width."""
    context = torch.library.get_ctx()
    height, width = context.new_dynamic_size(min=1), context.new_dynamic_size(min=1)
    return x.new_empty(x.shape[0], x.shape[1], height, width)


def _convolved_like(x: Tensor, offset: Tensor, weight: Tensor, bias: Tensor, padding: int) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0], offset.shape[2], offset.shape[3])


def _register(kernel: Any, fake: Any) -> None:
    """Define ``zoo::<name of kernel>``, unless it is there (this module may be imported twice)."""
    name = kernel.__name__
    if not hasattr(torch.ops.zoo, name):
        operator = torch.library.custom_op(f"zoo::{name}", kernel, mutates_args=())
        operator.register_fake(fake)


_register(scaled_add, lambda a, b: torch.empty_like(a))
_register(bicubic_resize, _resized_like)
_register(deform_conv2d, _convolved_like)


class ScaledAddNet(nn.Module):
    """Two convolutions joined by 2 a + b."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(3, 8, 3, padding=1)
        self.right = nn.Conv2d(3, 8, 1)
        self.head = nn.Conv2d(8, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        joined = torch.ops.zoo.scaled_add(self.left(x), self.right(x))
        return self.head(torch.relu(joined))  # type: ignore[no-any-return]


class Upscale(torch.autograd.Function):
    """Bicubic resizing whose factors are an input of the graph, not a constant in it."""

    @staticmethod
    def symbolic(g: Any, x: Any, scales: Any) -> Any:
        no_region = g.op("Constant", value_t=torch.tensor([], dtype=torch.float32))
        return g.op(
            "Resize",
            x,
            no_region,
            scales,
            mode_s="cubic",
            cubic_coeff_a_f=-0.75,
            coordinate_transformation_mode_s="half_pixel",
            nearest_mode_s="floor",
        )

    @staticmethod
    def forward(ctx: Any, x: Tensor, scales: Tensor) -> Tensor:
        return torch.ops.zoo.bicubic_resize(x, scales)  # type: ignore[no-any-return]


class ScaledSuperResolution(nn.Module):
    """SRCNN that is told its upscale factors."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, kernel_size=9, padding=4)
        self.conv2 = nn.Conv2d(64, 32, kernel_size=1)
        self.conv3 = nn.Conv2d(32, 3, kernel_size=5, padding=2)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor, scales: Tensor) -> Tensor:
        x = Upscale.apply(x, scales)  # type: ignore[no-untyped-call]
        x = self.relu(self.conv1(x))
        x = self.relu(self.conv2(x))
        return self.conv3(x)  # type: ignore[no-any-return]


class DeformConv(nn.Module):
    """A 3 x 3 deformable convolution that predicts its own offsets."""

    def __init__(self, channels: int, features: int) -> None:
        super().__init__()
        self.offset = nn.Conv2d(channels, 18, 3, padding=1)
        self.weight = nn.Parameter(torch.randn(features, channels, 3, 3) / 9)
        self.bias = nn.Parameter(torch.zeros(features))

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.zoo.deform_conv2d(x, self.offset(x), self.weight, self.bias, 1)  # type: ignore[no-any-return]


class DeformableNet(nn.Module):
    """A deformable convolution with ordinary layers on either side."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.deform = DeformConv(8, 12)
        self.tail = nn.Sequential(nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 6, 3), nn.Flatten())
        self.head = nn.Linear(6 * 10 * 10, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.tail(self.deform(self.stem(x))))  # type: ignore[no-any-return]


def _build_scaled_add() -> Built:
    from onnxscript import opset18 as op

    def symbolic(g: Any, a: Any, b: Any) -> Any:
        two = g.op("Constant", value_t=torch.tensor(2.0))
        return g.op("Add", g.op("Mul", a, two), b)

    def translate(a: Any, b: Any) -> Any:
        return op.Add(op.Mul(a, op.Constant(value_float=2.0)), b)

    register_custom_op_symbolic("zoo::scaled_add", symbolic, 11)
    with seeded(61):
        model, x, other = ScaledAddNet().eval(), torch.randn(1, 3, 12, 12), torch.randn(2, 3, 12, 12)
    options = dynamic_axes({"x": {0: "batch"}}, {"y": {0: "batch"}})
    options["dynamo"]["custom_translation_table"] = {torch.ops.zoo.scaled_add.default: translate}
    return Built(model, (x,), export_options=options, other_inputs=(other,))


def _build_scaled_super_resolution() -> Built:
    from onnxscript import opset18 as op

    def translate(x: Any, scales: Any) -> Any:
        return op.Resize(
            x,
            None,
            scales,
            mode="cubic",
            cubic_coeff_a=-0.75,
            coordinate_transformation_mode="half_pixel",
            nearest_mode="floor",
        )

    with seeded(62):
        model, x, other = ScaledSuperResolution().eval(), torch.rand(1, 3, 12, 12), torch.rand(1, 3, 12, 12)
    by_three, by_two = torch.tensor([1.0, 1.0, 3.0, 3.0]), torch.tensor([1.0, 1.0, 2.0, 2.0])
    names = {"input_names": ["x", "scales"], "output_names": ["y"]}
    options: dict[str, dict[str, Any]] = {
        "dynamo": {
            **names,
            "custom_translation_table": {torch.ops.zoo.bicubic_resize.default: translate},
        },
        "torchscript": {**names, "opset_version": 11, "dynamic_axes": {"y": {2: "height", 3: "width"}}},
    }
    return Built(model, (x, by_three), export_options=options, other_inputs=(other, by_two))


def _deform_conv2d_operator() -> Any:
    """The operator of our own domain, as the default exporter's translations call it."""
    from onnx.defs import OpSchema
    from onnxscript import values

    parameters = [OpSchema.FormalParameter(name, "T") for name in ("x", "offset", "weight", "bias")]
    schema = OpSchema(
        "deform_conv2d",
        CUSTOM_DOMAIN,
        1,
        inputs=parameters,
        outputs=[OpSchema.FormalParameter("y", "T")],
        type_constraints=[("T", ["tensor(float)", "tensor(double)"], "")],
        attributes=[OpSchema.Attribute("padding", OpSchema.AttrType.INT, required=True)],
    )
    return values.Op(values.Opset(CUSTOM_DOMAIN, 1), schema.name, schema)


def _build_deformable() -> Built:
    deform = _deform_conv2d_operator()

    @symbolic_helper.parse_args("v", "v", "v", "v", "i")
    def symbolic(g: Any, x: Any, offset: Any, weight: Any, bias: Any, padding: int) -> Any:
        output = g.op(f"{CUSTOM_DOMAIN}::deform_conv2d", x, offset, weight, bias, padding_i=padding)
        height, width = offset.type().sizes()[2:]
        return output.setType(
            x.type().with_sizes([x.type().sizes()[0], weight.type().sizes()[0], height, width])
        )

    def translate(x: Any, offset: Any, weight: Any, bias: Any, padding: int) -> Any:
        return deform(x, offset, weight, bias, padding=padding)

    register_custom_op_symbolic("zoo::deform_conv2d", symbolic, 11)
    with seeded(63):
        x, other = torch.randn(1, 3, 12, 12), torch.randn(1, 3, 12, 12)
        model = settled(DeformableNet(), other)
    options: dict[str, dict[str, Any]] = {
        "dynamo": {
            "custom_translation_table": {torch.ops.zoo.deform_conv2d.default: translate},
        },
        "torchscript": {"custom_opsets": {CUSTOM_DOMAIN: 1}},
    }
    return Built(model, (x,), export_options=options, other_inputs=(other,))


CASES = (
    Case("custom-scaled-add", _build_scaled_add, other_inputs="batch"),
    Case("srcnn-scale-input", _build_scaled_super_resolution, other_inputs="values, output size"),
    Case("deform-conv-no-kernel", _build_deformable, other_inputs="values", has_kernels=False),
)
