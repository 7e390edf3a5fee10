"""Which GGUF files belong together: one, or a numbered series."""

from __future__ import annotations

import re
from pathlib import Path

from kt_cli.errors import KtError, NotFoundError

SERIES = re.compile(r"-(\d{5})-of-(\d{5})\.gguf\Z")


def gguf_files(path: Path) -> list[Path]:
    """The files of a model: one, or all of a series; none when `path` has nothing of the kind.

    A folder with safetensors is not taken for GGUF.
    """
    if path.suffix == ".gguf":
        return _series(path)
    if not path.is_dir() or (path / "config.json").exists():
        return []
    files = [p for p in sorted(path.glob("*.gguf")) if not p.name.startswith("mmproj")]
    if not files:
        return []
    series = _series(files[0])
    if len(series) != len(files):
        raise KtError(f"{path} holds several models", "", f"name one, such as {files[0]}")
    return series


def _series(path: Path) -> list[Path]:
    found = SERIES.search(path.name)
    if not found:
        return [path]
    stem, count = path.name[: found.start()], int(found[2])
    files = [path.with_name(f"{stem}-{i:05d}-of-{count:05d}.gguf") for i in range(1, count + 1)]
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise NotFoundError(
            f"{path.parent} is not complete",
            f"{len(missing)} of {count} files are not there, such as {missing[0].name}",
            "download the model again",
        )
    return files
