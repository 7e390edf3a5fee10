"""How far the library is with a file, and stopping it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, BinaryIO

from kt_cli.hub.listing import RemoteFile

if TYPE_CHECKING:
    from kt_cli.hub.fetch import Job


class Told:
    """A file that tells how long it is, and stops when the pull is given up."""

    def __init__(self, handle: BinaryIO, job: Job, file: RemoteFile) -> None:
        self._handle, self._job, self._file = handle, job, file

    def write(self, data: bytes) -> int:
        self._job.stop_if_asked()
        written = self._handle.write(data)
        self._job.report(self._file.path, self._handle.tell())
        return written

    def __getattr__(self, name: str) -> Any:
        return getattr(self._handle, name)


def bar(job: Job, file: RemoteFile) -> Any:
    """A progress bar for the library that draws nothing and tells how far it is.

    A file that comes by Xet has two, for bytes received and bytes written.
    """
    from huggingface_hub.utils import tqdm

    furthest = 0

    class Bar(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **{**options, "disable": True})
            self._done = int(options.get("initial") or 0)

        def update(self, n: float | None = 1) -> None:
            nonlocal furthest
            job.stop_if_asked()
            self._done += int(n or 0)
            furthest = min(file.size, max(furthest, self._done))
            job.report(file.path, furthest)

    return Bar
