// Many tokens per expert, on tiles: each token is quantised once, each panel of weights leaves memory
// once and meets all tokens of its expert while it is in the caches.
#pragma once
#include "forward.h"

namespace kt {

// How a product is cut. Two tiles-wide panels of `depth` tiles stay in the first-level cache, all
// sums and both operands of one step in the second-level cache.
struct Cut {
  int depth = 8;    // k tiles (1 KB of a panel) a step
  int panels = 16;  // of one unit, a multiple of 4
  int blocks = 16;  // of 16 rows, taken together
};
void set_cut(const Cut& cut);

struct TiledBuffers {
  Scratch x_rows, x_scale, x, x_block_scale, h_rows, h, h_scale, y, threads;
};

// The work buffers and the pool belong to the caller: hold a PoolLock.
void forward_tiled(const Weights& w, const Call& call, const Kernels& kernels, const Routing& routing,
                   int first_token, int tokens, TiledBuffers& buffers);

}  // namespace kt
