"""Reads what there is of a model, on disk or elsewhere, into a `Model`.

The demo model is made in `catalog.demo`; `catalog.remote_files` reads hubs.
"""

from __future__ import annotations

from kt_cli.catalog.cached import cached
from kt_cli.catalog.describe import from_config
from kt_cli.catalog.find import find
from kt_cli.catalog.local import read
from kt_cli.catalog.presets import Preset, load_presets, preset_model

__all__ = [
    "Preset",
    "cached",
    "find",
    "from_config",
    "load_presets",
    "preset_model",
    "read",
]
