#include "vec_avx2.h"

#include "table.inl"

namespace kt {
namespace {
constexpr Kernels kTable = vector_table("avx2");
}
const Kernels* kernels_avx2() { return &kTable; }
}  // namespace kt
