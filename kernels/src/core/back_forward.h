// A layer with low-rank matrices beside gate, up and down, as the gradients see it: bf16 products.
#pragma once
#include "backward.h"

namespace kt {

// `call` has its result in dx and no dout. Hold a PoolLock. Throws std::invalid_argument.
void forward_low_rank(const Weights& w, const BackCall& call, const Kernels& kernels);

}  // namespace kt
