"""What is typed while an answer comes waits for the next input line instead of moving the cursor.

Keys that the terminal echoes itself move the cursor, and what is drawn next to it is drawn twice.
"""

from __future__ import annotations

import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_LOCAL = 3
"""Where `termios.tcgetattr` keeps the local modes."""


@contextmanager
def silent() -> Iterator[None]:
    """The terminal echoes nothing; signals such as Ctrl-C still come."""
    before = _modes()
    if before is None:
        yield
        return
    quiet = [*before]
    quiet[_LOCAL] &= ~(termios.ECHO | termios.ECHONL)
    termios.tcsetattr(sys.stdin, termios.TCSANOW, quiet)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSANOW, before)


def _modes() -> list[Any] | None:
    """None where standard input is no terminal."""
    if sys.stdin is None:
        return None
    try:
        return termios.tcgetattr(sys.stdin)
    except (OSError, ValueError, termios.error):
        return None
