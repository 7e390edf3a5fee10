"""JSON objects from files that may be missing, cut short or something else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kt_cli.errors import NotFoundError, TransferError


def load(path: Path) -> dict[str, Any]:
    """A JSON object from a file; raises NotFoundError or TransferError."""
    if not path.is_file():
        raise NotFoundError(f"no {path.name} in {path.parent}", "a model's folder has one")
    return parse(path.read_bytes(), str(path))


def parse(content: bytes, where: str) -> dict[str, Any]:
    try:
        values = json.loads(content)
    except ValueError as error:
        raise TransferError(f"{where} is no JSON", str(error), "download it again") from error
    if not isinstance(values, dict):
        raise TransferError(f"{where} is no JSON object", "", "download it again")
    return values
