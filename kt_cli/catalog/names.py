"""Which preset a typed name means: one meaning, however it is spelled.

Case, `-`, `_` and spaces do not count. A preset answers to its name, its aliases, its repositories
with or without their owner, and to each of its variants as `name:variant`, `name-variant` or the
variant's repository.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from kt_cli.errors import KtError, NotFoundError

if TYPE_CHECKING:
    from kt_cli.catalog.presets import Preset
    from kt_cli.core.hints import Variant

    Meaning = tuple[Preset, Variant | None]

MOST_KIN = 8
CLOSE = 0.6
"""Likeness (difflib's ratio) from which a name is offered instead of an unknown one."""


def key(name: str) -> str:
    """What is compared of a name: `Qwen3_30B A3B` and `qwen3-30b-a3b` are the same."""
    return re.sub(r"[-_\s]+", "", name.casefold()).strip("/")


def lookup(name: str, presets: Sequence[Preset]) -> Meaning | None:
    """None where no preset is called so."""
    return index(presets).get(key(name))


def ambiguity(name: str, preset: Preset) -> str:
    """What the name means here, where it could mean another model; else empty."""
    known = {key(alias): meaning for alias, meaning in preset.ambiguous.items()}
    return known.get(key(name), "")


def index(presets: Sequence[Preset]) -> dict[str, Meaning]:
    """Key → meaning. Raises KtError where two presets claim the same name.

    What is written in the presets goes before names that follow from repositories and variants;
    of the latter the first stays.
    """
    known: dict[str, Meaning] = {}
    for preset in presets:
        for name in (preset.name, *preset.aliases):
            owner = known.setdefault(key(name), (preset, None))[0]
            if owner is not preset:
                raise KtError(f"{name} names two presets", f"{owner.name} and {preset.name}")
    for preset in presets:
        for name, variant in _derived(preset):
            known.setdefault(key(name), (preset, variant))
    return known


def _derived(preset: Preset) -> Iterator[tuple[str, Variant | None]]:
    for repo in preset.repos.values():
        yield from ((repo, None), (_without_owner(repo), None))
    for variant in preset.variants:
        for name in (preset.name, *preset.aliases):
            yield from ((f"{name}:{variant.name}", variant), (f"{name}-{variant.name}", variant))
        if variant.repo:
            yield from ((variant.repo, variant), (_without_owner(variant.repo), variant))


def _without_owner(repo: str) -> str:
    return repo.rpartition("/")[2]


# What comes close


def kin(name: str, presets: Sequence[Preset]) -> list[Preset]:
    """Presets that share the name as a part of theirs or as their family, the likeliest first.

    Names that begin with it go first; of the same rank the newest, which stands last in
    its file, goes first.
    """
    wanted = key(_without_owner(name))
    if not wanted:
        return []
    ranked = [
        (rank, -place, preset)
        for place, preset in enumerate(presets)
        if (rank := _rank(wanted, preset)) is not None
    ]
    return [preset for _, _, preset in sorted(ranked, key=lambda entry: entry[:2])]


def _rank(wanted: str, preset: Preset) -> int | None:
    names = [key(name) for name in (preset.name, *preset.aliases)]
    if any(name.startswith(wanted) for name in names):
        return 0
    if wanted == key(preset.family):
        return 1
    return 2 if len(wanted) > 2 and any(wanted in name for name in names) else None


def only_kin(name: str, presets: Sequence[Preset]) -> Preset | None:
    """The preset that a beginning of a name means, where there is one alone."""
    family = kin(name, presets) if "/" not in name else []
    return family[0] if len(family) == 1 else None


def not_found(name: str, presets: Sequence[Preset], others: Sequence[str] = ()) -> NotFoundError:
    """Lists the kin of the name, else names that are spelled alike, `others` among them."""
    stem, colon, variant = name.partition(":")
    known = lookup(stem, presets) if colon else None
    if known:
        has = ", ".join(v.name for v in known[0].variants) or "none"
        return NotFoundError(f"{known[0].name} has no variant {variant!r}", f"known are {has}")
    family = [preset.name for preset in kin(name, presets)]
    if family:
        listed = ", ".join(family[:MOST_KIN]) + (", …" if len(family) > MOST_KIN else "")
        what = f"{name!r} could mean {len(family)} models" if len(family) > 1 else _unknown(name)
        return NotFoundError(what, f"known are {listed}", f"say which, such as {family[0]}")
    names = [*others, *(n for preset in presets for n in (preset.name, *preset.aliases))]
    close = _close(name, names)
    return NotFoundError(
        _unknown(name),
        f"did you mean {' or '.join(close)}?" if close else "no name comes close",
        "give a folder, a GGUF file, OWNER/NAME or a name from `kt fit`",
    )


def _unknown(name: str) -> str:
    return f"no model is called {name!r}"


def _close(name: str, names: Sequence[str]) -> list[str]:
    """Up to three names, each spelled otherwise."""
    by_key: dict[str, str] = {}
    for known in names:
        by_key.setdefault(key(known), known)
    wanted = key(_without_owner(name))
    return [by_key[k] for k in difflib.get_close_matches(wanted, by_key, n=3, cutoff=CLOSE)]
