"""Brings a listing into a folder: parallel, resumable, every byte verified before it counts.

How the bytes come is a `Source`'s matter: `hub.ranged` for ModelScope, `hub.hf_files` for Hugging
Face. Parts survive a kill, a full disk and a lost connection; the next pull goes on from them.
"""

from __future__ import annotations

import errno
import threading
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from kt_cli.errors import KtError, TransferError
from kt_cli.hub import manifest as manifests
from kt_cli.hub.check import Again, Digest, Report, Wrong, keep_sums, kept_sums, right
from kt_cli.hub.client import Client
from kt_cli.hub.listing import Listing, RemoteFile
from kt_cli.hub.manifest import Manifest

WORKERS = 8
PATIENCE = 6
"""Failures in a row, without a new byte, before a file is given up."""


@dataclass(frozen=True, slots=True)
class Job:
    """What a source is told: whence, what, whither."""

    client: Client
    listing: Listing
    folder: Path
    report: Report
    stop: threading.Event = field(default_factory=threading.Event)

    def stop_if_asked(self) -> None:
        if self.stop.is_set():
            raise KtError("the download was stopped", "", "run it again to go on")

    def what(self, file: RemoteFile) -> str:
        return f"{self.listing.repo} ({file.path})"


class Source(Protocol):
    """Fetches the files of one listing; used by several threads."""

    def here(self, file: RemoteFile) -> int:
        """Bytes at hand of a file that is not whole."""
        ...

    def attempt(self, file: RemoteFile) -> Digest:
        """The file is in its place afterwards, and right. Raises Wrong, Again, KtError, OSError."""
        ...

    def discard(self, file: RemoteFile) -> None:
        """Forgets bytes that are wrong."""
        ...

    def finish(self) -> None:
        """All files are whole."""
        ...

    def close(self) -> None: ...


@dataclass
class Download:
    """One pull of one listing into one folder."""

    client: Client
    listing: Listing
    folder: Path
    report: Report
    workers: int = WORKERS
    pause_s: float = 0.5
    """First pause after a failure; doubles with each further one, up to 30 s."""
    snapshot: str = ""
    """Folder of the user's Hugging Face cache where the files go; `folder` then has links."""
    branch: str = ""
    """Name by which the cache will know the commit."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self) -> Manifest:
        """Fetches what is missing; raises TransferError, AuthError, NotFoundError or KtError."""
        self.client.require_online()
        with manifests.locked(self.folder):
            known = manifests.read(self.folder)
            kept = known.verified if known and known.listing.repo == self.listing.repo else {}
            self._manifest = Manifest(self.listing, kept, self.snapshot, self.branch)
            self._sums = kept_sums(self.folder)
            manifests.write(self.folder, self._manifest)
            self._job = Job(self.client, self.listing, self.folder, self.report)
            source = self._source(self._job)
            try:
                self._all(source, self._manifest.missing(self.folder))
                source.finish()
            finally:
                source.close()
            return self._manifest

    def _source(self, job: Job) -> Source:
        if self.listing.hub == "modelscope":
            from kt_cli.hub.ranged import RangedFiles

            return RangedFiles(job)
        from kt_cli.hub.hf_files import CachedFiles, FolderFiles

        return (
            CachedFiles(job, Path(self.snapshot), self.branch)
            if self.snapshot
            else FolderFiles(job)
        )

    def _all(self, source: Source, files: tuple[RemoteFile, ...]) -> None:
        biggest_first = sorted(files, key=lambda file: -file.size)
        with ThreadPoolExecutor(self.workers) as pool:
            jobs = [pool.submit(self._file, source, file) for file in biggest_first]
            try:
                done, _ = wait(jobs, return_when=FIRST_EXCEPTION)
            except BaseException:
                self._give_up(jobs)
                raise
            if any(job.exception() for job in done):
                self._give_up(jobs)
        for job in done:
            job.result()

    def _give_up(self, jobs: list[Future[None]]) -> None:
        self._job.stop.set()
        for job in jobs:
            job.cancel()

    def _file(self, source: Source, file: RemoteFile) -> None:
        target = self.folder / file.path
        digest = right(target, file) or self._fetch(source, file)
        self.report(file.path, file.size)
        with self._lock:
            self._manifest = self._manifest.with_verified(self.folder, file)
            manifests.write(self.folder, self._manifest)
            self._sums[file.path] = digest.sums.result(target)
            keep_sums(self.folder, self._sums, mended={file.path})

    def _fetch(self, source: Source, file: RemoteFile) -> Digest:
        """Tries until the file is whole and right; each new byte renews the patience."""
        failures, wrong = 0, 0
        while True:
            before = source.here(file)
            try:
                return source.attempt(file)
            except Wrong as error:
                wrong += 1
                self.report(file.path, 0)
                source.discard(file)
                if wrong == 2:
                    raise TransferError(
                        f"{file.path} has the wrong content", str(error), "try again later"
                    ) from error
            except Again as error:
                failures = 1 if source.here(file) > before else failures + 1
                if failures >= PATIENCE:
                    fix = "run the same command again; it goes on where it stopped"
                    raise TransferError(
                        f"{file.path} could not be fetched", str(error), fix
                    ) from error
                pause = max(error.wait_s, min(30.0, self.pause_s * 2 ** (failures - 1)))
                self._job.stop.wait(pause)
                self._job.stop_if_asked()
            except OSError as error:
                raise self._disk(error, file) from error

    def _disk(self, error: OSError, file: RemoteFile) -> KtError:
        place = self.snapshot or self.folder
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            fix = "free some space, then run the same command again; it goes on where it stopped"
            return KtError(f"the disk is full while fetching {file.path}", str(place), fix)
        return KtError(f"cannot write {file.path}", f"{error.strerror}: {place}")
