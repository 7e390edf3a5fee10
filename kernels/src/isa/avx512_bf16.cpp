#include "vec_avx512.h"

#include "table.inl"

namespace kt {
namespace {
constexpr Kernels kTable = vector_table("avx512_bf16");
}
const Kernels* kernels_avx512_bf16() { return &kTable; }
}  // namespace kt
