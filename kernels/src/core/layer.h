// One call's view of a layer: activations in blocks, work buffers, and each thread's part of them.
#pragma once
#include <algorithm>

#include "forward.h"
#include "product.h"
#include "tiled.h"
#include "units.h"

namespace kt {

struct Buffers {
  ActsMemory x, h;
  Scratch threads;
  TiledBuffers tiled;
  Routing routing;
};

struct Layer {
  const Weights& w;
  const Layout& l;
  const Call& call;
  const Kernels& kernels;
  const Routing& routing;
  bool one_token = false;  // all blocks share the only row of x
  int first_token, tokens;
  int pairs_of_panels = 2;  // gate/up panel pairs a unit
  int down_panels = 4;      // of a unit, at most kDownPanels
  Acts x = {}, h = {};
  char* scratch = nullptr;  // per thread
  size_t scratch_bytes = 0;
  ExpertUnits up = {}, down = {};
};

constexpr int kDownPanels = 4;

struct VectorScratch {
  float* c;    // [16][panels * 16]
  float* row;  // one row of x or h
  float* out;  // [tokens][kDownPanels * 16]
};

constexpr size_t kProductFloats = 16 * 8 * 16;

inline size_t scratch_size(const Layout& l, int tokens) {
  const size_t row = size_t(std::max(l.hidden, l.intermediate));
  return (kProductFloats + row + size_t(tokens) * kDownPanels * 16) * 4;
}

inline VectorScratch scratch_of(const Layer& s, int thread) {
  float* base = reinterpret_cast<float*>(s.scratch + s.scratch_bytes * size_t(thread));
  VectorScratch t;
  t.c = base;
  t.row = t.c + kProductFloats;
  t.out = t.row + std::max(s.l.hidden, s.l.intermediate);
  return t;
}

}  // namespace kt
