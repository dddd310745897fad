"""Two instructions of the processor that numba gives no name to."""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any, cast

import numba
from llvmlite import binding, ir
from numba import types
from numba.extending import intrinsic

CONVERTS_HALF = getattr(numba.config, "CPU_NAME", None) is None and (
    binding.get_host_cpu_features().get("f16c", False) or platform.machine() in ("arm64", "aarch64")
)
"""Whether the processor converts float16 itself; without that :func:`from_half` does not link."""

_BYTE, _WORD = ir.IntType(8), ir.IntType(32)
_READ, _KEEP, _DATA = _WORD(0), _WORD(3), _WORD(1)


@intrinsic
def _prefetch(_typing: Any, array: Any, _index: Any) -> tuple[Any, Callable[..., Any]]:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        values = context.make_array(signature.args[0])(context, builder, arguments[0])
        address = builder.bitcast(builder.gep(values.data, [arguments[1]]), _BYTE.as_pointer())
        kinds = ir.FunctionType(ir.VoidType(), [_BYTE.as_pointer(), _WORD, _WORD, _WORD])
        function = builder.module.declare_intrinsic("llvm.prefetch", [_BYTE.as_pointer()], kinds)
        builder.call(function, [address, _READ, _KEEP, _DATA])
        return context.get_dummy_value()

    return types.void(array, types.int64), generate


@intrinsic
def _from_half(_typing: Any, _pattern: Any) -> tuple[Any, Callable[..., Any]]:
    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.fpext(builder.bitcast(arguments[0], ir.HalfType()), ir.FloatType())

    return types.float32(types.int16), generate


prefetch = cast("Callable[[Any, int], None]", _prefetch)
"""``prefetch(array, index)``: have the line of that element brought near. Any index may be given: what is
not there is not brought."""

from_half = cast("Callable[[int], float]", _from_half)
"""``from_half(pattern)``: the float32 of a float16, whose pattern is given as int16."""
