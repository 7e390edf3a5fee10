// out[T, H] = sum over k of w[t, k] * down(act(gate x) * up x), for one layer's packed experts.
#pragma once
#include "routing.h"
#include "weights.h"

namespace kt {

enum class Way { best, vectors, tiles };  // the last one only where there are tiles

struct Call {
  const char* x;  // [tokens, hidden]
  char* out;
  Dtype dtype;
  Ids ids;               // [tokens, top_k]
  const float* weights;  // [tokens, top_k]
  const uint8_t* mask;   // [experts] or null
  int tokens, top_k;
  Act act;
  double* seconds = nullptr;  // [kMaxPhases] or null: adds the time of each phase
  Way way = Way::best;
};

// Uses the pool and the process's work buffers: hold a PoolLock. Throws std::invalid_argument.
void forward(const Weights& w, const Call& call, const Kernels& kernels);

}  // namespace kt
