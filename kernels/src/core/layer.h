// One call's view of a layer: activations in blocks, work buffers, and each thread's part of them.
#pragma once
#include <algorithm>

#include "forward.h"
#include "tiled.h"
#include "units.h"

namespace kt {

enum class ActKind { f32, bf16, s8 };

// Rows of activations in blocks, as the products read them.
struct Acts {
  ActKind kind;
  int k, group;      // padded depth; k per scale
  char* data;        // pair p starts at p * row_bytes when it opens a block
  float* scale;      // [block][k / group][16]
  int32_t* sum;

  size_t row_bytes() const {
    return size_t(k) * (kind == ActKind::f32 ? 4 : kind == ActKind::bf16 ? 2 : 1);
  }
  size_t scales() const { return size_t(k / group) * 16; }
};

struct Buffers {
  Scratch x, x_scale, x_sum, h, h_scale, h_sum, threads;
  TiledBuffers tiled;
  Routing routing;
};

struct Layer {
  const Weights& w;
  const Layout& l;
  const Call& call;
  const Kernels& kernels;
  const Routing& routing;
  bool one_token;     // all blocks share the only row of x
  int first_token, tokens;
  int pairs_of_panels;  // gate/up panel pairs a unit
  int down_panels;      // of a unit, at most kDownPanels
  Acts x, h;
  char* scratch;      // per thread
  size_t scratch_bytes;
  ExpertUnits up, down;
};

constexpr int kDownPanels = 4;

struct ThreadScratch {
  float* c;      // [16][panels * 16]
  float* row;    // one row of x or h
  float* out;    // [tokens][kDownPanels * 16]
};

constexpr size_t kProductFloats = 16 * 8 * 16;

inline size_t scratch_size(const Layout& l, int tokens) {
  const size_t row = size_t(std::max(l.hidden, l.intermediate));
  return (kProductFloats + row + size_t(tokens) * kDownPanels * 16) * 4;
}

inline ThreadScratch scratch_of(const Layer& s, int thread) {
  float* base = reinterpret_cast<float*>(s.scratch + s.scratch_bytes * size_t(thread));
  ThreadScratch t;
  t.c = base;
  t.row = t.c + kProductFloats;
  t.out = t.row + std::max(s.l.hidden, s.l.intermediate);
  return t;
}

}  // namespace kt
