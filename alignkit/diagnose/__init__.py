"""Diagnose: where errors start, which ONNX nodes compute them there, and what is known of the cause."""

from alignkit.diagnose.experiments import Bench, distance
from alignkit.diagnose.roots import Diagnosis, Surroundings, find_culprits
from alignkit.diagnose.segment import Segment

__all__ = ["Bench", "Diagnosis", "Segment", "Surroundings", "distance", "find_culprits"]
