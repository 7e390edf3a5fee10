"""Files of ModelScope, by range requests into parts that the next attempt goes on with.

A file is written to `.kt-parts/…` and moved to its place only when its checksum is right.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from kt_cli.hub.check import Again, Digest, Wrong, compare, feed
from kt_cli.hub.client import RETRIED, refused
from kt_cli.hub.listing import RemoteFile
from kt_cli.hub.parts import clear_parts, part_of, size_of

if TYPE_CHECKING:
    import httpx

    from kt_cli.hub.fetch import Job


class RangedFiles:
    """A `fetch.Source`."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._session = job.client.session()

    def here(self, file: RemoteFile) -> int:
        return size_of(self._part(file))

    def attempt(self, file: RemoteFile) -> Digest:
        import httpx

        part = self._part(file)
        if size_of(part) > file.size:
            part.unlink()
        digest = Digest(file)
        have = feed(digest, part)
        self._job.report(file.path, have)
        if have < file.size or file.size == 0:
            try:
                self._stream(file, part, have, digest)
            except httpx.HTTPError as error:
                raise Again(f"{type(error).__name__}: {error}") from error
        if size_of(part) < file.size:
            raise Again(f"the connection ended after {size_of(part)} of {file.size} bytes")
        compare(file, digest)
        target = self._job.folder / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        part.replace(target)
        return digest

    def discard(self, file: RemoteFile) -> None:
        self._part(file).unlink(missing_ok=True)

    def finish(self) -> None:
        clear_parts(self._job.folder)

    def close(self) -> None:
        self._session.close()

    def _part(self, file: RemoteFile) -> Path:
        return part_of(self._job.folder, file)

    def _stream(self, file: RemoteFile, part: Path, have: int, digest: Digest) -> None:
        headers = {**self._job.client.authorization(), "Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
        url = self._job.client.file_url(self._job.listing, file.path)
        with self._session.stream("GET", url, headers=headers, follow_redirects=True) as response:
            self._check_status(response, file)
            if have and not _continues(response, have):
                self._job.report(file.path, 0)
                part.unlink()
                raise Again("the server does not resume; starting the file again")
            with part.open("ab") as handle:
                for block in response.iter_raw():
                    self._job.stop_if_asked()
                    if handle.tell() + len(block) > file.size:
                        raise Wrong("the server sent more bytes than the file has")
                    handle.write(block)
                    digest.update(block)
                    self._job.report(file.path, handle.tell())
                handle.flush()
                os.fsync(handle.fileno())

    def _check_status(self, response: httpx.Response, file: RemoteFile) -> None:
        status = response.status_code
        if status in RETRIED:
            after = response.headers.get("retry-after", "")
            raise Again(f"HTTP {status}", min(60.0, float(after)) if after.isdigit() else 0.0)
        if status == 416:
            raise Wrong("the server refuses to go on from the bytes at hand")
        if status not in (200, 206):
            raise refused(status, self._job.what(file), bool(self._job.client.token))


def _continues(response: httpx.Response, have: int) -> bool:
    start = response.headers.get("content-range", "").removeprefix("bytes ").partition("-")[0]
    return bool(response.status_code == 206 and start == str(have))
