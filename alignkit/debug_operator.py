"""What the ``my::Debug`` operator is called in a file. Importing this loads nothing, torch least of all."""

from __future__ import annotations

DOMAIN = "my"
OP_TYPE = "Debug"
OPSET_VERSION = 1
NAME_ATTRIBUTE = "name"
