#include "backward.h"

#include "back_lora.h"
#include "back_product.h"
#include "back_rows.h"
#include "pool.h"

namespace kt {
namespace {

// The slice's gradients of gate and up, and its part of those of the routing weights.
void combine_slice(const Back& s, int block, int column, float* gate_up, float* dh) {
  const Block& b = s.routing.blocks[size_t(block)];
  const int slices = s.l.intermediate / kSlice;
  float dgate[kSlice], dup[kSlice];
  for (int row = 0; row < b.rows; ++row) {
    const size_t pair = size_t(b.first + row);
    if (s.lora) {
      lora_add_gate_up(s, block, row, column, gate_up + row * 2 * kSlice);
      lora_add_dh(s, block, row, column, dh + row * kSlice);
    }
    const size_t at = pair * size_t(s.l.intermediate) + size_t(column);
    const GluBackArgs g = {.c = gate_up + row * 2 * kSlice,
                           .dh = dh + row * kSlice,
                           .pairs = kSlice / 16,
                           .act = s.call.act,
                           .weight = s.routing.weight[pair],
                           .dgate = dgate,
                           .dup = dup,
                           .h = s.lora ? s.lora->h + at : nullptr};
    s.dot[pair * size_t(slices) + size_t(column / kSlice)] = s.kernels.glu_back(&g);
    put_row(s, s.d, block, row, dgate, kSlice, column);
    put_row(s, s.d, block, row, dup, kSlice, s.l.intermediate + column);
    if (!s.lora) continue;
    std::copy_n(dgate, kSlice, s.lora->dgate + at);
    std::copy_n(dup, kSlice, s.lora->dup + at);
  }
}

void through_glu(const Back& s, const Touched& e, int column, int first, int blocks, const BackScratch& t) {
  const Panels down = matrix_of(s, e.expert, Projection::down);
  gate_up_step(s, e.expert, column, first, blocks, t);
  const StepArgs back = {&s.dout, first, blocks, kSlice / 16, t.narrow};
  product(s, back, s.l.hidden, t, [&](int k0, int depth) { return turned(s, down, column, k0, depth, t.panels); });
  for (int i = 0; i < blocks; ++i)
    combine_slice(s, first + i, column, t.gate_up + size_t(i) * 32 * kSlice, t.narrow + size_t(i) * 16 * kSlice);
}

void through_up(const Back& s, const Touched& e, int column, int first, int blocks, const BackScratch& t) {
  const Panels matrices[2] = {matrix_of(s, e.expert, Projection::gate), matrix_of(s, e.expert, Projection::up)};
  const int depth_of_one = s.l.intermediate;
  const StepArgs back = {&s.d, first, blocks, kSlice / 16, t.narrow};
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

void sum_dots(const Back& s, int token) {
  const int k = s.call.top_k, slices = s.l.intermediate / kSlice;
  for (int i = 0; i < k; ++i) {
    const int pair = s.routing.pair[size_t(token) * k + i];
    float sum = 0;
    for (int j = 0; pair >= 0 && j < slices; ++j) sum += s.dot[size_t(pair) * slices + j];
    s.call.dweights[size_t(s.first_token + token) * k + i] = sum;
  }
}

enum Step { kCopy, kPack, kLow, kGlu, kInner, kUp, kGrads, kSum, kSteps };

void run_unit(void* context, int phase, int unit, int thread) {
  const Back& s = *static_cast<const Back*>(context);
  switch (phase) {
    case kCopy:
      return lora_copy(s, unit);
    case kLow:
      return lora_low(s, unit);
    case kInner:
      return lora_inner(s, unit);
    case kGrads:
      return lora_grad(s, unit, thread);
    case kPack:
      return pack_block(s, unit, thread);
    case kGlu:
      return run_slice(s, unit, s.l.intermediate / kSlice, thread, through_glu);
    case kUp:
      return run_slice(s, unit, s.l.hidden / kSlice, thread, through_up);
    default:
      sum_dots(s, unit);
      return sum_token(s, unit);
  }
}

void run(Back& s) {
  const int blocks = int(s.routing.blocks.size()), touched = int(s.routing.touched.size());
  const int slices = s.l.intermediate / kSlice, columns = s.l.hidden / kSlice;
  const int low = s.lora ? blocks : 0;
  pool().run({run_unit,
              &s,
              kSteps,
              {lora_copies(s), blocks, low, touched * slices, low, touched * columns, lora_grads(s), s.tokens},
              nullptr});
}

}  // namespace

void backward(const Weights& w, const BackCall& call, const Kernels& kernels) {
  BackBuffers& b = back_buffers();
  for (int first = 0; first < call.tokens; first += kBackChunk) {
    Back s = make_back(w, call, kernels, first, std::min(kBackChunk, call.tokens - first), b);
    if (!call.lora) {
      run(s);
      continue;
    }
    const BackLora lora = make_lora(s, *call.lora, b.lora, pool().threads());
    s.lora = &lora;
    run(s);
  }
}

}  // namespace kt
