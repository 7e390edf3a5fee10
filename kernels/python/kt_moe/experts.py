"""One MoE layer's routed experts, packed for the CPU kernels."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from kt_moe import packfile, tuning
from kt_moe._native import core
from kt_moe.arrays import Array, plain, uninitialised
from kt_moe.background import wait_for_all
from kt_moe.coding import coding
from kt_moe.deferred import Deferred
from kt_moe.host_call import HostCall
from kt_moe.stored import Stored
from kt_moe.trainable import Trainable

Floats: TypeAlias = npt.NDArray[np.float32]
ActName: TypeAlias = Literal["silu", "gelu"]


def _check_settings(top_k: int, act: str) -> None:
    if top_k < 1:
        raise ValueError(f"top_k must be at least 1, not {top_k}")
    if act not in ("silu", "gelu"):
        raise ValueError(f"act must be silu or gelu, not {act}")


def _check_source(name: str, array: Array, dtype: str | None) -> None:
    if not hasattr(array, "__dlpack__") or not hasattr(array, "shape"):
        raise TypeError(
            f"{name} must be a numpy array or a torch tensor, not {type(array).__name__}"
        )
    if len(array.shape) != 3:
        raise ValueError(f"{name} has {len(array.shape)} dimensions, not 3")
    if getattr(array, "dtype", None) == np.uint16 and dtype != "bf16":
        raise TypeError(f'{name} is uint16: pass dtype="bf16" if it holds bf16 bits')


def _as_bytes(scales: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    if not scales.size:
        return np.empty(scales.shape, np.uint8)
    return np.ascontiguousarray(scales).view(np.uint8)


class Experts(Trainable):
    """`out[t] = sum over k of weights[t, k] * down(act(gate x_t) * up x_t)`, expert `ids[t, k]`."""

    def __init__(
        self,
        num_experts: int,
        hidden: int,
        intermediate: int,
        *,
        format: str,
        group: int | None = None,
        down_format: str | None = None,
        down_group: int | None = None,
        top_k: int,
        act: ActName = "silu",
    ) -> None:
        """All weights zero; fill them with `set_expert`. `group` None: 32, for nvfp4 16. down has
        the format of gate and up unless `down_format` names another one."""
        up = coding(format, group)
        down = coding(down_format or format, down_group or (None if down_format else group))
        _check_settings(top_k, act)
        for name, n in (
            ("experts", num_experts),
            ("hidden", hidden),
            ("intermediate", intermediate),
        ):
            if n < 1:
                raise ValueError(f"{name} must be at least 1, not {n}")
        packed = core().Experts(num_experts, hidden, intermediate, up, down, top_k, act == "gelu")
        meta = packfile.Meta(num_experts, hidden, intermediate, up, down, top_k, act)
        self._adopt(packed, meta)

    def _adopt(self, packed: Any, meta: packfile.Meta, seal: packfile.Seal | None = None) -> None:
        tuning.load_once()
        self._unchecked = packed
        self._seal = seal
        self._meta = meta
        self._pending: list[int] = []

    @property
    def _packed(self) -> Any:
        """The only way to the weights: those of a file are checked before their first use."""
        if self._seal is not None:
            self.verify()
        return self._unchecked

    @classmethod
    def from_weights(
        cls,
        gate: Array,
        up: Array,
        down: Array,
        *,
        format: str,
        group: int | None = None,
        down_format: str | None = None,
        down_group: int | None = None,
        top_k: int,
        act: ActName = "silu",
        threads: int | None = None,
        dtype: str | None = None,
    ) -> Experts:
        """gate, up: [E, I, H]; down: [E, H, I]; float32, float16, bfloat16, or uint16 with
        `dtype="bf16"`. `threads` sets the process's pool, which all layers share."""
        for name, array in (("gate", gate), ("up", up), ("down", down)):
            _check_source(name, array, dtype)
        if threads is not None:
            core().set_threads(threads)
        e, i, h = (int(n) for n in gate.shape)
        for name, array, wanted in (("up", up, (e, i, h)), ("down", down, (e, h, i))):
            if tuple(array.shape) != wanted:
                raise ValueError(f"{name} has shape {list(array.shape)}, not {list(wanted)}")
        experts = cls(
            e,
            h,
            i,
            format=format,
            group=group,
            down_format=down_format,
            down_group=down_group,
            top_k=top_k,
            act=act,
        )
        for n in range(e):
            experts.set_expert(n, gate[n], up[n], down[n])
        return experts

    @classmethod
    def load(cls, path: str | Path, *, verify: bool = False, scales: bool = True) -> Experts:
        """Map a file written by `save`. Its header and size are checked at once, all of its content
        before anything is computed with it, or now if `verify` says so: PackFileError for damage.

        `scales=False` leaves out the search for scales that are not finite, which a file has only
        if it was made so."""
        header = packfile.read(Path(path))
        meta = header.meta
        experts = cls.__new__(cls)
        packed = core().Experts(
            str(path),
            header.data_at,
            header.file_bytes,
            meta.num_experts,
            meta.hidden,
            meta.intermediate,
            meta.up,
            meta.down,
            meta.top_k,
            meta.act == "gelu",
        )
        experts._adopt(packed, meta, packfile.Seal(Path(path), header, scales=scales))
        if verify:
            experts.verify()
        return experts

    def verify(self) -> None:
        """Check the content of a loaded file now rather than when its experts are first used. This
        reads all of it into memory, by all threads. Raises PackFileError for damage."""
        seal = self._seal
        if seal is not None:
            seal.check(self._unchecked.data(), self._unchecked.layout())
            self._seal = None

    def save(self, path: str | Path) -> None:
        """Write atomically: a reader sees the old file or the whole new one."""
        packfile.write(Path(path), self._meta, self._packed.data())

    def set_expert(
        self, expert: int, gate: Array | Stored, up: Array | Stored, down: Array | Stored
    ) -> None:
        """gate, up: [I, H]; down: [H, I]; uint16 holds bf16. ValueError for NaN or infinity.
        `Stored` holds codes in the format that this layer has there, which stay as they are."""
        matrices = (gate, up, down)
        codes = [isinstance(m, Stored) for m in matrices]
        if not all(codes):
            floats = (None if c else plain(m) for m, c in zip(matrices, codes, strict=True))
            self._packed.set_expert(expert, *floats)
        for n, matrix in enumerate(matrices):
            if isinstance(matrix, Stored):
                self._place(expert, n, matrix)

    def _place(self, expert: int, n: int, matrix: Stored) -> None:
        wanted = self._meta.down if n == 2 else self._meta.up
        if matrix.coding != wanted:
            raise ValueError(f"{matrix.coding} came for {wanted}")
        self._packed.set_codes(
            expert, n, matrix.codes, _as_bytes(matrix.scales), matrix.minima, matrix.rows
        )

    def copy_expert(self, source: int) -> None:
        """Give every expert the weights of one: for measurements."""
        self._packed.copy_expert(source)

    def dequantised(self, expert: int) -> tuple[Floats, Floats, Floats]:
        """gate, up [I, H] and down [H, I] in float32, as the kernels see the stored values."""
        if not 0 <= expert < self.num_experts:
            raise IndexError(f"expert {expert} of {self.num_experts}")
        shape = (self.intermediate, self.hidden)
        gate: Floats = np.empty(shape, np.float32)
        up: Floats = np.empty(shape, np.float32)
        down: Floats = np.empty(shape[::-1], np.float32)
        self._packed.unpack(expert, gate, up, down)
        return gate, up, down

    def forward(
        self,
        x: Array,
        ids: Array,
        weights: Array,
        *,
        mask: Array | None = None,
        out: Array | None = None,
    ) -> Array:
        """x: [T, H] float32, float16 or bfloat16 (uint16 in numpy); ids: [T, K] int32 or int64, -1
        for none; weights: [T, K] float32; mask: [E] bool, True for experts that live elsewhere.
        The result has x's type, dtype and shape."""
        x = plain(x)
        tuning.calibrate(self)
        out = uninitialised(x) if out is None else out
        self._packed.forward(x, ids, plain(weights), mask, out)
        tuning.keep()
        return out

    def submit(
        self,
        x: Array,
        ids: Array,
        weights: Array,
        *,
        mask: Array | None = None,
        out: Array | None = None,
    ) -> Array:
        """Start `forward` in the background; its result is filled when `sync` returns."""
        x, weights = plain(x), plain(weights)
        tuning.calibrate(self)
        out = uninitialised(x) if out is None else out
        self._pending.append(self._packed.submit(x, ids, weights, mask, out))
        return out

    def defer(self, x: Array, ids: Array, weights: Array, *, mask: Array | None = None) -> Deferred:
        """Start `forward` for pairs that are left for a later call: see `kt_moe.deferred`."""
        tuning.calibrate(self)
        return Deferred(self._packed, x, ids, weights, mask)

    def host_call(
        self, x: Array, ids: Array, weights: Array, *, out: Array, mask: Array | None = None
    ) -> HostCall:
        """`forward` on these arrays as a pair of C functions, for CUDA host callbacks."""
        tuning.calibrate(self)
        return HostCall(self._packed, (x, ids, weights, mask, out))

    def sync(self) -> None:
        """Wait for everything submitted; raises what the first failing call raised."""
        errors = wait_for_all(self._pending)
        tuning.keep()
        if errors:
            raise errors[0]

    def __del__(self) -> None:
        wait_for_all(getattr(self, "_pending", []))

    @property
    def nbytes(self) -> int:
        return int(self._unchecked.layout()["bytes"])

    @property
    def format(self) -> str:
        """Of gate and up."""
        return self._meta.up.format

    @property
    def group(self) -> int:
        return self._meta.up.group

    @property
    def down_format(self) -> str:
        return self._meta.down.format

    @property
    def down_group(self) -> int:
        return self._meta.down.group

    @property
    def num_experts(self) -> int:
        return self._meta.num_experts

    @property
    def hidden(self) -> int:
        return self._meta.hidden

    @property
    def intermediate(self) -> int:
        return self._meta.intermediate

    @property
    def top_k(self) -> int:
        return self._meta.top_k

    @property
    def act(self) -> str:
        return self._meta.act
