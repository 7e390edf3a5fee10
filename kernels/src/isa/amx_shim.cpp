#include "vec_avx512.h"
#include "unit.inl"
#include "tiles_shim.h"
namespace kt {
#include "expand.inl"
#include "tiles.inl"
#include "tile_rows.inl"
#include "tile_table.inl"

namespace {
constexpr Kernels kTable = tile_table("amx_shim");
}  // namespace
const Kernels* kernels_amx_shim() { return &kTable; }
}  // namespace kt
