"""Diagnose: where errors start, which ONNX nodes compute them there, and what is known of the cause."""

from alignkit.diagnose.bench import Bench, distance
from alignkit.diagnose.culprits import Closer, Fusion, Surroundings, Suspect
from alignkit.diagnose.flips import Start
from alignkit.diagnose.full_precision import in_full_precision
from alignkit.diagnose.repro import bundle_name, make_bundle
from alignkit.diagnose.roots import Diagnosis, find_culprits, is_certain
from alignkit.diagnose.segment import Segment, find_segment, segment_model

__all__ = [
    "Bench",
    "Closer",
    "Diagnosis",
    "Fusion",
    "Segment",
    "Start",
    "Surroundings",
    "Suspect",
    "bundle_name",
    "distance",
    "find_culprits",
    "find_segment",
    "in_full_precision",
    "is_certain",
    "make_bundle",
    "segment_model",
]
