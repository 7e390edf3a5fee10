"""A layer's experts by kt-kernel's method names: file layout → matrices in their format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from kt_moe.checkpoints import amx, gguf, native
from kt_moe.checkpoints.source import LayerSource, Wanted

Opener: TypeAlias = Callable[[Path, Wanted], LayerSource]

METHODS: dict[str, Opener] = {
    "AMXINT4": lambda path, wanted: amx.open_layer(path, wanted, 4),
    "AMXINT8": lambda path, wanted: amx.open_layer(path, wanted, 8),
    "LLAMAFILE": gguf.open_layer,
    **{name: native.opener(name) for name in native.METHODS},
}


def open_layer(method: str, path: str | Path, wanted: Wanted) -> LayerSource:
    """Raises FileNotFoundError, FileError or FormatError with the fact."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no weights at {path}")
    return METHODS[method](path, wanted)
