// A block of activations times panels of bf16 weights, f32 accumulation.
#pragma once
#include "blocks.inl"

namespace kt {
namespace {

constexpr int kActBytes = kBf16Acts ? 2 : 4;
constexpr int kTileDepth = 64 / kActBytes;  // k covered by one activation tile

struct Bf16Body {
  static constexpr int kRows = kMaxRows, kFrom = 0;
  struct Room {};

  static void begin(Step&, Room&) {}
  static Step unpack(const Step& g, int panel, Room&) { return panels_from(g, panel); }
  static void advance(Step& g, int k) {
    g.a += size_t(k / kTileDepth * g.m) * 64;
    g.w += size_t(k) * 32;
  }

  template <int M, int P>
  static void run(const Step& g, int row, int panel) {
    const char* a = g.a + row * 64;
    const char* w = g.w + panel * g.w_stride;
    Vf acc[M][P];
    unroll<M * P>(KT_EACH(i) { acc[i / P][i % P] = vf_zero(); });
    const size_t step = size_t(g.m) * 64, stride = g.w_stride;
    for (int k = 0; k < g.k; k += kTileDepth, a += step, w += kTileDepth * 32) {
      if constexpr (M <= 2) fetch_ahead<kTileDepth / 2, P>(w, stride, size_t(g.k - k) * 32);
#pragma GCC unroll 4
      for (int j = 0; j < kTileDepth / 2; ++j)
        unroll<kHalves>(KT_EACH(half) {
          Vf line[P];
          unroll<P>(KT_EACH(p) { line[p] = bf16_half(w + p * stride + j * 64, half); });
          unroll<M>(KT_EACH(m) {
            const auto x = bf16_bcast(a + m * 64 + j * 2 * kActBytes, half);
            unroll<P>(KT_EACH(p) { acc[m][p] = bf16_dot(acc[m][p], line[p], x); });
          });
        });
    }
    put_sums<M, P>(g, row, panel, acc);
  }
};

void gemm_bf16(const GemmArgs* g) { walk<Bf16Body, Bf16Body>(*g); }

}  // namespace
}  // namespace kt
