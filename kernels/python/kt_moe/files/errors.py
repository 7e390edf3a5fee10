"""What can be wrong with a file of weights."""

from __future__ import annotations


class FileError(ValueError):
    """A file of weights that cannot be read; `what` names it, `why` the fact."""

    def __init__(self, what: str, why: str = "") -> None:
        super().__init__(f"{what}: {why}" if why else what)
        self.what = what
        self.why = why

    def __reduce__(self) -> tuple[type[FileError], tuple[str, str]]:
        return type(self), (self.what, self.why)


class NotWhole(FileError):
    """A file that was cut short or damaged."""


class MissingTensor(FileError):
    """A tensor that no file of the checkpoint holds."""
