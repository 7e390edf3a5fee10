"""Packed experts on disk: those of an earlier start are mapped, new ones are written."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from kt_cli.core.units import gb
from kt_cli.weights.packs import Held, Shelf

if TYPE_CHECKING:
    import kt_moe

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a layer's experts must be to serve in place of packing them."""

    format: str
    num_experts: int
    hidden: int
    intermediate: int
    top_k: int
    act: str

    def fits(self, found: kt_moe.Experts) -> bool:
        fields = ("format", "num_experts", "hidden", "intermediate", "top_k", "act")
        same = all(getattr(found, name) == getattr(self, name) for name in fields)
        return same and found.down_format == self.format


class Packing(Protocol):
    def experts(
        self, module: str, wanted: Wanted, pack: Callable[[], kt_moe.Experts]
    ) -> kt_moe.Experts: ...

    def close(self) -> None: ...


class NoPacks:
    """Packs at every start."""

    def experts(
        self, module: str, wanted: Wanted, pack: Callable[[], kt_moe.Experts]
    ) -> kt_moe.Experts:
        return pack()

    def close(self) -> None: ...


class PackCache:
    """Files are written by a thread while the next layer is packed, and while the model serves.

    A disk that fails or is full ends the writing with a warning; the model runs as it would have.
    """

    def __init__(self, shelf: Shelf, held: Held, layers: int) -> None:
        """`layers`: how many layers of experts the model has."""
        self._shelf = shelf
        self._held = held
        self._layers = layers
        self._mapped: list[kt_moe.Experts] = []
        self._work = ThreadPoolExecutor(1, "packs")
        self._writes: list[Future[None]] = []
        self._keeps: bool | None = None  # None until the first layer says how large they are

    def experts(
        self, module: str, wanted: Wanted, pack: Callable[[], kt_moe.Experts]
    ) -> kt_moe.Experts:
        """The layer of a module, mapped, or what `pack` makes."""
        file = self._held.file(module, wanted.format)
        found = _map(file, wanted)
        if found is not None:
            self._mapped.append(found)
            return found
        made = pack()
        if self._keeps is None:
            self._keeps = self._has_room(made.nbytes * (self._layers - len(self._mapped)))
        if self._keeps:
            self._writes.append(self._work.submit(self._write, made, file))
        return made

    @property
    def mapped(self) -> int:
        """Layers that an earlier start has packed."""
        return len(self._mapped)

    def wait(self) -> None:
        """Until everything is written."""
        for write in self._writes:
            write.result()

    def close(self) -> None:
        """A file half written is given up."""
        self._keeps = False
        self._work.shutdown(wait=False, cancel_futures=True)
        self._held.close()

    def _has_room(self, need: int) -> bool:
        try:
            if not self._held.may_write():
                return False
            why = self._shelf.make_room(need, self._held.folder)
        except OSError as error:
            why = str(error)
        if why:
            log.warning("packed experts are not kept, so each start packs them: %s", why)
        return not why

    def _write(self, layer: kt_moe.Experts, file: Path) -> None:
        if not self._keeps:
            return
        try:
            layer.save(file)
        except OSError as error:
            if self._keeps:
                log.warning("%s of packed experts could not be kept: %s", gb(layer.nbytes), error)
            self._keeps = False


def open_packs(shelf: Shelf | None, checkpoint: Path, made_by: str, layers: int) -> Packing:
    """What keeps the packed experts of a checkpoint on a shelf; None keeps nothing."""
    if shelf is None or not layers:
        return NoPacks()
    try:
        return PackCache(shelf, shelf.open(checkpoint, made_by), layers)
    except OSError as error:
        log.warning("packed experts are not kept, so each start packs them: %s", error)
        return NoPacks()


def _map(file: Path, wanted: Wanted) -> kt_moe.Experts | None:
    import kt_moe

    if not file.is_file():
        return None
    try:
        found = kt_moe.Experts.load(file, scales=False)
        if not wanted.fits(found):
            return None
        found.verify()
    except (OSError, ValueError) as error:
        log.warning("the experts are packed again: %s", error)
        return None
    return found
