"""The user's Hugging Face cache, which kt shares with other programs: what is in it.

Whether a repository is there at all is told without huggingface_hub, which is imported for the
rest: what its folders mean is the library's matter.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kt_cli import environment


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One revision of a repository; `bytes` are those of the files that are here."""

    repo: str
    revision: str
    folder: Path
    bytes: int


def snapshot_folder(repo: str, revision: str) -> Path:
    """Where a commit is or would be."""
    return _repository(repo) / "snapshots" / revision


def find(repo: str) -> Path | None:
    """The folder of the newest snapshot of OWNER/NAME; files may be missing in it."""
    if not _repository(repo).is_dir():
        return None
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    where = environment.hub_cache()
    try:
        # No pattern, so that files which nobody asked for count as missing in no version.
        found = snapshot_download(repo, cache_dir=where, local_files_only=True, allow_patterns=[])
        return Path(found)
    except LocalEntryNotFoundError:  # a commit was fetched, and no branch
        return next((s.folder for s in snapshots() if s.repo == repo), None)
    except HFValidationError:
        return None


def snapshots() -> tuple[Snapshot, ...]:
    """Of models; the newest of a repository first, the one of its branch before all."""
    if not environment.hub_cache().is_dir():
        return ()
    return tuple(_scanned(environment.hub_cache()))


def _scanned(cache: Path) -> Iterator[Snapshot]:
    from huggingface_hub import scan_cache_dir

    models = [repo for repo in scan_cache_dir(cache).repos if repo.repo_type == "model"]
    for repo in sorted(models, key=lambda found: str(found.repo_id)):
        newest_first = sorted(
            repo.revisions, key=lambda found: ("main" in found.refs, found.last_modified)
        )[::-1]
        for found in newest_first:
            folder, size = Path(found.snapshot_path), int(found.size_on_disk)
            yield Snapshot(repo.repo_id, found.commit_hash, folder, size)


def delete(folder: Path) -> int:
    """Takes a snapshot out of the cache it lies in; how many bytes that frees.

    Files that other revisions have too stay.
    """
    from huggingface_hub import scan_cache_dir

    if not folder.is_dir():
        return 0
    strategy = scan_cache_dir(folder.parents[2]).delete_revisions(folder.name)
    strategy.execute()
    return int(strategy.expected_freed_size)


def _repository(repo: str) -> Path:
    return environment.hub_cache() / "--".join(("models", *repo.split("/")))
