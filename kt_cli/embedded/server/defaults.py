"""The sampling parameters that a model's makers recommend: `generation_config.json`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from kt_cli.documents import read_json
from kt_cli.embedded.api import Sampling
from kt_cli.embedded.server.errors import ApiError
from kt_cli.embedded.server.fields import Fields
from kt_cli.errors import KtError

FILE = "generation_config.json"
log = logging.getLogger(__name__)


def read_defaults(model: Path) -> Sampling:
    """What holds where a request says nothing; a value that makes no sense is left out."""
    try:
        body = read_json(model / FILE).values
    except KtError:  # the engine says what is wrong with it when it reads its end tokens
        return Sampling()
    fields = Fields(dict(body))
    plain, found = Sampling(), dict[str, Any]()
    for name, (low, high) in _RANGES.items():
        try:
            value = fields.number(name, getattr(plain, name), low, high)
        except ApiError as error:
            log.warning("%s: %s", FILE, error.message)
            continue
        found[name] = int(value) if name == "top_k" else value
    return Sampling(**found)


_RANGES = {
    "temperature": (0.0, 2.0),
    "top_p": (1e-9, 1.0),
    "top_k": (0, 2**31),
    "min_p": (0.0, 1.0),
    "repetition_penalty": (0.01, 100.0),
}
