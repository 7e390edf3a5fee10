// Gradients of one layer's routed experts in x and in the routing weights; the experts are frozen.
//
// dh' = dout · Wd,  d weight = h · dh',  (dG, dU) from w · dh',  dx = dG · Wg + dU · Wu: products with
// turned panels, which are made in a thread's scratch from the packed ones and forgotten.
#pragma once
#include "forward.h"

namespace kt {

struct BackCall {
  const char* x;         // [tokens, hidden]
  const char* dout;
  char* dx;
  Dtype dtype;           // of all three
  Ids ids;               // [tokens, top_k]
  const float* weights;  // [tokens, top_k]
  float* dweights;
  const uint8_t* mask;   // [experts] or null
  int tokens, top_k;
  Act act;
};

// Uses the pool and the process's work buffers: hold a PoolLock. Throws std::invalid_argument.
void backward(const Weights& w, const BackCall& call, const Kernels& kernels);

}  // namespace kt
