// Many tokens per expert, on tiles: each token is quantised once, each panel of weights leaves memory
// once and meets all tokens of its expert while it is in the caches.
#pragma once
#include "cut.h"
#include "forward.h"

namespace kt {

struct TiledBuffers {
  Scratch x_rows, x_scale, x, x_block_scale, h_rows, h, h_scale, y, threads;
};

// The work buffers and the pool belong to the caller: hold a PoolLock.
void forward_tiled(const Weights& w, const Call& call, const Kernels& kernels, const Routing& routing, int first_token,
                   int tokens, TiledBuffers& buffers);

}  // namespace kt
