#include "vec_avx512.h"
#include "unit.inl"
#include "tiles_shim.h"
namespace kt {
#include "expand.inl"
#include "tiles.inl"

namespace {
constexpr Kernels tile_table() {
  Kernels t = vector_table("amx_shim");
  t.tile_from = 4;
  t.tile_bf16 = tile_bf16;
  t.tile_i8 = tile_i8;
  t.i4_to_i8 = i4_to_i8;
  t.peak = peak_with_tiles;
  return t;
}
constexpr Kernels kTable = tile_table();
}  // namespace
const Kernels* kernels_amx_shim() { return &kTable; }
}  // namespace kt
