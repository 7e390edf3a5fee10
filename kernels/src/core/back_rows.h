// Rows in and out of the passes of back_state.h, and the walk over an expert's blocks.
#pragma once
#include "back_lora.h"
#include "back_state.h"
#include "routing.h"

namespace kt {

struct BackBuffers {
  Scratch x, dout, d, dx, dot, threads;
  LoraBuffers lora;
  Routing routing;
};

// One set for the process, used under the PoolLock.
BackBuffers& back_buffers();

constexpr int kBackChunk = 4096;  // tokens handled at once: bounds the work buffers

// Routes tokens first … first + n - 1 and gives each buffer its place. `call` must outlive the result.
Back make_back(const Weights& w, const BackCall& call, const Kernels& kernels, int first, int n, BackBuffers& b);

// Values of one row from k0 on, into its place in a block.
void put_row(const Back& s, const Rows& r, int block, int row, const float* x, int n, int k0);
// x, and dout where there is one, of a block's tokens.
void pack_block(const Back& s, int block, int thread);
// The sum of a token's rows of dx, into its place in the result.
void sum_token(const Back& s, int token);

// through(state, expert, column, first block, blocks, scratch) for one slice of columns of one expert.
using Through = void (*)(const Back&, const Touched&, int, int, int, const BackScratch&);
void run_slice(const Back& s, int unit, int slices, int thread, Through through);

}  // namespace kt
