"""Map the taps of a model to the values of an ONNX file that nobody marked.

Names propose, numbers decide:

1. The reference's tensors and every value of the file's main graph get a *fingerprint*: sums that no
   permutation or reshape changes, and projections in the elements' own order. Where two agree the
   tensors themselves are compared, which also gives the *layout* (axes permuted, dimensions merged).
2. A value belongs to the tensor nearest to it and a tensor to its nearest value. Reshapes and casts
   of one value count as one. What several values hold is decided by *provenance* (exporter metadata,
   node names, parameters read), then by the neighbours; else it is ambiguous, and said to be.
3. In *rounds* the graph is cut at all that is mapped and fed with the reference there, so that error
   ends at the next mapped value and what lies behind a fault is found as well. At the fault itself
   numbers cannot agree: there a name decides, as long as no exact value is computed from it and
   neither the value's own name nor its numbers speak for another module's tensor.
4. What has no value gets its reason: *fused* into a node that computes more, *missing*, *ambiguous*.

Read in this order: ``records``, ``fingerprint``, ``values`` (the file), ``recorded`` (the reference),
``weights`` and ``provenance`` (names), ``choose``, ``proposals`` and ``neighbours`` (rules), ``search``
(rounds), ``supposed`` (past a fault), ``account`` (reasons), ``mapper`` (the whole), ``pins`` (what the
user says), ``marking`` (a mapped file as a marked one).
"""

from alignkit.mapping.fingerprint import distance
from alignkit.mapping.mapper import map_taps
from alignkit.mapping.marking import PREFIX, mark_values
from alignkit.mapping.pins import load_map, save_map
from alignkit.mapping.records import How, Layout, MappedTap, TapMapping
from alignkit.mapping.values import Run, fetch_values, measure_shapes, read_values

__all__ = [  # noqa: RUF022 (plain order)
    "How",
    "Layout",
    "MappedTap",
    "PREFIX",
    "Run",
    "TapMapping",
    "distance",
    "fetch_values",
    "load_map",
    "map_taps",
    "mark_values",
    "measure_shapes",
    "read_values",
    "save_map",
]
