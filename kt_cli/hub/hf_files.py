"""Files of Hugging Face, fetched by huggingface_hub: into the shared cache, or into a folder.

The library decides how a file comes (Xet or HTTP) and lays it into its cache. It starts a file anew
when its process was killed, so weights that come over HTTP are written by its `http_get` into a
part of ours, which the next pull goes on with. The library compares sizes only; here every file is
hashed, and one that is wrong leaves the cache.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from kt_cli import environment, unfinished
from kt_cli.hub import huggingface
from kt_cli.hub.check import Digest, Wrong, compare, feed, right
from kt_cli.hub.hf_progress import Told, bar
from kt_cli.hub.listing import RemoteFile, safe_path
from kt_cli.hub.parts import clear_parts, part_of, size_of

if TYPE_CHECKING:
    from kt_cli.hub.fetch import Job


class HubFiles:
    """A `fetch.Source`; where files and their parts lie is left to the two below."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._api = huggingface.api(job.client)

    def place(self, file: RemoteFile) -> Path:
        """Where the library puts the file."""
        raise NotImplementedError

    def part(self, file: RemoteFile) -> Path:
        raise NotImplementedError

    def adopt(self, file: RemoteFile, part: Path) -> None:
        """Moves a part that is whole and right to where the library looks for it."""
        raise NotImplementedError

    def options(self) -> dict[str, str]:
        """Tells the library where to put files."""
        raise NotImplementedError

    def here(self, file: RemoteFile) -> int:
        return size_of(self.part(file))

    def attempt(self, file: RemoteFile) -> Digest:
        with self._understood(file):
            digest = self._present(file)
            if digest is None and file.sha256:
                digest = self._in_parts(file)
            whole = digest is not None and self.place(file).exists()
            found = self.place(file) if whole else Path(self._by_library(file))
            if digest is None:
                digest = Digest(file)
                feed(digest, found)
                compare(file, digest)
            self.settle(file, found)
            return digest

    def settle(self, file: RemoteFile, found: Path) -> None:
        """The file is whole at `found`."""

    def discard(self, file: RemoteFile) -> None:
        self.part(file).unlink(missing_ok=True)
        discard(self.place(file))

    def finish(self) -> None: ...

    def close(self) -> None: ...

    def _present(self, file: RemoteFile) -> Digest | None:
        """Of what is there already, for another program perhaps; nothing that is wrong stays."""
        digest = right(self.place(file), file)
        if digest is None:
            discard(self.place(file))
        return digest

    def _in_parts(self, file: RemoteFile) -> Digest | None:
        """None where the library has a way of its own, or another process fetches the same."""
        url, token = self._url(file), self._job.client.token or False
        known = self._api.get_hf_file_metadata(url=url, token=token)
        if (known.xet_file_data is not None and _has_xet()) or known.etag != file.sha256:
            return None
        part = self.part(file)
        part.parent.mkdir(parents=True, exist_ok=True)
        with part.open("ab") as handle:
            if not _locked(handle):
                return None
            self._by_http(file, url, handle)
            handle.flush()
            digest = Digest(file)
            feed(digest, part)
            compare(file, digest)
            self.adopt(file, part)
            return digest

    def _by_http(self, file: RemoteFile, url: str, handle: BinaryIO) -> None:
        from huggingface_hub.file_download import http_get
        from huggingface_hub.utils import build_hf_headers

        have = handle.seek(0, 2)
        if have > file.size:
            raise Wrong(f"{have} bytes are here of a file of {file.size}")
        token = self._job.client.token or False
        headers = {
            **build_hf_headers(token=token, library_name="kt"),
            "Accept-Encoding": "identity",
        }
        told: Any = Told(handle, self._job, file)
        http_get(url, told, resume_size=have, headers=headers, expected_size=file.size)

    def _by_library(self, file: RemoteFile) -> str:
        from huggingface_hub import hf_hub_download

        listing, client = self._job.listing, self._job.client
        return str(
            hf_hub_download(
                listing.repo,
                file.path,
                revision=listing.revision,
                endpoint=client.endpoint,
                token=client.token or False,
                library_name="kt",
                tqdm_class=bar(self._job, file),
                **self.options(),
            )
        )

    def _url(self, file: RemoteFile) -> str:
        from huggingface_hub import hf_hub_url

        listing = self._job.listing
        endpoint = self._job.client.endpoint
        return str(
            hf_hub_url(listing.repo, file.path, revision=listing.revision, endpoint=endpoint)
        )

    @contextmanager
    def _understood(self, file: RemoteFile) -> Iterator[None]:
        self._job.stop_if_asked()
        try:
            yield
        except huggingface.errors() as error:
            found = huggingface.meaning(error, self._job.client, self._job.what(file))
            if found is error:
                raise
            raise found from error


class CachedFiles(HubFiles):
    """Into the user's cache, with a link to each file in the model's folder."""

    def __init__(self, job: Job, snapshot: Path, branch: str) -> None:
        super().__init__(job)
        self._snapshot, self._branch = snapshot, branch
        self._blobs = snapshot.parents[1] / "blobs"

    def place(self, file: RemoteFile) -> Path:
        return self._snapshot / file.path

    def part(self, file: RemoteFile) -> Path:
        return self._blobs / f"{_blob(file)}.kt.incomplete"

    def adopt(self, file: RemoteFile, part: Path) -> None:
        part.replace(self._blobs / _blob(file))

    def options(self) -> dict[str, str]:
        return {"cache_dir": str(self._snapshot.parents[2])}

    def settle(self, file: RemoteFile, found: Path) -> None:
        self._sweep(file)
        target = self._job.folder / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        target.symlink_to(found)

    def discard(self, file: RemoteFile) -> None:
        super().discard(file)
        discard(self._blobs / _blob(file))

    def finish(self) -> None:
        """Other programs look a repository up by its branch."""
        if self._branch and self._branch != self._job.listing.revision:
            reference = self._snapshot.parents[1] / "refs" / safe_path(self._branch)
            reference.parent.mkdir(parents=True, exist_ok=True)
            unfinished.write(reference, self._job.listing.revision)

    def _present(self, file: RemoteFile) -> Digest | None:
        digest = super()._present(file)
        if digest is None:
            blob = self._blobs / _blob(file)
            digest = right(blob, file)
            if digest is None:
                discard(blob)
        return digest

    def _sweep(self, file: RemoteFile) -> None:
        """Removes what killed processes left of a file that is whole now, unless somebody else
        is fetching it at this moment."""
        repository = self._snapshot.parents[1]
        lock = repository.parent / ".locks" / repository.name / f"{_blob(file)}.lock"
        left = list(self._blobs.glob(f"{_blob(file)}.*incomplete"))
        if not left:
            return
        lock.parent.mkdir(parents=True, exist_ok=True)
        with lock.open("ab") as handle:
            if _locked(handle):
                for path in left:
                    _remove_unlocked(path)


class FolderFiles(HubFiles):
    """Into a folder that a person named."""

    def place(self, file: RemoteFile) -> Path:
        return self._job.folder / file.path

    def part(self, file: RemoteFile) -> Path:
        return part_of(self._job.folder, file)

    def adopt(self, file: RemoteFile, part: Path) -> None:
        self.place(file).parent.mkdir(parents=True, exist_ok=True)
        part.replace(self.place(file))

    def options(self) -> dict[str, str]:
        cache = str(environment.hub_cache())  # where the library finds what need not be fetched
        return {"local_dir": str(self._job.folder), "cache_dir": cache}

    def finish(self) -> None:
        clear_parts(self._job.folder)
        for left in (self._job.folder / ".cache/huggingface").rglob("*.incomplete"):
            left.unlink(missing_ok=True)


def _blob(file: RemoteFile) -> str:
    """The library's name for the content: what the hub sends as its ETag."""
    return file.sha256 or file.git_sha1


def discard(path: Path) -> None:
    """Removes a file, and what it is a link to."""
    while path.is_symlink():
        target = path.parent / path.readlink()
        path.unlink()
        path = target
    with suppress(FileNotFoundError):
        path.unlink()


def _remove_unlocked(path: Path) -> None:
    """Nothing happens to a part that another pull is writing."""
    with suppress(FileNotFoundError), path.open("rb") as handle:
        if _locked(handle):
            path.unlink()


def _locked(handle: BinaryIO) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


@cache
def _has_xet() -> bool:
    from importlib.util import find_spec

    from huggingface_hub import constants

    return not constants.HF_HUB_DISABLE_XET and find_spec("hf_xet") is not None
