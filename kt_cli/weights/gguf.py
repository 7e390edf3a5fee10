"""GGUF files for `kt`: the reader of `kt_moe`, with the errors a person reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kt_moe.files import FileError, GgufTensor, MissingTensor, NotWhole
from kt_moe.files import GgufFile as Reader
from kt_moe.formats import UnsupportedFormat
from kt_moe.formats.floats import Bytes, Floats

from kt_cli.documents import Source, open_regular
from kt_cli.errors import NotFoundError, TransferError

OTHER = "take another quantisation of the model; a newer `kt` may read this one"


@dataclass(frozen=True, slots=True)
class GgufFile:
    reader: Reader

    @classmethod
    def open(cls, path: Path) -> GgufFile:
        """Raises NotFoundError, or TransferError for a file that is not whole."""
        with open_regular(path, Source(str(path))), _explained():
            return cls(Reader.open(path))

    @property
    def metadata(self) -> Mapping[str, Any]:
        return self.reader.metadata  # type: ignore[no-any-return]

    @property
    def tensors(self) -> Mapping[str, GgufTensor]:
        return self.reader.tensors  # type: ignore[no-any-return]

    def raw(self, name: str) -> Bytes:
        """The tensor's blocks as they stand in the file, memory-mapped and read-only."""
        with _explained():
            return self.reader.raw(name)

    def get(self, name: str) -> Floats:
        """The tensor as float32; raises TransferError for a type that cannot be dequantised."""
        with _explained():
            return self.reader.get(name)


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except NotWhole as error:
        raise TransferError(error.what, error.why, "download it again") from error
    except MissingTensor as error:
        raise NotFoundError(error.what, error.why) from error
    except FileError as error:
        raise TransferError(error.what, error.why, OTHER) from error
    except UnsupportedFormat as error:
        raise TransferError(str(error), "", OTHER) from error
