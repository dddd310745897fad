"""Plan: what a comparison of a file, or of a decoder of a given size, would need, without running it.

::

    shapes -> flops -> taps -> schedule (a file)       -> costs -> words
                               decoder (its size alone)

Importing this package is quick: onnx is imported when a file is first planned, torch never.
"""

from __future__ import annotations
