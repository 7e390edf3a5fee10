"""Hardware by its everyday names: `5060ti-16g`, `2x4090`, `epyc-9654`, `nvme:7GB/s,2TB`."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from kt_cli.core.facts import CpuFacts, GpuFacts

Named = TypeVar("Named", GpuFacts, CpuFacts)

# Makers and series that people leave out or write in any order.
_GPU_SERIES = r"(nvidia|geforce|rtx|gtx|amd|radeon|rx|intel|arc|tesla|quadro|instinct)"
_CPU_SERIES = (
    r"(amd|intel|ryzen|threadripper|epyc|xeon|core|ultra|pro|gold|platinum|silver|ai|max\+?"
    r"|i[3579](?=\d{4}|$))"
)
_COUNTED = re.compile(r"(?:(\d{1,2})\s*[x×*]\s*)?(.+)")
_SIZED = re.compile(r"(.*?)(?:[-_ (]+|(?<=[a-z]))(\d+)\s*gi?b?\)?", re.IGNORECASE)
_LAPTOP = re.compile(r"laptop|mobile|max-q", re.IGNORECASE)
MOST_NEAR = 5


def counted(text: str) -> tuple[int, str]:
    """`2x4090` → (2, "4090"); a name alone is one."""
    match = _COUNTED.fullmatch(text.strip())
    return (int(match[1] or 1), match[2].strip()) if match else (1, text)


def sized(text: str) -> tuple[str, int | None]:
    """`5060ti-16g` → ("5060ti", 16)."""
    match = _SIZED.fullmatch(text)
    return (match[1], int(match[2])) if match else (text, None)


def gpu_key(name: str) -> str:
    return _without(_GPU_SERIES, name)


def cpu_key(name: str) -> str:
    """The class of a Ryzen, `9` in `Ryzen 9 9950X`, goes with the series."""
    words = re.split(r"[-_\s]+", name.casefold().rstrip("+ "))
    return _without(_CPU_SERIES, "".join(w for w in words if not re.fullmatch(r"[3579]", w)))


def _without(series: str, name: str) -> str:
    flat = re.sub(r"[-_\s()]+", "", name.casefold())
    return re.sub(rf"^(?:{series})+", "", flat)


def gpu_named(text: str, table: Sequence[GpuFacts]) -> GpuFacts | None:
    wanted = gpu_key(text)
    return next((g for g in table if wanted in map(gpu_key, (g.name, *g.aliases))), None)


def cpu_named(text: str, table: Sequence[CpuFacts]) -> CpuFacts | None:
    wanted = cpu_key(text)
    return next((c for c in table if wanted in map(cpu_key, (c.name, *c.aliases))), None)


def near(text: str, names: Sequence[str]) -> list[str]:
    """Names spelled nearly so, those that share a part first."""
    wanted = _without(_CPU_SERIES, gpu_key(text))
    keys = {name: _without(_CPU_SERIES, gpu_key(name)) for name in names}

    def likeness(name: str) -> float:
        shared = bool(wanted) and (wanted in keys[name] or keys[name] in wanted)
        return shared + difflib.SequenceMatcher(None, wanted, keys[name]).ratio()

    alike = [name for name in names if likeness(name) >= 0.6]
    return sorted(alike, key=lambda name: -likeness(name))[:MOST_NEAR]


def find_gpu(name: str, table: Sequence[GpuFacts]) -> GpuFacts | None:
    """By the name a driver tells: the longest of the table whose words stand in it in a row.

    Laptop GPUs share names with faster cards, so they are not looked up.
    """
    if _LAPTOP.search(name):
        return None
    words = _words(name)
    found = [(known, g) for g in table for known in (g.name, *g.aliases) if _within(known, words)]
    return max(found, key=lambda pair: len(pair[0]), default=(None, None))[1]


def _words(name: str) -> str:
    plain = [w for w in re.split(r"[-_\s]+", name.casefold()) if not re.fullmatch(_GPU_SERIES, w)]
    return f" {' '.join(plain)} "


def _within(known: str, words: str) -> bool:
    return bool(_words(known).strip()) and _words(known) in words


# Disks

KINDS = {
    "nvme": 3.5,
    "nvme3": 3.5,
    "nvme4": 7.0,
    "nvme5": 14.0,
    "ssd": 0.55,
    "sata": 0.55,
    "hdd": 0.2,
}
"""GB/s read in sequence: four lanes of PCIe 3.0 (plain `nvme`), 4.0 or 5.0, SATA 3, a hard disk."""
_RATE = re.compile(r"(\d+(?:\.\d+)?)\s*([gm])(i?)b/s", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class DiskWish:
    gbs: float | None = None
    size: str = ""
    """As it was written."""
    rotational: bool = False


def parse_disk(text: str) -> DiskWish:
    """Kind, rate and size in any order: `nvme`, `nvme:7GB/s`, `2TB,sata`. Raises ValueError."""
    wish = DiskWish()
    for part in filter(None, re.split(r"[:,+]", text.strip())):
        wish = _with_part(wish, part.strip())
    return wish


def _with_part(wish: DiskWish, part: str) -> DiskWish:
    rate = _RATE.fullmatch(part)
    if rate:
        unit = (1024 if rate[3] else 1000) ** (3 if rate[2].lower() == "g" else 2)
        return DiskWish(float(rate[1]) * unit / 1e9, wish.size, wish.rotational)
    kind = part.lower()
    if kind in KINDS:
        return DiskWish(wish.gbs or KINDS[kind], wish.size, kind == "hdd")
    if not part[:1].isdigit():
        raise ValueError(f"{part!r} is no kind of disk; known are {', '.join(KINDS)}")
    return DiskWish(wish.gbs, part, wish.rotational)
