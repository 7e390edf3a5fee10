// Walks rows and panels of one product in register-sized blocks. A `Body` names the block function
// body<M, P>: one or two rows stream several panels at once, more rows share each panel line.
#pragma once
#include "abi.h"
#include "unroll.inl"

namespace kt {
namespace {

// Few rows are bound by memory, and panels are too short for the hardware to run far ahead: fetches `Lines` of
// each of P streams, which go on in the P panels behind these once no more than `left` bytes are left.
template <int Lines, int P>
KT_INLINE void fetch_ahead(const char* w, size_t stride, size_t left) {
  constexpr size_t kAhead = 2048;
  const char* at = w + kAhead + (left > kAhead ? 0 : (P - 1) * stride);
  unroll<P * Lines>(KT_EACH(i) { __builtin_prefetch(at + i / Lines * stride + i % Lines * 64); });
}

// A step of the depth, as blocks of rows see it.
struct Step : GemmArgs {
  ptrdiff_t abs_at = 0;  // from an activation to its magnitude, where the products want both
};

using Block = void (*)(const Step&, int row, int panel);

// Rows left, cut into nearly equal chunks of at most `most`.
int next_rows(int left, int most) {
  const int chunks = (left + most - 1) / most;
  return (left + chunks - 1) / chunks;
}

template <class Body, int M>
constexpr Block narrow_block() {
  return Body::template run<(M < Body::kRows ? M : Body::kRows), kPanels>;
}

template <class Body>
struct Blocks {
  static constexpr Block wide[3] = {nullptr, Body::template run<1, 4>, Body::template run<2, kPanelsTwoRows>};
  static constexpr Block pair[3] = {nullptr, Body::template run<1, 2>, Body::template run<2, 2>};
  static constexpr Block narrow[9] = {nullptr,
                                      narrow_block<Body, 1>(),
                                      narrow_block<Body, 2>(),
                                      narrow_block<Body, 3>(),
                                      narrow_block<Body, 4>(),
                                      narrow_block<Body, 5>(),
                                      narrow_block<Body, 6>(),
                                      narrow_block<Body, 7>(),
                                      narrow_block<Body, 8>()};
};

// Many rows go over the depth in steps, so that the panels at work stay in the first-level cache.
constexpr int kDepthStep = 512;

template <class Body>
void walk_rows(const Step& g, typename Body::Room& room) {
  for (int p = 0; p < g.panels; p += kPanels) {
    const Step ready = Body::unpack(g, p, room);
    for (int row = 0, rows; row < g.m; row += rows) {
      rows = next_rows(g.m - row, Body::kRows);
      Blocks<Body>::narrow[rows](ready, row, 0);
    }
  }
}

template <class Body>
void walk_depth(const GemmArgs& g) {
  typename Body::Room room;
  for (int k = 0; k < g.k; k += kDepthStep) {
    Step part = {g};
    part.k = g.k - k < kDepthStep ? g.k - k : kDepthStep;
    part.add = g.add || k > 0;
    Body::advance(part, k);
    Body::begin(part, room);
    walk_rows<Body>(part, room);
  }
}

template <class Few, class Many>
void walk(const GemmArgs& g) {
  if (g.m > 2) return g.m < Many::kFrom ? walk_depth<Few>(g) : walk_depth<Many>(g);
  const int wide = g.m == 1 ? 4 : kPanelsTwoRows, step = g.panels < wide ? 2 : wide;
  const Block block = (step == wide ? Blocks<Few>::wide : Blocks<Few>::pair)[g.m];
  for (int p = 0; p < g.panels; p += step) block({g}, 0, p);
}

// The panels from `panel` on, as they stand.
KT_INLINE Step panels_from(Step g, int panel) {
  g.w += panel * g.w_stride;
  g.w_scale += panel * g.w_scale_stride;
  g.c += panel * 16;
  return g;
}

// Stores a block of sums, or adds it to what is there.
template <int M, int P>
KT_INLINE void put_sums(const Step& g, int row, int panel, const Vf (&sums)[M][P]) {
  float* c = g.c + (row * g.panels + panel) * 16;
  unroll<M * P>(KT_EACH(i) {
    float* at = c + (i / P * g.panels + i % P) * 16;
    vf_store(at, g.add ? vf_add(sums[i / P][i % P], vf_load(at)) : sums[i / P][i % P]);
  });
}

}  // namespace
}  // namespace kt
