"""How far a candidate tensor is from its reference: chunk by chunk, never a whole copy, in numpy alone or,
where it is installed, by loops that numba compiles.

``measure``    the public measurement: spans of chunks, threads, the final figures
``kernel``     what one chunk adds: sums, maxima, the share beyond tolerance, non-finite elements
``one_pass``   the same of a large tensor of plain numbers, by ``compiled``: the loops for numba, which use
               ``intrinsics``: two instructions that it has no name for
``tally``      what is kept of the chunks seen so far, and how two halves are joined
``chunks``     flat pieces of any array, the scratch memory they are worked on in
``ordering``   distance in units in the last place, from the bits
``dtypes``     kinds of dtype and their spacing, numpy's own and those of ml_dtypes
``histogram``  the distribution of the errors
"""

from __future__ import annotations

from alignkit.metrics.dtypes import dtype_kind, ulp
from alignkit.metrics.histogram import error_histogram
from alignkit.metrics.measure import measure_error
from alignkit.metrics.one_pass import compiled_loops

__all__ = ["compiled_loops", "dtype_kind", "error_histogram", "measure_error", "ulp"]
