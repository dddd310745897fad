"""Diagnose: where errors start, which ONNX nodes compute them there, and what is known of the cause."""

from alignkit.diagnose.roots import Diagnosis, Surroundings, find_culprits
from alignkit.diagnose.segment import segment_nodes

__all__ = ["Diagnosis", "Surroundings", "find_culprits", "segment_nodes"]
