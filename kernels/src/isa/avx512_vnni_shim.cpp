#include "avx512_shim.h"
#define KT_SHIM_VNNI
#include "vec_avx512.h"

#include "table.inl"

namespace kt {
namespace {
constexpr Kernels kTable = vector_table("avx512_vnni_shim");
}
const Kernels* kernels_avx512_vnni_shim() { return &kTable; }
}  // namespace kt
