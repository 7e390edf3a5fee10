"""Makes control characters visible, so that a model's text cannot steer the terminal."""

from __future__ import annotations

_TABLE = {
    **{code: 0x2400 + code for code in range(0x20) if chr(code) not in "\n\t\r"},
    **dict.fromkeys(range(0x80, 0xA0), 0xFFFD),
    0x7F: 0x2421,
    0x0D: None,
}


def visible(text: str) -> str:
    """Character by character, so any chunking gives the same; carriage returns are dropped."""
    return text.translate(_TABLE)
