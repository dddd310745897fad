"""Dumps: one run in one file, so that two runs can be compared offline, wherever they were made.

``records``      what a dump says of itself and of its taps
``container``    the safetensors file: written piece by piece, read without loading it
``header``       the JSON text in it: the schema, written and read here and nowhere else
``files``        write and read a dump in either tier
``statistics``   what stands for a tensor in the statistics tier
``estimate``     what the statistics of two tensors tell of their difference
``measured``     one pair of tensors, in either tier
``eager``        a capture of the eager run, as a dump
``graph``        the values of an ONNX file's run, as a dump
``difference``   two dumps -> the rows of a report
``start``        the first tap that differs, and whether its inputs agree

Nothing but ``graph`` needs more than numpy.
"""

from __future__ import annotations

from alignkit.dump.difference import compare_dumps
from alignkit.dump.files import Dump, check_dump_target, read_dump, write_dump
from alignkit.dump.records import About, DumpedTap

__all__ = [
    "About",
    "Dump",
    "DumpedTap",
    "check_dump_target",
    "compare_dumps",
    "read_dump",
    "write_dump",
]
