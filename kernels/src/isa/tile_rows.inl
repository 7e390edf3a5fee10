// What surrounds the tile products: rows gathered into blocks, sums with their scales on the way out.
#pragma once
#include "rows.inl"

namespace kt {
namespace {

// Rows of `tiles` * 64 bytes become one block of 16 rows; rows that are missing become zeros.
void gather(const GatherArgs* g) {
  const __m512i none = _mm512_setzero_si512();
  for (int t = 0; t < g->tiles; ++t)
    for (int r = 0; r < 16; ++r) {
      const __m512i v = r < g->rows ? _mm512_loadu_si512(g->source[r] + size_t(t) * 64) : none;
      _mm512_store_si512(g->dst + size_t(t) * 1024 + r * 64, v);
    }
}

// One row of sums of one panel as f32.
KT_INLINE Vf sums_row(const FinishArgs& f, int panel, int row) {
  const char* at = f.c + size_t(panel) * f.c_stride + row * 64;
  return f.ints ? vf_from_int(_mm512_load_si512(at)) : vf_load(at);
}

KT_INLINE Vf panel_scale(const FinishArgs& f, int panel) {
  return f.ints ? vf_load(f.w_scale + panel * f.w_scale_stride) : vf_set1(1.0f);
}

// Panels are gate and up in turn: 16 values of act(gate) * up for each pair.
void finish_glu(const FinishArgs* f) {
  for (int p = 0; p < f->panels; p += 2) {
    const Vf gate = panel_scale(*f, p), up = panel_scale(*f, p + 1);
    for (int r = 0; r < f->rows; ++r) {
      const Vf x = vf_set1(f->row_scale ? f->row_scale[r] : 1.0f);
      const Vf g = vf_mul(sums_row(*f, p, r), vf_mul(gate, x));
      const Vf u = vf_mul(sums_row(*f, p + 1, r), vf_mul(up, x));
      const Vf h = vf_mul(activate(g, f->act), u);
      char* at = f->out + size_t(r) * f->out_stride;
      vf_to_bf16(at + (f->to_rows ? p * 16 : p / 4 * 1024 + p % 4 * 16), h);  // a row, or one of a block of tiles
    }
  }
}

// Rows of the result, each with its own factor.
void finish_rows(const FinishArgs* f) {
  for (int p = 0; p < f->panels; ++p) {
    const Vf scale = panel_scale(*f, p);
    for (int r = 0; r < f->rows; ++r) {
      const Vf y = vf_mul(sums_row(*f, p, r), vf_mul(scale, vf_set1(f->row_scale[r])));
      store16(f->out + size_t(r) * f->out_stride, f->dtype, p * 16, y);
    }
  }
}

}  // namespace
}  // namespace kt
