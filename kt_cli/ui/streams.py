"""Standard output and error as `kt` writes them: any character, and an end when nobody reads."""

from __future__ import annotations

import os
import sys
from io import TextIOWrapper
from typing import TextIO

from kt_cli.errors import KtError

READER_GONE = 141
"""128 + SIGPIPE: what a shell reports for `kt fit | head -1`, as for any other program."""


class ReaderGone(BaseException):
    """Nobody reads the output any more. No Exception, so that nothing but cleaning up goes on."""


class Guarded(TextIOWrapper):
    """Raises ReaderGone for a broken pipe and KtError for a full disk."""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError as error:
            raise _reason(error) from None

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            raise _reason(error) from None


def guard() -> None:
    """Replaces sys.stdout and sys.stderr for the rest of this process."""
    sys.stdout = _guarded(sys.stdout)
    sys.stderr = _guarded(sys.stderr)


def release() -> None:
    """Lets the interpreter end in silence where the streams lead nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for number in (1, 2):
        os.dup2(nowhere, number)


def _guarded(stream: TextIO | None) -> TextIO:
    """A stream that was closed before the start takes text nowhere."""
    if stream is None:
        return open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123
    if not isinstance(stream, TextIOWrapper):
        return stream
    encoding, lines = stream.encoding, stream.line_buffering
    errors = "replace" if stream.errors == "strict" else stream.errors
    return Guarded(stream.detach(), encoding, errors, line_buffering=lines)


def _reason(error: OSError) -> BaseException:
    if isinstance(error, BrokenPipeError):
        return ReaderGone()
    return KtError("the output cannot be written", error.strerror or str(error))
