// Gradients of one layer's routed experts in x and in the routing weights; the experts are frozen.
//
// dh' = dout · Wd,  d weight = h · dh',  (dG, dU) from w · dh',  dx = dG · Wg + dU · Wu: products with
// turned panels, which are made in a thread's scratch from the packed ones and forgotten.
#pragma once
#include "forward.h"

namespace kt {

// Low-rank updates of gate, up and down: A [experts, rank, in], B [experts, out, rank]; the gradients,
// of the same shapes, are added to what da and db hold.
struct Lora {
  int rank = 0;
  float scale = 1;
  const float *a[3] = {}, *b[3] = {};
  float *da[3] = {}, *db[3] = {};
};

struct BackCall {
  const char* x;     // [tokens, hidden]
  const char* dout;  // null in a forward pass, whose result is dx
  char* dx;
  Dtype dtype;           // of all three
  Ids ids;               // [tokens, top_k]
  const float* weights;  // [tokens, top_k]
  float* dweights = nullptr;
  const uint8_t* mask = nullptr;  // [experts] or null
  int tokens, top_k;
  Act act;
  const Lora* lora = nullptr;  // or null
};

// Uses the pool and the process's work buffers: hold a PoolLock. Throws std::invalid_argument.
void backward(const Weights& w, const BackCall& call, const Kernels& kernels);

}  // namespace kt
