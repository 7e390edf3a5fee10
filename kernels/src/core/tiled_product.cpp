#include "tiled_product.h"

namespace kt {

namespace {

constexpr int kExpanded = 4;  // panels: few enough to stay in the first-level cache
constexpr int kRunAhead = 8;  // tiles: 4 and 16 were as fast, the hardware's own fetching 5 to 10 % slower

// The step's part of panels with scales in groups, as int8 in the thread's scratch.
void expand(const Kernels& kernels, const Panels& w, int first, int k0, int depth, const TileScratch& t) {
  const int k = depth * 64, group = w.coding.group;
  for (int p = 0; p < kExpanded; ++p) {
    const size_t panel = size_t(first + p);
    const ExpandArgs e = {.src = w.data + panel * w.stride + w.coding.format->panel_bytes(k0),
                          .src_scale = w.scale + panel * w.scale_stride,
                          .k0 = k0,
                          .k = k,
                          .group = group,
                          .scale = t.scales + panel * 16,
                          .dst = t.panels + size_t(p) * depth * 1024};
    kernels.expand[w.product()](&e);
  }
}

// A few panels at a time are expanded and multiplied at once.
void product_expanded(const Kernels& kernels, const Panels& w, int k0, const TileScratch& t, TileArgs g) {
  g.w = t.panels;
  g.w_stride = size_t(g.depth) * 1024;
  g.panels = kExpanded;
  for (int p = 0; p < w.count; p += kExpanded, g.c += size_t(kExpanded) * g.blocks * 1024) {
    expand(kernels, w, p, k0, g.depth, t);
    kernels.tile_s8(&g);
    if (g.w_ahead.at) g.w_ahead.at += kExpanded * g.w_ahead.stride;
  }
}

// What follows tile `at` of the panels: their next step, or the first one of the next panels.
Ahead next_panels(const Cut& cut, const Panels& w, int at, int tiles) {
  const size_t tile = w.expanded() ? w.coding.format->panel_bytes(64) : 1024;
  const int depth = std::min(cut.depth, tiles - at);
  const int lines = int(tile / 64) * (depth > 0 ? depth : cut.depth);
  if (depth > 0) return {w.data + size_t(at) * tile, w.stride, lines};
  if (!w.more) return {nullptr, 0, 0};
  return {w.data + size_t(w.count) * w.stride, w.stride, lines};
}

Ahead next_blocks(const Cut& cut, const TileArgs& g, const char* a, int at, int tiles) {
  const int depth = std::min(cut.depth, tiles - at);
  if (depth <= 0) return {nullptr, 0, 0};
  return {a + size_t(at) * 1024, g.a_stride, depth * 16};
}

}  // namespace

// Sums over the whole depth, in steps. Panels that only one or two blocks use are read in one go.
void multiply(const Kernels& kernels, const Cut& cut, const Panels& w, const Blocks& a, const BlockRange& blocks,
              const TileScratch& t) {
  const auto product = a.ints ? kernels.tile_s8 : kernels.tile_bf16;
  const int tiles = a.tiles();
  const bool in_steps = blocks.count > 2 || w.expanded();
  const char* at = a.at(blocks.first);
  for (int k = 0; k < tiles;) {
    TileArgs g = {};
    g.blocks = blocks.count;
    g.last_rows = blocks.last_rows;
    g.a = at + size_t(k) * 1024;
    g.a_stride = a.stride();
    g.panels = w.count;
    g.depth = in_steps ? std::min(cut.depth, tiles - k) : tiles;
    g.add = k > 0;
    g.c = t.sums;
    g.w = w.data + size_t(k) * 1024;
    g.w_stride = w.stride;
    if (!in_steps) g.run_ahead = kRunAhead;
    if (in_steps && cut.fetch) {
      g.w_ahead = next_panels(cut, w, k + g.depth, tiles);
      g.a_ahead = next_blocks(cut, g, at, k + g.depth, tiles);
    }
    if (w.expanded()) product_expanded(kernels, w, k * 64, t, g);
    else product(&g);
    k += g.depth;
  }
}

void row_scales(const Kernels& kernels, const Panels& w, const TileScratch& t) {
  const auto scales = kernels.row_scales[w.product()];
  for (int p = 0; p < w.count; ++p)
    scales(w.scale + size_t(p) * w.scale_stride, w.k, w.coding.group, t.scales + p * 16);
}

FinishArgs finish_args(const Panels& w, const Blocks& a, const BlockRange& blocks, int i, int rows,
                       const TileScratch& t) {
  FinishArgs f = {};
  f.c = t.sums + size_t(i) * 1024;
  f.c_stride = size_t(blocks.count) * 1024;
  f.ints = a.ints;
  f.rows = rows;
  f.panels = w.count;
  f.w_scale = w.expanded() ? reinterpret_cast<const char*>(t.scales) : w.scale;
  f.w_scale_stride = 64;
  return f;
}

}  // namespace kt
