"""Extract: turn a marked file into probe models that a runtime can load.

``marked`` reads a file and finds its taps, ``probes`` cuts the models between them.
"""

from alignkit.extract.marked import read_marked
from alignkit.extract.probes import NodeFilter, Probe, extract_introduced, extract_propagated

__all__ = ["NodeFilter", "Probe", "extract_introduced", "extract_propagated", "read_marked"]
