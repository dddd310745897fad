"""What the command line's arguments name, as objects: models, inputs, shapes, dynamic axes.

Importing this package is quick: torch, numpy and safetensors are imported when first needed.
"""

from __future__ import annotations

from alignkit.load.arguments import LazyInputs, ModelInputs
from alignkit.load.inputs import check_names, load_inputs
from alignkit.load.models import LoadedModel, load_model
from alignkit.load.several import InputSource, given_inputs, open_inputs
from alignkit.load.shapes import InputShape, parse_dynamic, parse_shape, random_inputs
from alignkit.load.sweep import expand_shapes

__all__ = [
    "InputShape",
    "InputSource",
    "LazyInputs",
    "LoadedModel",
    "ModelInputs",
    "check_names",
    "expand_shapes",
    "given_inputs",
    "load_inputs",
    "load_model",
    "open_inputs",
    "parse_dynamic",
    "parse_shape",
    "random_inputs",
]
