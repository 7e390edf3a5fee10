"""Brings a listing into a folder: parallel, resumable, every byte verified before it counts.

A file is written to `.kt-parts/…` and moved to its place only when its checksum is right. Parts
survive a kill, a full disk and a lost connection; the next pull goes on from their last byte.
"""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from kt_cli.errors import KtError, TransferError
from kt_cli.hub import manifest as manifests
from kt_cli.hub.check import Digest, Report, Wrong, compare, feed, keep_sums, kept_sums, right
from kt_cli.hub.client import Client, refused
from kt_cli.hub.listing import Listing, RemoteFile
from kt_cli.hub.manifest import PARTS, Manifest

if TYPE_CHECKING:
    import httpx

WORKERS = 8
PATIENCE = 6
"""Failures in a row, without a new byte, before a file is given up."""
RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})


class _Again(Exception):
    """The attempt failed in a way that another may not; `wait_s` is what the server asked for."""

    def __init__(self, why: str, wait_s: float = 0.0) -> None:
        super().__init__(why)
        self.wait_s = wait_s


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
    stop: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self) -> Manifest:
        """Fetches what is missing; raises TransferError, AuthError, NotFoundError or KtError."""
        with manifests.locked(self.folder):
            known = manifests.read(self.folder)
            kept = known.verified if known and known.listing.repo == self.listing.repo else {}
            self._manifest = Manifest(self.listing, kept)
            self._sums = kept_sums(self.folder)
            manifests.write(self.folder, self._manifest)
            missing = self._manifest.missing(self.folder)
            with self.client.session() as session:
                self._all(session, missing)
            self._tidy()
            return self._manifest

    def _all(self, session: httpx.Client, files: tuple[RemoteFile, ...]) -> None:
        biggest_first = sorted(files, key=lambda file: -file.size)
        with ThreadPoolExecutor(self.workers) as pool:
            jobs = [pool.submit(self._file, session, file) for file in biggest_first]
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
        self.stop.set()
        for job in jobs:
            job.cancel()

    def _file(self, session: httpx.Client, file: RemoteFile) -> None:
        target = self.folder / file.path
        digest = right(target, file)
        if digest is None:
            part = self._part(file)
            digest = self._fetch(session, file, part)
            target.parent.mkdir(parents=True, exist_ok=True)
            part.replace(target)
        self.report(file.path, file.size)
        with self._lock:
            self._manifest = self._manifest.with_verified(self.folder, file)
            manifests.write(self.folder, self._manifest)
            self._sums[file.path] = digest.sums.result(target)
            keep_sums(self.folder, self._sums, mended={file.path})

    def _part(self, file: RemoteFile) -> Path:
        key = hashlib.sha256(f"{file.path}\0{file.sha256 or file.git_sha1}".encode()).hexdigest()
        folder = self.folder / PARTS
        folder.mkdir(exist_ok=True)
        return folder / f"{key[:32]}.part"

    def _fetch(self, session: httpx.Client, file: RemoteFile, part: Path) -> Digest:
        """Tries until the part is whole and right; each new byte renews the patience."""
        failures, wrong = 0, 0
        while True:
            before = _size(part)
            try:
                return self._attempt(session, file, part)
            except Wrong as error:
                wrong += 1
                self.report(file.path, 0)
                part.unlink(missing_ok=True)
                if wrong == 2:
                    raise TransferError(
                        f"{file.path} has the wrong content", str(error), "try again later"
                    ) from error
            except _Again as error:
                failures = 1 if _size(part) > before else failures + 1
                if failures >= PATIENCE:
                    fix = "run the same command again; it goes on where it stopped"
                    raise TransferError(
                        f"{file.path} could not be fetched", str(error), fix
                    ) from error
                pause = max(error.wait_s, min(30.0, self.pause_s * 2 ** (failures - 1)))
                self.stop.wait(pause)
            except OSError as error:
                raise self._disk(error, file) from error

    def _attempt(self, session: httpx.Client, file: RemoteFile, part: Path) -> Digest:
        import httpx

        if _size(part) > file.size:
            part.unlink()
        digest = Digest(file)
        have = feed(digest, part)
        self.report(file.path, have)
        if have < file.size or file.size == 0:
            try:
                self._stream(session, file, part, have, digest)
            except httpx.HTTPError as error:
                raise _Again(f"{type(error).__name__}: {error}") from error
        if _size(part) < file.size:
            raise _Again(f"the connection ended after {_size(part)} of {file.size} bytes")
        compare(file, digest)
        return digest

    def _stream(
        self, session: httpx.Client, file: RemoteFile, part: Path, have: int, digest: Digest
    ) -> None:
        headers = {**self.client.authorization(), "Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
        url = self.client.file_url(self.listing, file.path)
        with session.stream("GET", url, headers=headers, follow_redirects=True) as response:
            self._check_status(response, file)
            if have and not _continues(response, have):
                self.report(file.path, 0)
                part.unlink()
                raise _Again("the server does not resume; starting the file again")
            with part.open("ab") as handle:
                for block in response.iter_raw():
                    self._stop_if_asked()
                    if handle.tell() + len(block) > file.size:
                        raise Wrong("the server sent more bytes than the file has")
                    handle.write(block)
                    digest.update(block)
                    self.report(file.path, handle.tell())
                handle.flush()
                os.fsync(handle.fileno())

    def _check_status(self, response: httpx.Response, file: RemoteFile) -> None:
        status = response.status_code
        if status in RETRIED:
            after = response.headers.get("retry-after", "")
            raise _Again(f"HTTP {status}", min(60.0, float(after)) if after.isdigit() else 0.0)
        if status == 416:
            raise Wrong("the server refuses to go on from the bytes at hand")
        if status not in (200, 206):
            gated = "gated" in response.headers.get("x-error-code", "").lower()
            what = f"{self.listing.repo} ({file.path})"
            raise refused(status, what, bool(self.client.token), gated)

    def _stop_if_asked(self) -> None:
        if self.stop.is_set():
            raise KtError("the download was stopped", "", "run it again to go on")

    def _disk(self, error: OSError, file: RemoteFile) -> KtError:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            fix = "free some space, then run the same command again; it goes on where it stopped"
            return KtError(f"the disk is full while fetching {file.path}", str(self.folder), fix)
        return KtError(f"cannot write {file.path}", f"{error.strerror}: {self.folder}")

    def _tidy(self) -> None:
        for part in (self.folder / PARTS).glob("*.part"):
            part.unlink()


def _continues(response: httpx.Response, have: int) -> bool:
    start = response.headers.get("content-range", "").removeprefix("bytes ").partition("-")[0]
    return bool(response.status_code == 206 and start == str(have))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
