"""Which memory channel a slot belongs to, from the names that board makers give their slots."""

from __future__ import annotations

import re
from collections.abc import Iterable

from kt_cli.doctor.facts import Dimm

# "P0_Node0_Channel3_Dimm0", "P0 CHANNEL A", "NODE 1 CHANNEL 2 DIMM 0"
_CHANNEL = re.compile(r"channel[ _]*([a-z0-9]+?)(?=[ _-]|dimm|\Z)", re.IGNORECASE)
_SOCKET = re.compile(r"(?:^|[ _])(?:cpu|p|proc|node|socket)[ _]*(\d+)", re.IGNORECASE)
# "CPU1_DIMM_A1", "DIMM_B2", "P2-DIMMH1", "A3"
_LETTER = re.compile(r"(?:^|[ _-]|dimm)([A-P])_?\d*\Z", re.IGNORECASE)


def channels(dimms: Iterable[Dimm]) -> dict[str, bool]:
    """Channel → whether any of its slots is filled; empty when the names do not tell."""
    found: dict[str, bool] = {}
    for dimm in dimms:
        name = _channel(dimm)
        if not name:
            return {}
        found[name] = found.get(name, False) or dimm.size > 0
    return found if len(found) > 1 else {}


def _channel(dimm: Dimm) -> str:
    for text in (dimm.bank, dimm.slot):
        if named := _CHANNEL.search(text):
            return _socket(dimm) + named[1].upper()
    lettered = _LETTER.search(dimm.slot)
    return _socket(dimm) + lettered[1].upper() if lettered else ""


def _socket(dimm: Dimm) -> str:
    for text in (dimm.slot, dimm.bank):
        if named := _SOCKET.search(text):
            return f"CPU {named[1]} "
    return ""
