#include "forward.h"

#include <algorithm>
#include <cstring>

#include "layer.h"
#include "pool.h"
#include "switch.h"

namespace kt {
namespace {

constexpr int kChunk = 4096;  // tokens handled at once: bounds the work buffers
constexpr size_t kZerosAlone = 1 << 18;

RowBlock place(const Block& b, int index) { return {index, b.first, b.rows}; }

void put_x_row(const Layer& s, int block, const Block& b, int row, float* staging) {
  const int token = s.first_token + s.routing.token[size_t(b.first + row)];
  const size_t bytes = s.call.dtype == Dtype::f32 ? 4 : 2;
  const int n = s.l.shape.hidden;
  s.kernels.load_row(s.call.x + size_t(token) * n * bytes, s.call.dtype, n, s.l.hidden, staging);
  put_row(s.kernels, s.x, place(b, block), row, staging, s.l.hidden, 0);
}

void pack_x(const Layer& s, int block, int thread) {
  const Block& b = s.routing.blocks[size_t(block)];
  float* staging = scratch_of(s, thread).row;
  for (int row = 0; row < b.rows; ++row) put_x_row(s, block, b, row, staging);
}

// Calls use(block index, block, rows of c) for every block of one expert after its product.
template <class Use>
void each_block(const Layer& s, const Panels& panels, const Touched& e, const Acts& a, bool shared,
                const VectorScratch& t, Use use) {
  for (int at = e.first_block; at < e.first_block + e.blocks; ++at) {
    const Block& b = s.routing.blocks[size_t(at)];
    multiply(s.kernels, a, shared ? RowBlock{0, 0, b.rows} : place(b, at), panels, 0, false, t.c);
    use(at, b, t.c);
  }
}

void gate_up(const Layer& s, int unit, int thread) {
  const ExpertUnit u = unit_at(s.up, unit);
  const Touched& e = s.routing.touched[size_t(u.touched)];
  const int pair = u.at * s.pairs_of_panels, n = s.pairs_of_panels * 16;
  const VectorScratch t = scratch_of(s, thread);
  const Panels panels = panels_of(s.l.up, s.w.expert(e.expert)).part(pair * 2, s.pairs_of_panels * 2);
  each_block(s, panels, e, s.x, s.one_token, t, [&](int at, const Block& b, const float* c) {
    for (int row = 0; row < b.rows; ++row) {
      s.kernels.glu(c + row * panels.count * 16, s.pairs_of_panels, s.call.act, t.row);
      put_row(s.kernels, s.h, place(b, at), row, t.row, n, pair * 16);
    }
  });
}

Panels down_panels(const Layer& s, const Touched& e, int unit) {
  return panels_of(s.l.down, s.w.expert(e.expert)).part(unit * s.down_panels, s.down_panels);
}

// The hardware runs ahead within a panel, but not to those of another expert.
void fetch_heads(const Panels& panels) {
  for (int p = 0; p < panels.count; ++p) {
    __builtin_prefetch(panels.scale + p * panels.scale_stride);
    for (int line = 0; line < 4; ++line) __builtin_prefetch(panels.data + p * panels.stride + line * 64);
  }
}

// A slice of the output for all tokens: every expert adds its part, so no two threads meet.
void down(const Layer& s, int unit, int thread) {
  const Layout& l = s.l;
  const VectorScratch t = scratch_of(s, thread);
  const int width = s.down_panels * 16, first = unit * width;
  std::fill(t.out, t.out + size_t(s.tokens) * width, 0.0f);
  const auto& touched = s.routing.touched;
  for (size_t i = 0; i < touched.size(); ++i) {
    if (i + 1 < touched.size()) fetch_heads(down_panels(s, touched[i + 1], unit));
    const Panels panels = down_panels(s, touched[i], unit);
    each_block(s, panels, touched[i], s.h, false, t, [&](int, const Block& b, const float* c) {
      for (int row = 0; row < b.rows; ++row) {
        const size_t pair = size_t(b.first + row);
        s.kernels.axpy(t.out + size_t(s.routing.token[pair]) * width, c + row * width, s.routing.weight[pair], width);
      }
    });
  }
  const int n = std::min(width, l.shape.hidden - first);
  const size_t bytes = s.call.dtype == Dtype::f32 ? 4 : 2;
  for (int i = 0; n > 0 && i < s.tokens; ++i)
    s.kernels.store_row(t.out + size_t(i) * width, s.call.dtype, n,
                        s.call.out + (size_t(s.first_token + i) * l.shape.hidden + first) * bytes);
}

enum Step { kPackX, kGateUp, kDown };

void run_unit(void* context, int phase, int unit, int thread) {
  const Layer& s = *static_cast<const Layer*>(context);
  if (phase == kPackX) pack_x(s, unit, thread);
  else if (phase == kGateUp) gate_up(s, unit, thread);
  else down(s, unit, thread);
}

// Few tokens: short units spread evenly. Many: wide ones that use each activation more often.
int choose_pairs_of_panels(const Layer& s, int threads) {
  const size_t wide_units = s.routing.touched.size() * size_t(s.l.intermediate) / 64;
  const bool many = s.routing.token.size() >= 4 * s.routing.touched.size();
  return many && wide_units >= size_t(threads) * 4 ? 4 : 2;
}

// Two where four would leave the threads only a few units each, so that a slow one holds up the rest.
int choose_down_panels(const Layer& s, int threads) { return s.l.hidden / 64 < threads * 4 ? 2 : kDownPanels; }

// What the products with a stack read.
Acts make_acts(const Layer& s, const Stack& weights, int widest, ActsMemory& memory) {
  Acts acts = acts_for(s.kernels, weights.coding, weights.k, widest);
  allocate(acts, s.routing.token.size(), s.routing.blocks.size(), memory);
  return acts;
}

void run_layer(Layer& s, Buffers& buffers) {
  Pool& workers = pool();
  s.one_token = s.tokens == 1 && s.routing.touched.size() == s.routing.token.size();
  s.pairs_of_panels = choose_pairs_of_panels(s, workers.threads());
  s.down_panels = choose_down_panels(s, workers.threads());
  s.x = make_acts(s, s.l.up, 128, buffers.x);
  // h is quantised by the unit that made it, so its groups are no wider than a unit.
  s.h = make_acts(s, s.l.down, s.pairs_of_panels * 16, buffers.h);
  s.scratch_bytes = (scratch_size(s.l, s.tokens) + 4095) / 4096 * 4096;
  s.scratch = buffers.threads.need(s.scratch_bytes * size_t(workers.threads()));
  const int blocks = int(s.routing.blocks.size()), touched = int(s.routing.touched.size());
  if (s.one_token && blocks) pack_x(s, 0, 0);
  const Home& home = s.w.home();
  s.up = units_of(home.up, kUpStep, s.l.up.panels, s.pairs_of_panels * 2, touched);
  s.down = units_of(home.down, kDownStep, s.l.down.panels, s.down_panels, 1);
  Job job = {run_unit, &s, 3, {s.one_token ? 0 : blocks, s.up.count(), s.down.count()}, s.call.seconds};
  job.splits[kGateUp] = &s.up.split;
  job.splits[kDown] = &s.down.split;
  workers.run(job);
}

// False if there is something to compute, or so many zeros to write that the pool is worth waking.
bool only_zeros(const Layer& s) {
  const size_t row = size_t(s.l.shape.hidden) * (s.call.dtype == Dtype::f32 ? 4 : 2), bytes = size_t(s.tokens) * row;
  if (!s.routing.touched.empty() || bytes > kZerosAlone) return false;
  std::memset(s.call.out + size_t(s.first_token) * row, 0, bytes);
  return true;
}

// One set for the process, used under the PoolLock.
Buffers& buffers() {
  static Buffers* const shared = new Buffers;
  return *shared;
}

bool on_tiles(const Kernels& kernels, const Layout& l, Way way, const Routing& routing) {
  if (routing.token.empty()) return false;
  if (way != Way::best) return way == Way::tiles;
  const LayerKind kind = kind_of(l, pool().threads());
  return use_tiles(tile_from(kernels, &kind), routing.token.size(), routing.touched.size());
}

}  // namespace

void forward(const Weights& w, const Call& call, const Kernels& kernels) {
  Buffers& b = buffers();
  for (int first = 0; first < call.tokens; first += kChunk) {
    const int n = std::min(kChunk, call.tokens - first);
    route(call.ids, call.weights, call.mask, first, n, call.top_k, w.layout().shape.experts, b.routing);
    if (on_tiles(kernels, w.layout(), call.way, b.routing)) {
      forward_tiled(w, call, kernels, b.routing, first, n, b.tiled);
      continue;
    }
    Layer s = {.w = w,
               .l = w.layout(),
               .call = call,
               .kernels = kernels,
               .routing = b.routing,
               .first_token = first,
               .tokens = n};
    if (!only_zeros(s)) run_layer(s, b);
  }
}

}  // namespace kt
