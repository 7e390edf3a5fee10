"""Undecided options from the environment and the configuration, and who decided what."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from kt_cli.core.plan import Source
from kt_cli.core.plan_run import Origins
from kt_cli.opts import given, replace_undecided, specs
from kt_cli.settings import Settings

O = TypeVar("O")  # noqa: E741


def with_settings(options: O, settings: Settings) -> tuple[O, Origins]:
    """Undecided fields from the environment and the configuration, and who decided each."""
    values: dict[str, Any] = {}
    sources: dict[str, Source] = {}
    words: dict[str, str] = {}
    taken = given(options)
    for name, spec in specs(options).items():
        if not spec.setting or name in taken:
            continue
        found = settings.get(spec.setting)
        if found.origin == "default" or found.value is None:
            continue
        values[name], words[name] = found.value, found.origin
        sources[name] = "environment" if found.origin.startswith("KT_") else "config"
    return replace_undecided(options, values), Origins(sources, words)


def joined(first: Origins, second: Origins) -> Origins:
    """Origins of two fillings; the first wins."""
    sources: Mapping[str, Source] = {**second.sources, **first.sources}
    return Origins(sources, {**second.words, **first.words})
