"""Look-up tables: a token reads a few rows of them, so they may stay on disk and take no RAM.

A row that the page cache does not hold costs a page from the disk. The upper end of a range is for
rows that are there already.
"""

from __future__ import annotations

from dataclasses import replace

from kt_cli.core.machine import Measured
from kt_cli.core.model import Model
from kt_cli.core.plan import Decision, Range, Speed
from kt_cli.core.units import gb

PAGE = 4096
"""Bytes that the kernel reads at least for a mapped row."""


def lookup_seconds(model: Model, measured: Measured) -> float:
    """Of one token, all rows from the disk; 0 where it has not been measured."""
    if not model.lookup_rows or not measured.disk_gbs:
        return 0.0
    size = model.lookup_rows * max(PAGE, model.lookup_row_bytes)
    return size / (measured.disk_gbs * 1e9)


def with_lookups(speed: Speed, model: Model, measured: Measured) -> Speed:
    seconds = lookup_seconds(model, measured)
    if not seconds:
        return speed
    return replace(
        speed, decode=_slowed(speed.decode, seconds), prefill=_slowed(speed.prefill, seconds)
    )


def _slowed(rate: Range | None, seconds: float) -> Range | None:
    return rate and Range(1 / (1 / rate.low + seconds), rate.high)


def tables_decision(model: Model, *, mapped: bool) -> tuple[Decision, ...]:
    """Where the tables are, for a model that has any."""
    size = model.bytes.get("lookup", 0)
    if not size:
        return ()
    if not mapped:
        return (Decision("lookup_tables", "ram", "this engine reads tables whole, as any weight"),)
    why = (
        f"{gb(size)} are mapped from disk and take no RAM: a token reads {model.lookup_rows} rows "
        f"of {model.lookup_row_bytes} B"
    )
    return (Decision("lookup_tables", "mapped", why),)
