#include "avx512_shim.h"
#define KT_SHIM_VNNI
#define KT_SHIM_BF16
#include "tiles_shim.h"
#include "vec_avx512.h"

#include "tile_table.inl"

namespace kt {
namespace {
constexpr Kernels kTable = tile_table("amx_shim");
}
const Kernels* kernels_amx_shim() { return &kTable; }
}  // namespace kt
