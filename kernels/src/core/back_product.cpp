#include "back_product.h"

#include "product.h"

namespace kt {

namespace {

// Panels that have become bf16, one behind the other.
Panels bf16_panels(const char* data, size_t stride, int depth, int count) {
  static const Coding coding = {find_format("bf16"), 0};
  return {.coding = coding, .k = depth, .data = data, .stride = stride, .count = count};
}

}  // namespace

Panels matrix_of(const Back& s, int expert, Projection p) {
  return panels_of(s.l.stack(p), s.w.expert(expert)).every(s.l.step(p), s.l.panel(p, 0));
}

Panels turned(const Back& s, const Panels& matrix, int column, int k0, int depth, char* dst) {
  const Panels from = matrix.part(k0 / 16, depth / 16);
  const TurnArgs t = {.src = from.data,
                      .stride = from.stride,
                      .scale = from.scale,
                      .scale_stride = from.scale_stride,
                      .panels = from.count,
                      .k0 = column,
                      .k = kSlice,
                      .group = from.coding.group,
                      .dst = dst};
  s.kernels.turn[from.product()](&t);
  return bf16_panels(dst, size_t(depth) * 32, depth, kSlice / 16);
}

Panels widened(const Back& s, const Panels& panels, int k0, int depth, char* dst) {
  if (!panels.coding.format->ints())
    return bf16_panels(panels.data + size_t(k0) * 32, panels.stride, depth, panels.count);
  const size_t stride = size_t(depth) * 32;
  for (int i = 0; i < panels.count; ++i) {
    const Panels one = panels.part(i, 1);
    const TurnArgs t = {.src = one.data,
                        .stride = 0,
                        .scale = one.scale,
                        .scale_stride = 0,
                        .panels = 1,
                        .k0 = k0,
                        .k = depth,
                        .group = one.coding.group,
                        .dst = dst + size_t(i) * stride};
    s.kernels.widen[one.product()](&t);
  }
  return bf16_panels(dst, stride, depth, panels.count);
}

void gate_up_step(const Back& s, int expert, int column, int first, int blocks, const BackScratch& t) {
  const Panels both = panels_of(s.l.up, s.w.expert(expert)).part(column / 8, kSlice / 8);
  const StepArgs step = {&s.x, first, blocks, kSlice / 8, t.gate_up};
  product(s, step, s.l.hidden, t, [&](int k0, int depth) { return widened(s, both, k0, depth, t.panels); });
}

namespace {

void vector_step(const Back& s, const StepArgs& p) {
  const Acts acts = {.kind = s.bf16 ? ActKind::bf16 : ActKind::f32, .k = p.a->k, .group = p.a->k, .data = p.a->data};
  for (int i = 0; i < p.blocks; ++i) {
    const int index = p.first_block + i;
    const Block& b = s.routing.blocks[size_t(index)];
    multiply(s.kernels, acts, {index, b.first, b.rows}, p.w, p.k0, !p.first, p.c + size_t(i) * 16 * p.panels * 16);
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
