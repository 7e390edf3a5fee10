// One backward call's view of a layer.
#pragma once
#include <algorithm>
#include <vector>

#include "backward.h"

namespace kt {

// Activations in blocks of at most 16 rows, bf16 or f32, as the bf16 products of this CPU take them.
struct Rows {
  char* data;
  int k;
};

struct BackLora;

struct Back {
  const Weights& w;
  const Layout& l;
  const BackCall& call;
  const Kernels& kernels;
  const Routing& routing;
  int first_token, tokens;
  bool tiles, bf16;      // which products, which activations
  Rows x, dout;          // [hidden]
  Rows d;                // gradients of gate and, behind them, of up
  float* dx = nullptr;   // [pair][hidden]
  float* dot = nullptr;  // [pair][slice of 64 of the intermediate dimension]
  char* scratch = nullptr;
  size_t scratch_bytes = 0;
  const BackLora* lora = nullptr;  // or null

  size_t row_bytes(const Rows& r) const { return size_t(r.k) * (bf16 ? 2 : 4); }
  int k_of_tile() const { return bf16 ? 32 : 16; }
  int block_rows(const Block& b) const { return tiles ? 16 : b.rows; }
  char* block_at(const Rows& r, int block) const {
    const size_t first = tiles ? size_t(block) * 16 : size_t(routing.blocks[size_t(block)].first);
    return r.data + first * row_bytes(r);
  }
};

constexpr int kSlice = 64;       // columns of a unit
constexpr int kStep = 1024;      // depth of a product at a time
constexpr int kBackBlocks = 16;  // blocks taken together

struct BackScratch {
  char* panels;    // up to 8, of one step
  char* sums;      // of tiles
  float* gate_up;  // [block][16][2 * kSlice]
  float* narrow;   // [block][16][kSlice]
  float* row;      // one row of x
};

inline size_t back_scratch_size(const Layout& l) {
  const size_t rows = size_t(kBackBlocks) * 16;
  return (size_t(8) * kStep * 32 + rows * 2 * kSlice * 4 + rows * 3 * kSlice * 4 + size_t(l.hidden) * 4 + 4095) / 4096 *
         4096;
}

inline BackScratch scratch_of(const Back& s, int thread) {
  const size_t rows = size_t(kBackBlocks) * 16;
  BackScratch t;
  t.panels = s.scratch + s.scratch_bytes * size_t(thread);
  t.sums = t.panels + size_t(8) * kStep * 32;
  t.gate_up = reinterpret_cast<float*>(t.sums + rows * 2 * kSlice * 4);
  t.narrow = t.gate_up + rows * 2 * kSlice;
  t.row = t.narrow + rows * kSlice;
  return t;
}

}  // namespace kt
