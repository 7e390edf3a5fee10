"""Text that would steer a terminal, and the look at an output for what got through."""

from __future__ import annotations

import re

HOSTILE = (
    "a\x1b[2J\x1b]52;c;cHduZWQ=\x07b\x9b31mc\u202ed\u2066e\x08\x7ff\x1bP+q\x1b\\"
    "\x1b]8;;http://evil\x1b\\g\x00h\u2028i\u200fj\x85k"
)
STEERING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ud800-\udfff]"
)
OURS = re.compile(r"\r(?=\x1b\[)|\x1b\[(?:\d{1,3}(?:;\d{1,3})*m|[?]25[lh]|\d*[AK]|2K)")
"""Colours and cursor movements that the program itself writes on a terminal."""


def steering(output: str) -> str:
    """What is left of the characters that a terminal obeys; `OURS` are allowed."""
    return "".join(STEERING.findall(OURS.sub("", output).replace("\r\n", "\n")))
