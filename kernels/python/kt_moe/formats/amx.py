"""kt-kernel's AMXINT8 and AMXINT4 files: rows in tiles of an AMX B operand, one scale per row.

Order of the tiles: blocks of 64 rows (INT8) or 128 rows (INT4), then blocks of 3584 columns, then
tiles of 32 rows, then tiles of 64 columns. A tile is two panels of 16 rows, each laid out as
[k / 4][row][k % 4]. An INT4 tile covers 128 columns: low halves are the first 64 of them, high
halves the others. INT8: weight = value · scale; INT4: weight = 16 · value · scale.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kt_moe.formats.codes import Codes
from kt_moe.formats.errors import FormatError
from kt_moe.formats.floats import Bytes, Floats

TILE_ROWS, TILE_COLUMNS, K_BLOCK = 32, 64, 3584
N_BLOCK = {8: 64, 4: 128}


@dataclass(frozen=True, slots=True)
class AmxTiles:
    """`data` uint8, N·K·bits/8 bytes; `scale` float32 [N]."""

    data: Bytes
    scale: Floats
    shape: tuple[int, int]
    bits: int

    def __post_init__(self) -> None:
        n, k = self.shape
        span = TILE_COLUMNS * 8 // self.bits
        if n % TILE_ROWS or k % span:
            raise FormatError(f"{(n, k)} is no multiple of the AMXINT{self.bits} tile (32, {span})")
        if self.data.size != n * k * self.bits // 8:
            wanted = n * k * self.bits // 8
            raise FormatError(
                f"AMXINT{self.bits} weights have {self.data.size} bytes, {(n, k)} takes {wanted}"
            )
        if self.scale.shape != (n,):
            raise FormatError(f"AMXINT{self.bits} scales have shape {self.scale.shape}, not {(n,)}")

    def codes(self) -> Codes:
        tiles = self.data.reshape(-1, 2, 16, 16, 4).transpose(0, 1, 3, 2, 4)
        tiles = tiles.reshape(-1, TILE_ROWS, TILE_COLUMNS)
        if self.bits == 4:
            tiles = np.concatenate([tiles << 4, tiles & 0xF0], axis=2)
        values = _place(tiles, self.shape, self.bits).view(np.int8)
        if self.bits == 4:
            values >>= 4
        unit = self.scale if self.bits == 8 else self.scale * np.float32(16)
        return Codes(values, unit[:, None], self.bits)

    def decode(self) -> Floats:
        return self.codes().decode()


def _place(tiles: Bytes, shape: tuple[int, int], bits: int) -> Bytes:
    """Tiles in the order of the file → the matrix."""
    n, k = shape
    grid = np.empty((n // TILE_ROWS, k // tiles.shape[2], *tiles.shape[1:]), np.uint8)
    rows, columns = _order(len(grid), grid.shape[1], bits)
    grid[rows, columns] = tiles
    return grid.transpose(0, 2, 1, 3).reshape(n, k)


def _order(rows: int, columns: int, bits: int) -> tuple[npt.NDArray[np.intp], ...]:
    """Row and column of each tile of the grid, in the order of the file."""
    high = N_BLOCK[bits] // TILE_ROWS
    wide = K_BLOCK * bits // (TILE_COLUMNS * 8)
    row, column = np.indices((rows, columns)).reshape(2, -1)
    order = np.lexsort((column % wide, row % high, column // wide, row // high))
    return row[order], column[order]
