"""Text files that go with a message."""

from __future__ import annotations

from pathlib import Path

from kt_cli.errors import KtError, NotFoundError, UsageError


def read_text(path: Path) -> str:
    """Raises NotFoundError, or UsageError for what is no text."""
    try:
        raw = path.expanduser().read_bytes()
    except FileNotFoundError:
        raise NotFoundError(f"there is no file {path}") from None
    except OSError as error:
        raise KtError(f"{path} cannot be read", error.strerror or str(error)) from error
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not a text file", "its bytes are not UTF-8") from None
    if "\0" in text:
        raise UsageError(f"{path} is not a text file", "it contains zero bytes")
    return text
