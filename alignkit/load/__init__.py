"""What the command line's arguments name, as objects: models, inputs, shapes, dynamic axes.

Importing this package is quick: torch, numpy and safetensors are imported when first needed.
"""

from __future__ import annotations

from alignkit.load.arguments import ModelInputs
from alignkit.load.inputs import check_names, load_inputs
from alignkit.load.models import LoadedModel, load_model
from alignkit.load.shapes import InputShape, parse_dynamic, parse_shape, random_inputs

__all__ = [
    "InputShape",
    "LoadedModel",
    "ModelInputs",
    "check_names",
    "load_inputs",
    "load_model",
    "parse_dynamic",
    "parse_shape",
    "random_inputs",
]
