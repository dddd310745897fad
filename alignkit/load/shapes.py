"""Inputs by shape (``x:1x3x224x224:float32``) and dynamic axes (``x:0=batch``)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from alignkit.errors import InputError
from alignkit.load.arguments import ModelInputs
from alignkit.load.objects import summarise_error

if TYPE_CHECKING:
    import torch

FLOATS = ("float32", "float16", "bfloat16", "float64")
INTEGERS = ("int64", "int32", "int16", "int8", "uint8")
DTYPES = (*FLOATS, *INTEGERS, "bool")

INTEGERS_BELOW = 100

_SHAPE = re.compile(r"(?:(?P<name>.+):)?(?P<dims>\d+(?:x\d+)*|scalar)(?::(?P<dtype>[A-Za-z]\w*))?")
_SHAPE_FORM = "[name:]dims[:dtype], e.g. x:1x3x224x224 or ids:1x128:int64"
_AXIS = re.compile(r"(?P<axis>\d+)(?:=(?P<name>.*))?")


@dataclass(frozen=True, slots=True)
class InputShape:
    """An input by its shape. ``name`` is ``None`` for a positional one; ``dtype`` is torch's name."""

    name: str | None
    dims: tuple[int, ...]
    dtype: str = "float32"

    def __str__(self) -> str:
        dims = "x".join(map(str, self.dims)) or "scalar"
        return f"{self.name}:{dims}:{self.dtype}" if self.name else f"{dims}:{self.dtype}"

    @property
    def short(self) -> str:
        """As one would type it: without the type that is understood."""
        return str(self).removesuffix(":float32")


def parse_shape(text: str) -> InputShape:
    """``[name:]dims[:dtype]``, e.g. ``1x3x224x224``, ``ids:1x128:int64``, ``step:scalar:int64``.

    ``dtype`` is one of :data:`DTYPES`, float32 by default. Raises :class:`InputError`.
    """
    match = _SHAPE.fullmatch(text.strip())
    if match is None:
        raise InputError(f"{text!r} is not a shape; write {_SHAPE_FORM}.")
    dims = () if match["dims"] == "scalar" else tuple(int(size) for size in match["dims"].split("x"))
    if 0 in dims:
        raise InputError(f"the shape {text!r} has a size of 0: no elements to compare; sizes start at 1.")
    dtype = match["dtype"] or "float32"
    if dtype not in DTYPES:
        raise InputError(
            f"the shape {text!r} has no known type ({dtype!r}); choose from {', '.join(DTYPES)}."
        )
    return InputShape(match["name"], dims, dtype)


def random_inputs(
    shapes: Sequence[InputShape], seed: int = 0, *, integers_below: int = INTEGERS_BELOW
) -> ModelInputs:
    """One sample of random tensors, the same for the same shapes and seed; the global RNG is left alone.

    Floats are standard normal, booleans are even odds, uint8 is in [0, 256) like a pixel, other
    integers are in [0, ``integers_below``): small enough to index almost any vocabulary. A model
    whose integers mean something else (masks, segment ids) needs real inputs. Named shapes become
    keyword arguments, unnamed ones positional.
    """
    import torch

    if not 0 <= seed < 2**63:
        raise InputError(f"{seed} cannot seed the random inputs; choose a whole number from 0 to 2**63 - 1.")
    if integers_below < 1:
        raise InputError(f"no integer lies in [0, {integers_below}); choose a bound of at least 1.")
    generator = torch.Generator().manual_seed(seed)
    args: list[torch.Tensor] = []
    kwargs: dict[str, torch.Tensor] = {}
    for shape in shapes:
        try:
            tensor = _random_tensor(shape, generator, integers_below)
        except (RuntimeError, TypeError) as error:  # torch has no type of its own for "out of memory"
            raise InputError(
                f"no tensor {shape} can be made ({summarise_error(error)}); choose a smaller shape."
            ) from error
        if shape.name is None:
            args.append(tensor)
        elif shape.name in kwargs:
            raise InputError(
                f"the input {shape.name!r} is given two shapes; keep one of them, or quote alternatives: "
                f"'{shape.name}:{{1,4}}x3'."
            )
        else:
            kwargs[shape.name] = tensor
    return ModelInputs(tuple(args), kwargs, f"random (seed {seed}) {' '.join(map(str, shapes))}".rstrip())


def parse_dynamic(texts: Sequence[str]) -> dict[str, dict[int, str]]:
    """Dynamic axes as input name -> {axis: name of the dimension}, from ``x:0`` or ``x:0=batch,2=height``.

    An axis without a name gets one of its own (``x:0`` is ``x_dim0``); axes that share a name share
    their size. Several texts for one input add up. Raises :class:`InputError`.
    """
    dynamic: dict[str, dict[int, str]] = {}
    for text in texts:
        name, _, axes = text.strip().rpartition(":")
        if not name:
            raise _not_dynamic(text)
        known = dynamic.setdefault(name, {})
        for item in axes.split(","):
            axis, dimension = _parse_axis(item.strip(), name, text)
            if axis in known:
                raise InputError(f"axis {axis} of {name!r} is made dynamic twice (in {text!r}); keep one.")
            known[axis] = dimension
    return dynamic


def _parse_axis(item: str, input_name: str, text: str) -> tuple[int, str]:
    match = _AXIS.fullmatch(item)
    if match is None:
        raise _not_dynamic(text)
    axis = int(match["axis"])
    if match["name"] is None:
        # the exporters ask for an identifier; a graph input may be called "input.1" or "0"
        return axis, re.sub(r"\W|^(?=\d)", "_", input_name) + f"_dim{axis}"
    if not match["name"].isidentifier():
        raise InputError(
            f"{match['name']!r} in {text!r} cannot name a dimension; use letters, digits and _, e.g. batch."
        )
    return axis, match["name"]


def _not_dynamic(text: str) -> InputError:
    return InputError(
        f"{text!r} does not say which axes are dynamic; write input:axis, axes counted from 0, "
        "e.g. x:0 or x:0=batch,2=height."
    )


def _random_tensor(shape: InputShape, generator: torch.Generator, integers_below: int) -> torch.Tensor:
    import torch

    dtype: torch.dtype = getattr(torch, shape.dtype)
    if shape.dtype == "bool":
        return torch.randint(0, 2, shape.dims, generator=generator).bool()
    if shape.dtype in INTEGERS:
        high = 256 if shape.dtype == "uint8" else min(integers_below, torch.iinfo(dtype).max + 1)
        return torch.randint(0, high, shape.dims, generator=generator).to(dtype)
    # drawn in float32, so that float16 and bfloat16 get the same values, rounded
    drawn = torch.float64 if dtype == torch.float64 else torch.float32
    return torch.randn(shape.dims, generator=generator, dtype=drawn).to(dtype)
