#include "product.h"

#include <algorithm>

namespace kt {
namespace {

ActKind act_kind(const Kernels& kernels, const Format& format) {
  if (format.ints()) return ActKind::s8;
  return kernels.bf16_acts ? ActKind::bf16 : ActKind::f32;
}

// It never reaches over a group of weights, and sums in 16 bits hold 32 k at most.
int scale_group(const Coding& coding, int k, int widest) {
  if (coding.format->grouped()) return std::min(32, coding.group);
  return k % widest == 0 ? widest : 64;
}

}  // namespace

Acts acts_for(const Kernels& kernels, const Coding& coding, int k, int widest) {
  Acts acts = {.kind = act_kind(kernels, *coding.format), .k = k, .group = k};
  if (acts.kind == ActKind::s8) acts.group = scale_group(coding, k, widest);
  return acts;
}

void allocate(Acts& acts, size_t rows, size_t blocks, ActsMemory& memory) {
  acts.data = memory.data.need(rows * acts.row_bytes());
  if (acts.kind != ActKind::s8) return;
  acts.scale = memory.scale.need_of<float>(blocks * acts.scales());
  acts.sum = memory.sum.need_of<int32_t>(blocks * acts.scales());
}

void put_row(const Kernels& kernels, const Acts& acts, const RowBlock& block, int row, const float* x, int n, int k0) {
  const size_t step = size_t(block.rows) * 64;
  char* dst = acts.data + size_t(block.first) * acts.row_bytes() + size_t(row) * 64;
  if (acts.kind == ActKind::s8) {
    const size_t at = size_t(block.index) * acts.scales() + size_t(row);
    const QuantArgs q = {.x = x,
                         .n = n,
                         .group = acts.group,
                         .dst = dst,
                         .tile_stride = step,
                         .k0 = k0,
                         .scale = acts.scale + at,
                         .sum = acts.sum + at};
    return kernels.quantise(&q);
  }
  const PutArgs p = {x, n, dst, step, k0};
  acts.kind == ActKind::f32 ? kernels.put_f32(&p) : kernels.put_bf16(&p);
}

void multiply(const Kernels& kernels, const Acts& acts, const RowBlock& block, const Panels& panels, int k0, bool add,
              float* c) {
  GemmArgs g = {
      .a = acts.data + size_t(block.first) * acts.row_bytes() + size_t(k0 / acts.k_of_tile() * block.rows) * 64,
      .m = block.rows,
      .a_scale = nullptr,
      .a_sum = nullptr,
      .a_group = acts.group,
      .k = panels.k,
      .w = panels.data,
      .w_stride = panels.stride,
      .w_scale = panels.scale,
      .w_scale_stride = panels.scale_stride,
      .w_group = panels.coding.group,
      .k0 = k0,
      .panels = panels.count,
      .c = c,
      .add = add};
  if (acts.kind == ActKind::s8) {
    const size_t at = size_t(block.index) * acts.scales() + size_t(k0 / acts.group) * 16;
    g.a_scale = acts.scale + at;
    g.a_sum = acts.sum + at;
  }
  kernels.gemm[panels.product()](&g);
}

}  // namespace kt
