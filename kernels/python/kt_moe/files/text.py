"""Reads JSON objects inside and beside weight files, safely for any content."""

from __future__ import annotations

import json
from typing import Any

MAX_BYTES = 100_000_000
"""The limit of the safetensors library for its headers."""


def json_object(text: bytes) -> dict[str, Any]:
    """Raises ValueError for anything else: other values, other encodings, nested too deeply."""
    if len(text) > MAX_BYTES:
        raise ValueError(f"it has {len(text)} bytes, {MAX_BYTES} are the most")
    try:
        found = json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(found, dict):
        raise ValueError("it is no JSON object")
    return found
