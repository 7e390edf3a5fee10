#include "back_rows.h"

#include "pool.h"
#include "switch.h"

namespace kt {
namespace {

size_t element_bytes(Dtype t) { return t == Dtype::f32 ? 4 : 2; }

void pack_row(const Back& s, const Rows& r, const char* from, int block, int row, int token, float* staging) {
  const int n = s.l.shape.hidden;
  const size_t at = size_t(s.first_token + token) * n * element_bytes(s.call.dtype);
  s.kernels.load_row(from + at, s.call.dtype, n, s.l.hidden, staging);
  put_row(s, r, block, row, staging, s.l.hidden, 0);
}

}  // namespace

BackBuffers& back_buffers() {
  static BackBuffers* const shared = new BackBuffers;
  return *shared;
}

Back make_back(const Weights& w, const BackCall& call, const Kernels& kernels, int first, int n, BackBuffers& b) {
  const Layout& l = w.layout();
  route(call.ids, call.weights, call.mask, first, n, call.top_k, l.shape.experts, b.routing);
  const size_t pairs = b.routing.token.size(), blocks = b.routing.blocks.size();
  const bool tiles = use_tiles(tile_from(kernels, nullptr), pairs, b.routing.touched.size());
  Back s = {.w = w,
            .l = l,
            .call = call,
            .kernels = kernels,
            .routing = b.routing,
            .first_token = first,
            .tokens = n,
            .tiles = tiles,
            .bf16 = kernels.bf16_acts,
            .x = {nullptr, l.hidden},
            .dout = {nullptr, l.hidden},
            .d = {nullptr, 2 * l.intermediate}};
  const size_t rows = tiles ? blocks * 16 : pairs;
  s.x.data = b.x.need(rows * s.row_bytes(s.x));
  if (call.dout) s.dout.data = b.dout.need(rows * s.row_bytes(s.dout));
  s.d.data = b.d.need(rows * s.row_bytes(s.d));
  s.dx = b.dx.need_of<float>(pairs * size_t(l.hidden));
  s.dot = b.dot.need_of<float>(pairs * size_t(l.intermediate / kSlice));
  s.scratch_bytes = back_scratch_size(l);
  s.scratch = b.threads.need(s.scratch_bytes * size_t(pool().threads()));
  return s;
}

void put_row(const Back& s, const Rows& r, int block, int row, const float* x, int n, int k0) {
  const int rows = s.block_rows(s.routing.blocks[size_t(block)]);
  const PutArgs p = {x, n, s.block_at(r, block) + size_t(row) * 64, size_t(rows) * 64, k0};
  s.bf16 ? s.kernels.put_bf16(&p) : s.kernels.put_f32(&p);
}

void pack_block(const Back& s, int block, int thread) {
  const Block& b = s.routing.blocks[size_t(block)];
  float* staging = scratch_of(s, thread).row;
  for (int row = 0; row < b.rows; ++row) {
    const int token = s.routing.token[size_t(b.first + row)];
    pack_row(s, s.x, s.call.x, block, row, token, staging);
    if (s.call.dout) pack_row(s, s.dout, s.call.dout, block, row, token, staging);
  }
}

void sum_token(const Back& s, int token) {
  thread_local std::vector<const char*> rows;
  rows.clear();
  for (int i = 0; i < s.call.top_k; ++i) {
    const int pair = s.routing.pair[size_t(token) * s.call.top_k + i];
    if (pair >= 0) rows.push_back(reinterpret_cast<const char*>(s.dx + size_t(pair) * s.l.hidden));
  }
  const size_t at = size_t(s.first_token + token) * s.l.shape.hidden * element_bytes(s.call.dtype);
  const SumArgs a = {rows.data(), int(rows.size()), s.l.shape.hidden, Dtype::f32, s.call.dtype, s.call.dx + at};
  s.kernels.sum_rows(&a);
}

void run_slice(const Back& s, int unit, int slices, int thread, Through through) {
  const Touched& e = s.routing.touched[size_t(unit / slices)];
  const BackScratch t = scratch_of(s, thread);
  for (int i = 0; i < e.blocks; i += kBackBlocks)
    through(s, e, unit % slices * kSlice, e.first_block + i, std::min(kBackBlocks, e.blocks - i), t);
}

}  // namespace kt
