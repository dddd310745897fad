"""The exceptions that alignkit raises, and the exit codes of the command line."""

from __future__ import annotations

EXIT_ALIGNED = 0
EXIT_DIVERGED = 1
EXIT_USAGE = 2


class AlignkitError(Exception):
    """Base of every error raised on purpose: one line that says what, where and what to do next."""


class ModelError(AlignkitError):
    """The model could not be imported, built, run or instrumented."""


class InputError(AlignkitError):
    """The inputs do not fit the model or the ONNX graph, or could not be read."""


class TapError(AlignkitError):
    """A tap was named, selected or placed in a way that cannot work."""


class ExportError(AlignkitError):
    """An exporter failed."""


class OnnxFileError(AlignkitError):
    """A file is not there, is not an ONNX model, or lacks what the comparison needs."""


class BackendError(AlignkitError):
    """The runtime that should run the candidate cannot: no such provider, no kernel, a failed run."""


class CompareError(AlignkitError):
    """The comparison would be empty or meaningless."""


class PassError(AlignkitError):
    """A pass is not known, lacks its package, or failed on the file that it was given."""


class ReportError(AlignkitError):
    """A report could not be read or written."""


class StorageError(AlignkitError):
    """There is no room for what a comparison must hold, in memory or in the folder for temporary files."""


class AlignkitWarning(UserWarning):
    """Something the comparison can live with but the user should know, e.g. a model in training mode."""


class DivergenceError(AssertionError):
    """Raised by :func:`alignkit.assert_aligned`; its text names the culprit."""


def first_line(error: BaseException) -> str:
    """What an exception says, in one line."""
    return (str(error).strip().splitlines() or ["(no message)"])[0]
