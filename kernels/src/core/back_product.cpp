#include "back_product.h"

namespace kt {

namespace {

// Every `step`-th panel of a stack from `first` on.
Matrix panels_of(const Back& s, const Stack& stack, int expert, int first, int step) {
  const char* base = s.w.expert(expert);
  return {stack.coding, base + stack.panel_at(first), stack.panel * size_t(step),
          base + stack.scale_at(first), stack.scale * size_t(step)};
}

}  // namespace

Matrix matrix_of(const Back& s, int expert, Projection p) {
  return panels_of(s, s.l.stack(p), expert, s.l.panel(p, 0), s.l.step(p));
}

Bf16Panels turned(const Back& s, const Matrix& m, int column, int k0, int depth, char* dst) {
  const size_t first = size_t(k0 / 16);
  const TurnArgs t = {m.data + first * m.stride, m.stride, m.scale + first * m.scale_stride, m.scale_stride,
                      depth / 16, column, kSlice, m.coding.group, dst};
  s.kernels.turn[m.product()](&t);
  return {dst, size_t(depth) * 32};
}

Bf16Panels widened(const Back& s, const Matrix& m, int first, int count, int k0, int depth, char* dst) {
  const char* data = m.data + m.stride * size_t(first);
  if (!m.coding.format->ints()) return {data + size_t(k0) * 32, m.stride};
  const char* scale = m.scale + m.scale_stride * size_t(first);
  const size_t stride = size_t(depth) * 32;
  for (int p = 0; p < count; ++p) {
    const TurnArgs t = {data + size_t(p) * m.stride, 0, scale + size_t(p) * m.scale_stride, 0, 1, k0, depth,
                        m.coding.group, dst + size_t(p) * stride};
    s.kernels.widen[m.product()](&t);
  }
  return {dst, stride};
}

void gate_up_step(const Back& s, int expert, int column, int first, int blocks, const BackScratch& t) {
  const Matrix both = panels_of(s, s.l.up, expert, 0, 1);
  const StepArgs step = {&s.x, first, blocks, {}, kSlice / 8, 0, 0, true, t.gate_up};
  product(s, step, s.l.hidden, t, [&](int k0, int depth) {
    return widened(s, both, column / 8, kSlice / 8, k0, depth, t.panels);
  });
}

namespace {

void vector_step(const Back& s, const StepArgs& p) {
  GemmArgs g = {};
  g.k = p.depth;
  g.w = p.w.data;
  g.w_stride = p.w.stride;
  g.panels = p.panels;
  g.add = !p.first;
  for (int i = 0; i < p.blocks; ++i) {
    g.m = s.routing.blocks[size_t(p.first_block + i)].rows;
    g.a = s.block_at(*p.a, p.first_block + i) + size_t(p.k0 / s.k_of_tile() * g.m) * 64;
    g.c = p.c + size_t(i) * 16 * p.panels * 16;
    s.kernels.gemm_bf16(&g);
  }
}

constexpr int kTileSteps = 8;  // deep: two panels stay in the first-level cache

void tile_step(const Back& s, const StepArgs& p, const BackScratch& t) {
  TileArgs g = {};
  g.a_stride = s.row_bytes(*p.a) * 16;
  g.blocks = p.blocks;
  g.last_rows = s.routing.blocks[size_t(p.first_block + p.blocks - 1)].rows;
  g.w_stride = p.w.stride;
  g.panels = p.panels;
  g.c = t.sums;
  const char* a = s.block_at(*p.a, p.first_block);
  for (int tile = 0; tile < p.depth / 32; tile += kTileSteps) {
    g.a = a + size_t(p.k0 / 32 + tile) * 1024;
    g.w = p.w.data + size_t(tile) * 1024;
    g.depth = std::min(kTileSteps, p.depth / 32 - tile);
    g.add = !p.first || tile > 0;
    s.kernels.tile_bf16(&g);
  }
}

}  // namespace

void product_step(const Back& s, const StepArgs& p, const BackScratch& t) {
  s.tiles ? tile_step(s, p, t) : vector_step(s, p);
}

void finish_product(const Back& s, const StepArgs& p, const BackScratch& t) {
  if (!s.tiles) return;
  float ones[16];
  std::fill(ones, ones + 16, 1.0f);
  FinishArgs f = {};
  f.c_stride = size_t(p.blocks) * 1024;
  f.panels = p.panels;
  f.row_scale = ones;
  f.dtype = Dtype::f32;
  f.out_stride = size_t(p.panels) * 64;
  for (int i = 0; i < p.blocks; ++i) {
    f.c = t.sums + size_t(i) * 1024;
    f.rows = s.routing.blocks[size_t(p.first_block + i)].rows;
    f.out = reinterpret_cast<char*>(p.c + size_t(i) * 16 * p.panels * 16);
    s.kernels.finish_rows(&f);
  }
}

}  // namespace kt
