#include "tiled.h"

#include <algorithm>
#include <mutex>
#include <vector>

#include "pool.h"

namespace kt {
namespace {

std::mutex g_cut_lock;
Cut g_cut;

Cut current_cut() {
  std::lock_guard<std::mutex> hold(g_cut_lock);
  return g_cut;
}

// Blocks of 16 rows, the last one of an expert filled up with zeros.
struct Blocks {
  char* data;
  float* scale;      // [block][16]
  size_t row_bytes;

  int tiles() const { return int(row_bytes / 64); }
  size_t stride() const { return row_bytes * 16; }
  char* at(int block) const { return data + size_t(block) * stride(); }
};

struct Tiled {
  const Weights& w;
  const Layout& l;
  const Call& call;
  const Kernels& kernels;
  const Routing& routing;
  int first_token, tokens;
  Cut cut;
  bool ints;          // int8 activations, one scale a row
  const char* x_rows; // every token once, as the blocks hold it
  char* x_made;       // the same where x is not taken as it stands
  float* x_scale;     // [token]
  size_t x_row_stride;
  float* h_rows;      // [pair][intermediate], integer formats
  char* y;            // [pair][hidden], weighted
  Dtype y_dtype;
  Blocks x, h;
  char* scratch;
  size_t scratch_bytes;

  size_t y_bytes() const { return y_dtype == Dtype::f32 ? 4 : 2; }
};

struct ThreadScratch {
  char* sums;    // [panel][block][16][16]
  char* panels;  // int4 expanded for one step
  float* scales; // of its rows
  float* row;
};

size_t sums_bytes(const Cut& c) { return size_t(c.panels) * c.blocks * 1024; }
size_t panels_bytes(const Cut& c) { return size_t(c.panels) * c.depth * 1024; }

ThreadScratch scratch_of(const Tiled& s, int thread) {
  ThreadScratch t;
  t.sums = s.scratch + s.scratch_bytes * size_t(thread);
  t.panels = t.sums + sums_bytes(s.cut);
  t.scales = reinterpret_cast<float*>(t.panels + panels_bytes(s.cut));
  t.row = t.scales + size_t(s.cut.panels) * 16;
  return t;
}

size_t scratch_size(const Layout& l, const Cut& c) {
  const size_t row = size_t(std::max(l.hidden, l.intermediate));
  return (sums_bytes(c) + panels_bytes(c) + (size_t(c.panels) * 16 + row) * 4 + 4095) / 4096 * 4096;
}

// ---- x

// One token as a row of the blocks, in the dtype that the tiles multiply.
void prepare_token(const Tiled& s, int token, int thread) {
  const int n = s.l.shape.hidden;
  const size_t bytes = s.call.dtype == Dtype::f32 ? 4 : 2;
  float* row = scratch_of(s, thread).row;
  s.kernels.load_row(s.call.x + size_t(s.first_token + token) * n * bytes, s.call.dtype, n, s.l.hidden, row);
  char* dst = s.x_made + size_t(token) * s.x_row_stride;
  if (!s.ints) return s.kernels.store_row(row, Dtype::bf16, s.l.hidden, dst);
  int32_t sum;
  const QuantArgs q = {row, s.l.hidden, s.l.hidden, dst, 64, 0, s.x_scale + token, &sum};
  s.kernels.quantise(&q);
}

void gather_block(const Tiled& s, int block) {
  const Block& b = s.routing.blocks[size_t(block)];
  const char* source[16];
  for (int r = 0; r < b.rows; ++r) {
    const size_t token = size_t(s.routing.token[size_t(b.first + r)]);
    source[r] = s.x_rows + token * s.x_row_stride;
    if (s.ints) s.x.scale[block * 16 + r] = s.x_scale[token];
  }
  const GatherArgs g = {source, b.rows, s.x.tiles(), s.x.at(block)};
  s.kernels.gather(&g);
}

// ---- products

// Some neighbouring panels of one matrix of one expert.
struct Panels {
  const char* data;
  size_t stride;
  const char* scale;
  size_t scale_stride;
  int count;
  bool more;  // panels of the same matrix follow
};

Panels up_panels(const Tiled& s, int expert, int first) {
  const Layout& l = s.l;
  const char* base = s.w.expert(expert);
  const int count = std::min(s.cut.panels, l.up_panels() - first);
  return {base + l.up_panel * size_t(first), l.up_panel,
          base + l.up_scale_at + l.up_scale * size_t(first), l.up_scale, count,
          first + count < l.up_panels()};
}

Panels down_panels(const Tiled& s, int expert, int first) {
  const Layout& l = s.l;
  const char* base = s.w.expert(expert);
  const int count = std::min(s.cut.panels, l.down_panels() - first);
  return {base + l.down_at + l.down_panel * size_t(first), l.down_panel,
          base + l.down_scale_at + l.down_scale * size_t(first), l.down_scale, count,
          first + count < l.down_panels()};
}

bool is_int4(const Tiled& s) { return s.l.format->product == Product::i4; }

// int4: the step's part of every panel, as int8 in the thread's scratch.
void expand(const Tiled& s, const Panels& w, int k0, const ThreadScratch& t, TileArgs& g) {
  const int k = g.depth * 64, group = s.l.group;
  for (int p = 0; p < w.count; ++p) {
    const ExpandArgs e = {w.data + size_t(p) * w.stride + size_t(k0) * 8,
                          w.scale + size_t(p) * w.scale_stride + size_t(k0 / group) * 32, k, group,
                          t.scales + p * 16, t.panels + size_t(p) * g.depth * 1024};
    s.kernels.i4_to_i8(&e);
  }
  g.w = t.panels;
  g.w_stride = size_t(g.depth) * 1024;
}

// What follows tile `at` of the panels: their next step, or the first one of the next panels.
Ahead next_panels(const Tiled& s, const Panels& w, int at, int tiles) {
  const size_t tile = is_int4(s) ? 512 : 1024;
  const int depth = std::min(s.cut.depth, tiles - at);
  const int lines = int(tile / 64) * (depth > 0 ? depth : s.cut.depth);
  if (depth > 0) return {w.data + size_t(at) * tile, w.stride, lines};
  if (!w.more) return {nullptr, 0, 0};
  return {w.data + size_t(w.count) * w.stride, w.stride, lines};
}

Ahead next_blocks(const Tiled& s, const TileArgs& g, const char* a, int at, int tiles) {
  const int depth = std::min(s.cut.depth, tiles - at);
  if (depth <= 0) return {nullptr, 0, 0};
  return {a + size_t(at) * 1024, g.a_stride, depth * 16};
}

// Sums over the whole depth, in steps. Panels that only one or two blocks use are read in one go.
void multiply(const Tiled& s, const Panels& w, const Blocks& a, int first_block, int blocks,
              const ThreadScratch& t) {
  const auto product = s.ints ? s.kernels.tile_s8 : s.kernels.tile_bf16;
  const int tiles = a.tiles();
  const bool in_steps = blocks > 2 || is_int4(s);
  const char* at = a.at(first_block);
  for (int k = 0; k < tiles;) {
    TileArgs g = {};
    g.blocks = blocks;
    g.a = at + size_t(k) * 1024;
    g.a_stride = a.stride();
    g.panels = w.count;
    g.depth = in_steps ? std::min(s.cut.depth, tiles - k) : tiles;
    g.add = k > 0;
    g.c = t.sums;
    g.w = w.data + size_t(k) * 1024;
    g.w_stride = w.stride;
    if (is_int4(s)) expand(s, w, k * 64, t, g);
    if (in_steps) {
      g.w_ahead = next_panels(s, w, k + g.depth, tiles);
      g.a_ahead = next_blocks(s, g, at, k + g.depth, tiles);
    }
    product(&g);
    k += g.depth;
  }
}

FinishArgs finish_args(const Tiled& s, const Panels& w, const ThreadScratch& t, int block, int blocks,
                       int rows) {
  FinishArgs f = {};
  f.c = t.sums + size_t(block) * 1024;
  f.c_stride = size_t(blocks) * 1024;
  f.ints = s.ints;
  f.rows = rows;
  f.panels = w.count;
  f.w_scale = is_int4(s) ? reinterpret_cast<const char*>(t.scales) : w.scale;
  f.w_scale_stride = 64;
  f.act = s.call.act;
  return f;
}

// Multiplies panels with all rows of their expert; use(block, its finish arguments) for every block.
template <class Use>
void each_block(const Tiled& s, const Touched& e, const Panels& w, const Blocks& a, int thread, Use use) {
  const ThreadScratch t = scratch_of(s, thread);
  if (is_int4(s))
    for (int p = 0; p < w.count; ++p)
      s.kernels.i4_row_scales(w.scale + size_t(p) * w.scale_stride, a.tiles() * 64 / s.l.group,
                              t.scales + p * 16);
  for (int first = 0; first < e.blocks; first += s.cut.blocks) {
    const int blocks = std::min(s.cut.blocks, e.blocks - first);
    multiply(s, w, a, e.first_block + first, blocks, t);
    for (int i = 0; i < blocks; ++i) {
      const int block = e.first_block + first + i;
      FinishArgs f = finish_args(s, w, t, i, blocks, s.routing.blocks[size_t(block)].rows);
      use(block, f);
    }
  }
}

int units_of(int panels, const Cut& c) { return (panels + c.panels - 1) / c.panels; }

void gate_up(const Tiled& s, int unit, int thread) {
  const int per_expert = units_of(s.l.up_panels(), s.cut), first = unit % per_expert * s.cut.panels;
  const Touched& e = s.routing.touched[size_t(unit / per_expert)];
  each_block(s, e, up_panels(s, e.expert, first), s.x, thread, [&](int block, FinishArgs& f) {
    const size_t pair = size_t(s.routing.blocks[size_t(block)].first);
    if (s.ints) {
      f.row_scale = s.x.scale + block * 16;
      f.out_stride = size_t(s.l.intermediate) * 4;
      f.out = reinterpret_cast<char*>(s.h_rows + pair * s.l.intermediate + first * 8);
    } else {
      f.out_stride = 64;
      f.out = s.h.at(block) + size_t(first) / 4 * 1024;
    }
    s.kernels.finish_glu(&f);
  });
}

void quantise_h(const Tiled& s, int block) {
  const Block& b = s.routing.blocks[size_t(block)];
  for (int row = 0; row < b.rows; ++row) {
    int32_t sum;
    const QuantArgs q = {s.h_rows + size_t(b.first + row) * s.l.intermediate, s.l.intermediate,
                         s.l.intermediate, s.h.at(block) + row * 64, 1024, 0,
                         s.h.scale + block * 16 + row, &sum};
    s.kernels.quantise(&q);
  }
}

void down(const Tiled& s, int unit, int thread) {
  const int per_expert = units_of(s.l.down_panels(), s.cut), first = unit % per_expert * s.cut.panels;
  const Touched& e = s.routing.touched[size_t(unit / per_expert)];
  each_block(s, e, down_panels(s, e.expert, first), s.h, thread, [&](int block, FinishArgs& f) {
    const Block& b = s.routing.blocks[size_t(block)];
    float factor[16];
    for (int r = 0; r < b.rows; ++r)
      factor[r] = s.routing.weight[size_t(b.first + r)] * (s.ints ? s.h.scale[block * 16 + r] : 1.0f);
    f.row_scale = factor;
    f.dtype = s.y_dtype;
    f.out_stride = size_t(s.l.hidden) * s.y_bytes();
    f.out = s.y + size_t(b.first) * f.out_stride + size_t(first) * 16 * s.y_bytes();
    s.kernels.finish_rows(&f);
  });
}

void combine(const Tiled& s, int token) {
  thread_local std::vector<const char*> rows;
  rows.clear();
  const size_t stride = size_t(s.l.hidden) * s.y_bytes(), bytes = s.call.dtype == Dtype::f32 ? 4 : 2;
  const int k = s.call.top_k;
  for (int i = 0; i < k; ++i) {
    const int pair = s.routing.pair[size_t(token) * k + i];
    if (pair >= 0) rows.push_back(s.y + size_t(pair) * stride);
  }
  const size_t at = size_t(s.first_token + token) * s.l.shape.hidden;
  const SumArgs a = {rows.data(), int(rows.size()), s.l.shape.hidden, s.y_dtype, s.call.dtype, s.call.out + at * bytes};
  s.kernels.sum_rows(&a);
}

enum Step { kPrepareX, kGatherX, kGateUp, kQuantiseH, kDown, kCombine, kSteps };

void run_unit(void* context, int phase, int unit, int thread) {
  const Tiled& s = *static_cast<const Tiled*>(context);
  switch (phase) {
    case kPrepareX: return prepare_token(s, unit, thread);
    case kGatherX: return gather_block(s, unit);
    case kGateUp: return gate_up(s, unit, thread);
    case kQuantiseH: return quantise_h(s, unit);
    case kDown: return down(s, unit, thread);
    default: return combine(s, unit);
  }
}

// Narrower units where there would be too few for the threads.
Cut fitted(Cut c, const Layout& l, size_t touched, int threads) {
  const auto few = [&] {
    const int least = std::min(units_of(l.up_panels(), c), units_of(l.down_panels(), c));
    return touched * size_t(least) < size_t(threads) * 4;
  };
  while (c.panels > 4 && few()) c.panels = std::max(4, c.panels / 2 / 4 * 4);
  return c;
}

bool x_as_it_stands(const Tiled& s) {
  return !s.ints && s.call.dtype == Dtype::bf16 && s.l.hidden == s.l.shape.hidden;
}

void allocate(Tiled& s, TiledBuffers& b) {
  const size_t blocks = s.routing.blocks.size(), pairs = s.routing.token.size();
  const size_t width = s.ints ? 1 : 2;
  s.x.row_bytes = size_t(s.l.hidden) * width;
  s.h.row_bytes = size_t(s.l.intermediate) * width;
  s.x.data = b.x.need(blocks * s.x.stride());
  s.h.data = b.h.need(blocks * s.h.stride());
  s.y = b.y.need(pairs * size_t(s.l.hidden) * s.y_bytes());
  s.x_row_stride = s.x.row_bytes;
  if (x_as_it_stands(s)) {
    s.x_rows = s.call.x + size_t(s.first_token) * s.x_row_stride;
  } else {
    s.x_rows = s.x_made = b.x_rows.need(size_t(s.tokens) * s.x_row_stride);
  }
  if (s.ints) {
    s.x_scale = b.x_scale.need_of<float>(size_t(s.tokens) + 16);
    s.x.scale = b.x_block_scale.need_of<float>(blocks * 16);
    s.h.scale = b.h_scale.need_of<float>(blocks * 16);
    s.h_rows = b.h_rows.need_of<float>(pairs * size_t(s.l.intermediate));
  }
  s.scratch_bytes = scratch_size(s.l, s.cut);
  s.scratch = b.threads.need(s.scratch_bytes * size_t(pool().threads()));
}

}  // namespace

void set_cut(const Cut& cut) {
  std::lock_guard<std::mutex> hold(g_cut_lock);
  g_cut = cut;
}

void forward_tiled(const Weights& w, const Call& call, const Kernels& kernels, const Routing& routing,
                   int first_token, int tokens, TiledBuffers& buffers) {
  const Layout& l = w.layout();
  Tiled s = {w, l, call, kernels, routing, first_token, tokens, {}, l.format->product != Product::bf16,
             nullptr, nullptr, nullptr, 0, nullptr, nullptr, call.dtype == Dtype::bf16 ? Dtype::bf16 : Dtype::f32,
             {}, {}, nullptr, 0};
  s.cut = fitted(current_cut(), l, routing.touched.size(), pool().threads());
  allocate(s, buffers);
  const int blocks = int(routing.blocks.size()), touched = int(routing.touched.size());
  Job job = {run_unit, &s, kSteps, {x_as_it_stands(s) ? 0 : tokens, blocks, touched * units_of(l.up_panels(), s.cut),
             s.ints ? blocks : 0, touched * units_of(l.down_panels(), s.cut), tokens}, call.seconds};
  pool().run(job);
}

}  // namespace kt
