#include "vec_avx512.h"

#include "table.inl"

namespace kt {
namespace {
constexpr Kernels kTable = vector_table("avx512_vnni");
}
const Kernels* kernels_avx512_vnni() { return &kTable; }
}  // namespace kt
