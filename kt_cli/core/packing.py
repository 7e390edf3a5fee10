"""Whether packed experts are kept on disk, so that later starts map them instead of packing."""

from __future__ import annotations

from kt_cli.core.units import GB

SPARE = 10 * GB
"""Disk that packs leave free whatever is asked."""
