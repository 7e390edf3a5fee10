"""What can be wrong with weights in a format."""

from __future__ import annotations


class FormatError(ValueError):
    """Weights do not have the shape, dtype or content that their format demands."""


class UnsupportedFormat(FormatError):
    """A format, or a variant of one, that is known by name and cannot be read."""
