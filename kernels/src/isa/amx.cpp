#include "tiles_hw.h"
#include "vec_avx512.h"

#include "tile_table.inl"

namespace kt {
namespace {
constexpr Kernels kTable = tile_table("amx");
}
const Kernels* kernels_amx() { return &kTable; }
}  // namespace kt
