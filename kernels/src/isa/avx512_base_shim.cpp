#include "avx512_shim.h"
#include "vec_avx512.h"

#include "table.inl"

namespace kt {
namespace {
constexpr Kernels kTable = vector_table("avx512_base_shim");
}
const Kernels* kernels_avx512_base_shim() { return &kTable; }
}  // namespace kt
