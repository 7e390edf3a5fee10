// out[T, H] = sum over k of w[t, k] * down(act(gate x) * up x), for one layer's packed experts.
#pragma once
#include "routing.h"
#include "weights.h"

namespace kt {

struct Call {
  const char* x;  // [tokens, hidden]
  char* out;
  Dtype dtype;
  Ids ids;               // [tokens, top_k]
  const float* weights;  // [tokens, top_k]
  const uint8_t* mask;   // [experts] or null
  int tokens, top_k;
  Act act;
  double* seconds;       // [kMaxPhases] or null: adds the time of each phase
};

// Uses the pool and the process's work buffers: hold a PoolLock. Throws std::invalid_argument.
void forward(const Weights& w, const Call& call, const Kernels& kernels);

// Tokens per touched expert from which a CPU with tiles uses them; 0 restores the built-in value.
void set_tile_from(int tokens);

bool use_tiles(const Kernels& kernels, size_t pairs, size_t touched);

}  // namespace kt
