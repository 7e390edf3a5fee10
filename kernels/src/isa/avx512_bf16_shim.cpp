#include "avx512_shim.h"
#define KT_SHIM_VNNI
#define KT_SHIM_BF16
#include "vec_avx512.h"

#include "table.inl"

namespace kt {
namespace {
constexpr Kernels kTable = vector_table("avx512_bf16_shim");
}
const Kernels* kernels_avx512_bf16_shim() { return &kTable; }
}  // namespace kt
