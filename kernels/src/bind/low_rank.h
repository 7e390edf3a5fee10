// Low-rank matrices from Python.
#pragma once
#include <vector>

#include "../core/backward.h"
#include "../core/weights.h"
#include "arrays.h"

namespace kt {

template <class A>
auto* low_rank_data(const A& a, const char* name, const std::vector<size_t>& shape) {
  check_array(a, name, shape);
  if (float_dtype(a, name) != Dtype::f32) throw nb::type_error((std::string(name) + " must be float32").c_str());
  return a.data();
}

// A and B of gate, up and down in turn; the gradients in the same order, or none of them.
inline Lora lora_of(const Shape& s, const std::vector<ConstArray>& matrices, const std::vector<Array>& grads,
                    float scale) {
  static const char* const names[] = {"gate_a", "gate_b", "up_a", "up_b", "down_a", "down_b"};
  if (matrices.size() != 6 || (!grads.empty() && grads.size() != 6))
    throw nb::value_error("low-rank matrices come in six: A and B of gate, up and down");
  const size_t rank = matrices[0].ndim() == 3 ? matrices[0].shape(1) : 0, e = size_t(s.experts);
  if (rank == 0) throw nb::value_error("gate_a must be [experts, rank, hidden] with a rank of 1 or more");
  Lora l = {.rank = int(rank), .scale = scale};
  for (size_t p = 0; p < 3; ++p) {
    const size_t in = size_t(p == 2 ? s.intermediate : s.hidden);
    const size_t out = size_t(p == 2 ? s.hidden : s.intermediate);
    const std::vector<size_t> a = {e, rank, in}, b = {e, out, rank};
    l.a[p] = static_cast<const float*>(low_rank_data(matrices[2 * p], names[2 * p], a));
    l.b[p] = static_cast<const float*>(low_rank_data(matrices[2 * p + 1], names[2 * p + 1], b));
    if (grads.empty()) continue;
    l.da[p] = static_cast<float*>(low_rank_data(grads[2 * p], names[2 * p], a));
    l.db[p] = static_cast<float*>(low_rank_data(grads[2 * p + 1], names[2 * p + 1], b));
  }
  return l;
}

}  // namespace kt
