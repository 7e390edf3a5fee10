"""Memory modules from the firmware's tables (SMBIOS 3, type 17), which root alone may read."""

from __future__ import annotations

import struct

from kt_cli.doctor.facts import Dimm
from kt_cli.probe.host import Host

ENTRIES = "/sys/firmware/dmi/entries"
MIB = 1 << 20
SHORTEST = 21
"""Bytes of a memory device in the first version that has what is read here."""
_UNKNOWN = 0xFFFF
_EXTENDED = 0x7FFF


def read(host: Host) -> tuple[Dimm, ...]:
    found = []
    for name in host.names(ENTRIES, "17-"):
        try:
            raw = host.path(f"{ENTRIES}/{name}/raw").read_bytes()
        except OSError:
            return ()
        if len(raw) >= SHORTEST:
            found.append(dimm(raw))
    return tuple(found)


def dimm(raw: bytes) -> Dimm:
    """Offsets: 12 size, 16 slot, 17 bank, 21 rated speed, 28 extended size, 32 running speed."""
    length = raw[1]
    texts = raw[length:].split(b"\0")
    size = _word(raw, 12)
    total = struct.unpack_from("<I", raw, 28)[0] if size == _EXTENDED and length >= 32 else size
    if size == _UNKNOWN:
        total = 0
    elif size != _EXTENDED and size & 0x8000:
        return Dimm(_text(texts, raw[16]), _text(texts, raw[17]), (size & 0x7FFF) * 1024)
    rated = _word(raw, 21) if length >= 23 else 0
    running = _word(raw, 32) if length >= 34 else 0
    return Dimm(_text(texts, raw[16]), _text(texts, raw[17]), total * MIB, rated, running)


def _word(raw: bytes, offset: int) -> int:
    return int.from_bytes(raw[offset : offset + 2], "little")


def _text(texts: list[bytes], number: int) -> str:
    return texts[number - 1].decode(errors="replace").strip() if 0 < number <= len(texts) else ""
