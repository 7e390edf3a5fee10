"""A model on a hub → `Model`, before any download: configuration and headers by range requests."""

from __future__ import annotations

import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote

from kt_cli import network
from kt_cli.catalog.describe import from_tensors
from kt_cli.catalog.quantization_config import with_quantization
from kt_cli.core.model import Model
from kt_cli.documents import MAX_BYTES, Source, parse_json
from kt_cli.errors import AuthError, NotFoundError, TransferError
from kt_cli.modelfiles import INDEX
from kt_cli.weights.headers import TensorInfo, header_length, parse_header
from kt_cli.weights.index import MAX_INDEX, index_of, require_agreement

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx

ENDPOINT = "https://huggingface.co"
PACKED = (".qweight", ".weight_scale", ".weight_packed", ".weight_scale_inv")
"""Tensors of quantised models, which may say how in a file of its own."""
SINGLE = "model.safetensors"
FIRST_BYTES = 256 * 1024
"""Most headers fit, so one request reads them."""
CONNECTIONS = 8
_SIZE = re.compile(r".*/([0-9]{1,18})")
TIMEOUT_S = 30.0


class Files(Protocol):
    """The files of one revision of a repository."""

    @property
    def where(self) -> str: ...

    def read(self, path: str, start: int, end: int) -> tuple[bytes, int]:
        """Bytes from `start` up to `end`, fewer where the file ends, and the size of the file.

        Raises NotFoundError, AuthError or TransferError.
        """
        ...


def remote(repo: str, revision: str = "main", endpoint: str = ENDPOINT, token: str = "") -> Model:
    """Raises NotFoundError, AuthError, TransferError, or KtError for what is not known."""
    with hub_files(repo, revision, endpoint, token) as files:
        return replace(read_remote(files, repo.rpartition("/")[2]), repo=repo)


def read_remote(files: Files, name: str) -> Model:
    content = files.read("config.json", 0, MAX_BYTES)[0]
    config = parse_json(content, Source(f"{files.where}/config.json")).values
    tensors = [info for held in _shards(files).values() for info in held.values()]
    if any(info.name.endswith(PACKED) for info in tensors):
        config = with_quantization(config, lambda name: _beside(files, name))
    return from_tensors(config, tensors, name, files.where)


def _beside(files: Files, name: str) -> Mapping[str, Any]:
    try:
        content = files.read(name, 0, MAX_BYTES)[0]
    except NotFoundError:
        return {}
    return parse_json(content, Source(f"{files.where}/{name}")).values


def _shards(files: Files) -> Mapping[str, Mapping[str, TensorInfo]]:
    try:
        index = files.read(INDEX, 0, MAX_INDEX)[0]
    except NotFoundError:
        return {SINGLE: _header(files, SINGLE)}
    weight_map = index_of(index, f"{files.where}/{INDEX}")
    names = sorted(set(weight_map.values()))
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        headers = list(pool.map(lambda name: _header(files, name), names))
    shards = dict(zip(names, headers, strict=True))
    require_agreement(weight_map, shards, files.where)
    return shards


def _header(files: Files, name: str) -> dict[str, TensorInfo]:
    where = f"{files.where}/{name}"
    content, size = files.read(name, 0, FIRST_BYTES)
    length = header_length(content[:8], size, where)
    if 8 + length > len(content):
        content += files.read(name, len(content), 8 + length)[0]
    return parse_header(content[8 : 8 + length], size, where)


@dataclass(frozen=True, slots=True)
class HubFiles:
    """Hugging Face's way to name files; a server that ignores ranges is refused."""

    session: httpx.Client
    where: str
    base: str

    def read(self, path: str, start: int, end: int) -> tuple[bytes, int]:
        import httpx

        headers = {"Range": f"bytes={start}-{end - 1}"}
        url = f"{self.base}/{quote(path)}"
        try:
            with self.session.stream("GET", url, headers=headers) as answer:
                self._require(answer, path)
                content = self._content(answer, path, end - start)
        except httpx.HTTPError as error:
            fix = "check the network, or give a folder on this machine"
            raise TransferError(f"cannot reach {self.where}", str(error), fix) from error
        size = _SIZE.fullmatch(answer.headers.get("Content-Range", ""))
        return content, int(size[1]) if size else len(content)

    def _content(self, answer: httpx.Response, path: str, most: int) -> bytes:
        """No more is kept than was asked for, whatever a server sends."""
        content = bytearray()
        for part in answer.iter_bytes():
            content += part
            if len(content) > most:
                why = f"the server sends more than the {most} bytes that were asked for"
                raise TransferError(f"cannot read {self.where}/{path}", why, "try again")
        return bytes(content)

    def _require(self, answer: httpx.Response, path: str) -> None:
        what, status = f"{self.where}/{path}", answer.status_code
        if status == 404:
            raise NotFoundError(f"no {what}", "", "check the name of the repository")
        if status in (401, 403):
            fix = "accept the model's terms on the hub and set HF_TOKEN"
            raise AuthError(f"no access to {what}", f"the hub answered {status}", fix)
        if status == 200 and path.endswith(".safetensors"):
            raise TransferError(f"cannot read the header of {what}", "the server ignores ranges")
        if status not in (200, 206):
            raise TransferError(f"cannot read {what}", f"the hub answered {status}", "try again")


@contextmanager
def hub_files(repo: str, revision: str, endpoint: str, token: str) -> Iterator[HubFiles]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with network.client(headers=headers, timeout=TIMEOUT_S, follow_redirects=True) as session:
        base = f"{endpoint.rstrip('/')}/{quote(repo)}/resolve/{quote(revision, safe='')}"
        yield HubFiles(session, repo, base)
