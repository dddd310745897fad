"""Report: what a comparison found, and the renderers that turn it into text, files and pictures."""

from alignkit.report.report import Report

__all__ = ["Report"]
