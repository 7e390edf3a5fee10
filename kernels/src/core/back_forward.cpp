#include "back_forward.h"

#include "back_product.h"
#include "back_rows.h"
#include "pool.h"

namespace kt {
namespace {

void through_glu(const Back& s, const Touched& e, int column, int first, int blocks, const BackScratch& t) {
  gate_up_step(s, e.expert, column, first, blocks, t);
  for (int i = 0; i < blocks; ++i) {
    const Block& b = s.routing.blocks[size_t(first + i)];
    for (int row = 0; row < b.rows; ++row) {
      float* c = t.gate_up + size_t(i * 16 + row) * 2 * kSlice;
      lora_add_gate_up(s, first + i, row, column, c);
      float* h = s.lora->h + size_t(b.first + row) * s.l.intermediate + column;
      s.kernels.glu(c, kSlice / 16, s.call.act, h);
      put_row(s, s.d, first + i, row, h, kSlice, column);
    }
  }
}

// One slice of what an expert gives for each of its tokens, weighted.
void through_down(const Back& s, const Touched& e, int column, int first, int blocks, const BackScratch& t) {
  const Panels down = matrix_of(s, e.expert, Projection::down).part(column / 16, kSlice / 16);
  const StepArgs step = {&s.d, first, blocks, kSlice / 16, t.narrow};
  product(s, step, s.l.intermediate, t, [&](int k0, int depth) { return widened(s, down, k0, depth, t.panels); });
  for (int i = 0; i < blocks; ++i) {
    const Block& b = s.routing.blocks[size_t(first + i)];
    for (int row = 0; row < b.rows; ++row) {
      float* y = t.narrow + size_t(i * 16 + row) * kSlice;
      lora_add_down(s, first + i, row, column, y);
      float* out = s.dx + size_t(b.first + row) * s.l.hidden + column;
      const float weight = s.routing.weight[size_t(b.first + row)];
      for (int j = 0; j < kSlice; ++j) out[j] = weight * y[j];
    }
  }
}

enum Step { kCopy, kPack, kLow, kGlu, kInner, kDown, kSum, kSteps };

void run_unit(void* context, int phase, int unit, int thread) {
  const Back& s = *static_cast<const Back*>(context);
  switch (phase) {
    case kCopy:
      return lora_copy(s, unit);
    case kPack:
      return pack_block(s, unit, thread);
    case kLow:
      return lora_low(s, unit);
    case kGlu:
      return run_slice(s, unit, s.l.intermediate / kSlice, thread, through_glu);
    case kInner:
      return lora_h_low(s, unit);
    case kDown:
      return run_slice(s, unit, s.l.hidden / kSlice, thread, through_down);
    default:
      return sum_token(s, unit);
  }
}

}  // namespace

void forward_low_rank(const Weights& w, const BackCall& call, const Kernels& kernels) {
  BackBuffers& b = back_buffers();
  for (int first = 0; first < call.tokens; first += kBackChunk) {
    Back s = make_back(w, call, kernels, first, std::min(kBackChunk, call.tokens - first), b);
    s.d.k = s.l.intermediate;
    const BackLora lora = make_lora(s, *call.lora, b.lora, pool().threads());
    s.lora = &lora;
    const int blocks = int(s.routing.blocks.size()), touched = int(s.routing.touched.size());
    pool().run({run_unit,
                &s,
                kSteps,
                {lora_copies(s), blocks, blocks, touched * (s.l.intermediate / kSlice), blocks,
                 touched * (s.l.hidden / kSlice), s.tokens},
                nullptr});
  }
}

}  // namespace kt
