#include "tiled.h"

#include <algorithm>
#include <chrono>
#include <vector>

#include "pool.h"
#include "tiled_product.h"
#include "units.h"

namespace kt {
namespace {

// One call's view of a layer.
struct Tiled {
  const Weights& w;
  const Layout& l;
  const Call& call;
  const Kernels& kernels;
  const Routing& routing;
  int first_token, tokens;
  Dtype y_dtype;
  Blocks x, h;
  Cut cut = {};
  const char* x_rows = nullptr;  // every token once, as the blocks hold it
  char* x_made = nullptr;        // the same where x is not taken as it stands
  float* x_scale = nullptr;      // [token]
  size_t x_row_stride = 0;
  char* h_rows = nullptr;  // [pair][intermediate] bf16, where h becomes int8
  char* y = nullptr;       // [pair][hidden], weighted
  ExpertUnits up = {}, down = {};
  char* scratch = nullptr;
  size_t scratch_bytes = 0;

  size_t y_bytes() const { return y_dtype == Dtype::f32 ? 4 : 2; }
};

char* scratch_at(const Tiled& s, int thread) { return s.scratch + s.scratch_bytes * size_t(thread); }
TileScratch scratch_of(const Tiled& s, int thread) { return tile_scratch(s.cut, scratch_at(s, thread)); }
// One row of x or h, behind the scratch of the product.
float* staging_of(const Tiled& s, int thread) {
  return reinterpret_cast<float*>(scratch_at(s, thread) + tile_scratch_bytes(s.cut));
}

size_t scratch_size(const Layout& l, const Cut& c) {
  const size_t row = size_t(std::max(l.hidden, l.intermediate));
  return (tile_scratch_bytes(c) + row * 4 + 4095) / 4096 * 4096;
}

// The unit's panels from `first` on.
Panels unit_panels(const Tiled& s, const Stack& stack, int expert, int first) {
  return panels_of(stack, s.w.expert(expert)).part(first, std::min(s.cut.panels, stack.panels - first));
}

// Multiplies panels with all rows of their expert; use(block, its finish arguments) for every block.
template <class Use>
void each_block(const Tiled& s, const Touched& e, const Panels& w, const Blocks& a, int thread, Use use) {
  const TileScratch t = scratch_of(s, thread);
  if (w.expanded()) row_scales(s.kernels, w, t);
  for (int first = 0; first < e.blocks; first += s.cut.blocks) {
    const int count = std::min(s.cut.blocks, e.blocks - first), at = e.first_block + first;
    const BlockRange blocks = {at, count, s.routing.blocks[size_t(at + count - 1)].rows};
    multiply(s.kernels, s.cut, w, a, blocks, t);
    for (int i = 0; i < count; ++i) {
      FinishArgs f = finish_args(w, a, blocks, i, s.routing.blocks[size_t(at + i)].rows, t);
      f.act = s.call.act;
      use(at + i, f);
    }
  }
}

// One token as a row of the blocks, in the dtype that the tiles multiply.
void prepare_token(const Tiled& s, int token, int thread) {
  const int n = s.l.shape.hidden;
  const size_t bytes = s.call.dtype == Dtype::f32 ? 4 : 2;
  float* row = staging_of(s, thread);
  s.kernels.load_row(s.call.x + size_t(s.first_token + token) * n * bytes, s.call.dtype, n, s.l.hidden, row);
  char* dst = s.x_made + size_t(token) * s.x_row_stride;
  if (!s.x.ints) return s.kernels.store_row(row, Dtype::bf16, s.l.hidden, dst);
  int32_t sum;
  const QuantArgs q = {.x = row,
                       .n = s.l.hidden,
                       .group = s.l.hidden,
                       .dst = dst,
                       .tile_stride = 64,
                       .k0 = 0,
                       .scale = s.x_scale + token,
                       .sum = &sum};
  s.kernels.quantise(&q);
}

void gather_block(const Tiled& s, int block) {
  const Block& b = s.routing.blocks[size_t(block)];
  const char* source[16];
  for (int r = 0; r < b.rows; ++r) {
    const size_t token = size_t(s.routing.token[size_t(b.first + r)]);
    source[r] = s.x_rows + token * s.x_row_stride;
    if (s.x.ints) s.x.scale[block * 16 + r] = s.x_scale[token];
  }
  const GatherArgs g = {source, b.rows, s.x.tiles(), s.x.at(block)};
  s.kernels.gather(&g);
}

void gate_up(const Tiled& s, int unit, int thread) {
  const ExpertUnit u = unit_at(s.up, unit);
  const int first = u.at * s.cut.panels;
  const Touched& e = s.routing.touched[size_t(u.touched)];
  each_block(s, e, unit_panels(s, s.l.up, e.expert, first), s.x, thread, [&](int block, FinishArgs& f) {
    const size_t pair = size_t(s.routing.blocks[size_t(block)].first);
    f.row_scale = s.x.ints ? s.x.scale + block * 16 : nullptr;
    f.to_rows = s.h.ints;
    if (f.to_rows) {
      f.out_stride = size_t(s.l.intermediate) * 2;
      f.out = s.h_rows + pair * f.out_stride + size_t(first) * 16;
    } else {
      f.out_stride = 64;
      f.out = s.h.at(block) + size_t(first) / 4 * 1024;
    }
    s.kernels.finish_glu(&f);
  });
}

void quantise_h(const Tiled& s, int block, int thread) {
  const Block& b = s.routing.blocks[size_t(block)];
  const int n = s.l.intermediate;
  float* values = staging_of(s, thread);
  for (int row = 0; row < b.rows; ++row) {
    s.kernels.load_row(s.h_rows + size_t(b.first + row) * n * 2, Dtype::bf16, n, n, values);
    int32_t sum;
    const QuantArgs q = {.x = values,
                         .n = n,
                         .group = n,
                         .dst = s.h.at(block) + row * 64,
                         .tile_stride = 1024,
                         .k0 = 0,
                         .scale = s.h.scale + block * 16 + row,
                         .sum = &sum};
    s.kernels.quantise(&q);
  }
}

void down(const Tiled& s, int unit, int thread) {
  const ExpertUnit u = unit_at(s.down, unit);
  const int first = u.at * s.cut.panels;
  const Touched& e = s.routing.touched[size_t(u.touched)];
  each_block(s, e, unit_panels(s, s.l.down, e.expert, first), s.h, thread, [&](int block, FinishArgs& f) {
    const Block& b = s.routing.blocks[size_t(block)];
    float factor[16];
    for (int r = 0; r < b.rows; ++r)
      factor[r] = s.routing.weight[size_t(b.first + r)] * (s.h.ints ? s.h.scale[block * 16 + r] : 1.0f);
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
    case kPrepareX:
      return prepare_token(s, unit, thread);
    case kGatherX:
      return gather_block(s, unit);
    case kGateUp:
      return gate_up(s, unit, thread);
    case kQuantiseH:
      return quantise_h(s, unit, thread);
    case kDown:
      return down(s, unit, thread);
    default:
      return combine(s, unit);
  }
}

// No deeper than the layer, and narrower units where there would be too few for the threads.
Cut fitted(Cut c, const Layout& l, size_t touched, int threads, int tiles) {
  c.depth = std::min(c.depth, tiles);
  const auto few = [&] {
    const int least = std::min(l.up.panels, l.down.panels) / c.panels;
    return touched * size_t(least) < size_t(threads) * 4;
  };
  while (c.panels > 4 && few()) c.panels = std::max(4, c.panels / 2 / 4 * 4);
  return c;
}

// What the products with a stack read, still without memory.
Blocks blocks_for(const Stack& weights) {
  const bool ints = weights.format().ints();
  return {.row_bytes = size_t(weights.k) * (ints ? 1 : 2), .ints = ints};
}

bool x_as_it_stands(const Tiled& s) {
  return !s.x.ints && s.call.dtype == Dtype::bf16 && s.l.hidden == s.l.shape.hidden;
}

void allocate(Tiled& s, TiledBuffers& b) {
  const size_t blocks = s.routing.blocks.size(), pairs = s.routing.token.size();
  s.x.data = b.x.need(blocks * s.x.stride());
  s.h.data = b.h.need(blocks * s.h.stride());
  s.y = b.y.need(pairs * size_t(s.l.hidden) * s.y_bytes());
  s.x_row_stride = s.x.row_bytes;
  if (x_as_it_stands(s)) {
    s.x_rows = s.call.x + size_t(s.first_token) * s.x_row_stride;
  } else {
    s.x_rows = s.x_made = b.x_rows.need(size_t(s.tokens) * s.x_row_stride);
  }
  if (s.x.ints) {
    s.x_scale = b.x_scale.need_of<float>(size_t(s.tokens) + 16);
    s.x.scale = b.x_block_scale.need_of<float>(blocks * 16);
  }
  if (s.h.ints) {
    s.h.scale = b.h_scale.need_of<float>(blocks * 16);
    s.h_rows = b.h_rows.need(pairs * size_t(s.l.intermediate) * 2);
  }
  s.scratch_bytes = scratch_size(s.l, s.cut);
  s.scratch = b.threads.need(s.scratch_bytes * size_t(pool().threads()));
}

}  // namespace

void forward_tiled(const Weights& w, const Call& call, const Kernels& kernels, const Routing& routing, int first_token,
                   int tokens, TiledBuffers& buffers) {
  const Layout& l = w.layout();
  Tiled s = {.w = w,
             .l = l,
             .call = call,
             .kernels = kernels,
             .routing = routing,
             .first_token = first_token,
             .tokens = tokens,
             .y_dtype = call.dtype == Dtype::bf16 ? Dtype::bf16 : Dtype::f32,
             .x = blocks_for(l.up),
             .h = blocks_for(l.down)};
  const int blocks = int(routing.blocks.size()), touched = int(routing.touched.size());
  const int threads = pool().threads();
  const CutChoice choice(
      {l.products(), l.hidden, l.intermediate, threads, routing.touched.size(), routing.blocks.size()},
      call.way == Way::best);
  s.cut = fitted(choice.cut(), l, routing.touched.size(), threads, std::max(s.x.tiles(), s.h.tiles()));
  s.up = units_of(w.home().up, kUpStep, l.up.panels, s.cut.panels, touched);
  s.down = units_of(w.home().down, kDownStep, l.down.panels, s.cut.panels, touched);
  allocate(s, buffers);
  const auto start = std::chrono::steady_clock::now();
  Job job = {run_unit,
             &s,
             kSteps,
             {x_as_it_stands(s) ? 0 : tokens, blocks, s.up.count(), s.h.ints ? blocks : 0, s.down.count(), tokens},
             call.seconds};
  job.splits[kGateUp] = &s.up.split;
  job.splits[kDown] = &s.down.split;
  pool().run(job);
  choice.took(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
}

}  // namespace kt
