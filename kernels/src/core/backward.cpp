#include "backward.h"

#include <vector>

#include "back_lora.h"
#include "back_product.h"
#include "pool.h"

namespace kt {
namespace {

constexpr int kChunk = 4096;  // tokens handled at once: bounds the work buffers

size_t element_bytes(Dtype t) { return t == Dtype::f32 ? 4 : 2; }

// Values of one row from k0 on, into its place in a block.
void put(const Back& s, const Rows& r, int block, int row, const float* x, int n, int k0) {
  const int rows = s.block_rows(s.routing.blocks[size_t(block)]);
  const PutArgs p = {x, n, s.block_at(r, block) + size_t(row) * 64, size_t(rows) * 64, k0};
  s.bf16 ? s.kernels.put_bf16(&p) : s.kernels.put_f32(&p);
}

void pack_block(const Back& s, int block, int thread) {
  const Block& b = s.routing.blocks[size_t(block)];
  float* staging = scratch_of(s, thread).row;
  const int n = s.l.shape.hidden;
  for (int row = 0; row < b.rows; ++row) {
    const int token = s.first_token + s.routing.token[size_t(b.first + row)];
    const size_t at = size_t(token) * n * element_bytes(s.call.dtype);
    s.kernels.load_row(s.call.x + at, s.call.dtype, n, s.l.hidden, staging);
    put(s, s.x, block, row, staging, s.l.hidden, 0);
    s.kernels.load_row(s.call.dout + at, s.call.dtype, n, s.l.hidden, staging);
    put(s, s.dout, block, row, staging, s.l.hidden, 0);
  }
}

// The slice's gradients of gate and up, and its part of those of the routing weights.
void combine_slice(const Back& s, int block, int column, float* gate_up, float* dh) {
  const Block& b = s.routing.blocks[size_t(block)];
  const int slices = s.l.intermediate / kSlice;
  float dgate[kSlice], dup[kSlice];
  for (int row = 0; row < b.rows; ++row) {
    const size_t pair = size_t(b.first + row);
    if (s.lora) lora_slice(s, block, row, column, gate_up + row * 2 * kSlice, dh + row * kSlice);
    const size_t at = pair * size_t(s.l.intermediate) + size_t(column);
    const GluBackArgs g = {gate_up + row * 2 * kSlice, dh + row * kSlice, kSlice / 16, s.call.act,
                           s.routing.weight[pair], dgate, dup, s.lora ? s.lora->h + at : nullptr};
    s.dot[pair * size_t(slices) + size_t(column / kSlice)] = s.kernels.glu_back(&g);
    put(s, s.d, block, row, dgate, kSlice, column);
    put(s, s.d, block, row, dup, kSlice, s.l.intermediate + column);
    if (!s.lora) continue;
    std::copy_n(dgate, kSlice, s.lora->dgate + at);
    std::copy_n(dup, kSlice, s.lora->dup + at);
  }
}

void through_glu(const Back& s, const Touched& e, int column, int first, int blocks, const BackScratch& t) {
  const Matrix down = matrix_of(s, e.expert, 2);
  const StepArgs up = {&s.x, first, blocks, {}, kSlice / 8, 0, 0, true, t.gate_up};
  product(s, up, s.l.hidden, t, [&](int k0, int depth) {
    return widened(s, e.expert, column / 8, kSlice / 8, k0, depth, t.panels);
  });
  const StepArgs back = {&s.dout, first, blocks, {}, kSlice / 16, 0, 0, true, t.narrow};
  product(s, back, s.l.hidden, t,
          [&](int k0, int depth) { return turned(s, down, column, k0, depth, t.panels); });
  for (int i = 0; i < blocks; ++i)
    combine_slice(s, first + i, column, t.gate_up + size_t(i) * 32 * kSlice, t.narrow + size_t(i) * 16 * kSlice);
}

void through_up(const Back& s, const Touched& e, int column, int first, int blocks, const BackScratch& t) {
  const Matrix matrices[2] = {matrix_of(s, e.expert, 0), matrix_of(s, e.expert, 1)};
  const int depth_of_one = s.l.intermediate;
  const StepArgs back = {&s.d, first, blocks, {}, kSlice / 16, 0, 0, true, t.narrow};
  product(s, back, depth_of_one, t, [&](int k0, int depth) {
    return turned(s, matrices[k0 / depth_of_one], column, k0 % depth_of_one, depth, t.panels);
  });
  for (int i = 0; i < blocks; ++i) {
    const Block& b = s.routing.blocks[size_t(first + i)];
    for (int row = 0; row < b.rows; ++row) {
      float* dx = s.dx + size_t(b.first + row) * s.l.hidden + column;
      std::copy_n(t.narrow + size_t(i * 16 + row) * kSlice, kSlice, dx);
      if (s.lora) lora_add_dx(s, first + i, row, column, dx);
    }
  }
}

using Through = void (*)(const Back&, const Touched&, int, int, int, const BackScratch&);

void run_slice(const Back& s, int unit, int slices, int thread, Through through) {
  const Touched& e = s.routing.touched[size_t(unit / slices)];
  const BackScratch t = scratch_of(s, thread);
  for (int i = 0; i < e.blocks; i += kBackBlocks)
    through(s, e, unit % slices * kSlice, e.first_block + i, std::min(kBackBlocks, e.blocks - i), t);
}

void sum_token(const Back& s, int token) {
  thread_local std::vector<const char*> rows;
  rows.clear();
  const int k = s.call.top_k, slices = s.l.intermediate / kSlice;
  for (int i = 0; i < k; ++i) {
    const int pair = s.routing.pair[size_t(token) * k + i];
    float sum = 0;
    for (int j = 0; pair >= 0 && j < slices; ++j) sum += s.dot[size_t(pair) * slices + j];
    s.call.dweights[size_t(s.first_token + token) * k + i] = sum;
    if (pair >= 0) rows.push_back(reinterpret_cast<const char*>(s.dx + size_t(pair) * s.l.hidden));
  }
  const size_t at = size_t(s.first_token + token) * s.l.shape.hidden * element_bytes(s.call.dtype);
  const SumArgs a = {rows.data(), int(rows.size()), s.l.shape.hidden, Dtype::f32, s.call.dtype,
                     s.call.dx + at};
  s.kernels.sum_rows(&a);
}

enum Step { kCopy, kPack, kLow, kGlu, kInner, kUp, kGrads, kSum, kSteps };

void run_unit(void* context, int phase, int unit, int thread) {
  const Back& s = *static_cast<const Back*>(context);
  switch (phase) {
    case kCopy: return lora_copy(s, unit);
    case kLow: return lora_low(s, unit);
    case kInner: return lora_inner(s, unit);
    case kGrads: return lora_grad(s, unit, thread);
    case kPack: return pack_block(s, unit, thread);
    case kGlu: return run_slice(s, unit, s.l.intermediate / kSlice, thread, through_glu);
    case kUp: return run_slice(s, unit, s.l.hidden / kSlice, thread, through_up);
    default: return sum_token(s, unit);
  }
}

struct BackBuffers {
  Scratch x, dout, d, dx, dot, threads;
  LoraBuffers lora;
  Routing routing;
};

// One set for the process, used under the PoolLock.
BackBuffers& buffers() {
  static BackBuffers* const shared = new BackBuffers;
  return *shared;
}

void run(Back& s, BackBuffers& b) {
  const size_t blocks = s.routing.blocks.size(), pairs = s.routing.token.size();
  const size_t rows = s.tiles ? blocks * 16 : pairs, touched = s.routing.touched.size();
  s.x.k = s.dout.k = s.l.hidden;
  s.d.k = 2 * s.l.intermediate;
  s.x.data = b.x.need(rows * s.row_bytes(s.x));
  s.dout.data = b.dout.need(rows * s.row_bytes(s.dout));
  s.d.data = b.d.need(rows * s.row_bytes(s.d));
  s.dx = b.dx.need_of<float>(pairs * size_t(s.l.hidden));
  s.dot = b.dot.need_of<float>(pairs * size_t(s.l.intermediate / kSlice));
  s.scratch_bytes = back_scratch_size(s.l);
  s.scratch = b.threads.need(s.scratch_bytes * size_t(pool().threads()));
  const int slices = s.l.intermediate / kSlice, columns = s.l.hidden / kSlice;
  const int low = s.lora ? int(blocks) : 0;
  pool().run({run_unit, &s, kSteps,
              {lora_copies(s), int(blocks), low, int(touched) * slices, low, int(touched) * columns,
               lora_grads(s), s.tokens},
              nullptr});
}

}  // namespace

void backward(const Weights& w, const BackCall& call, const Kernels& kernels) {
  BackBuffers& b = buffers();
  for (int first = 0; first < call.tokens; first += kChunk) {
    const int n = std::min(kChunk, call.tokens - first);
    route(call.ids, call.weights, call.mask, first, n, call.top_k, w.layout().shape.experts, b.routing);
    const bool tiles = use_tiles(kernels, b.routing.token.size(), b.routing.touched.size());
    Back s = {w, w.layout(), call, kernels, b.routing, first, n, tiles, kernels.bf16_acts,
              {}, {}, {}, nullptr, nullptr, nullptr, 0, nullptr};
    if (!call.lora) {
      run(s, b);
      continue;
    }
    const BackLora lora = make_lora(s, *call.lora, b.lora, pool().threads());
    s.lora = &lora;
    run(s, b);
  }
}

}  // namespace kt
