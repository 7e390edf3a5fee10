#include "vec_avx512.h"

#include "table.inl"

namespace kt {
namespace {
constexpr Kernels kTable = vector_table("avx512_base");
}
const Kernels* kernels_avx512_base() { return &kTable; }
}  // namespace kt
