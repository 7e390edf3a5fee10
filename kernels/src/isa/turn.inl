// Panels of any format as bf16, as they stand or turned: 16 of their columns become the 16 rows of a
// panel whose depth is what were rows. Nothing of it outlives the product it is made for.
#pragma once
#include "packed.inl"
#include "rows.inl"

namespace kt {
namespace {

template <class Get>
KT_INLINE void put_lines(Line v, char* lines, Get get) {
  put_bf16_line(lines, get(byte_as_float<0>(v)), get(byte_as_float<1>(v)));
  put_bf16_line(lines + 64, get(byte_as_float<2>(v)), get(byte_as_float<3>(v)));
}

// 16 k of a panel as eight bf16 lines, in `made` unless they stand in the panel as they are.
struct LinesBf16 {
  static constexpr int kBits = 16;
  static const char* get(const TurnArgs&, const char* panel, const char*, int k, char*) {
    return panel + size_t(k) * 32;
  }
};

template <class W>
struct LinesInt {
  using Codes = typename W::Codes;
  static constexpr int kBits = Codes::kBits;

  static const char* get(const TurnArgs& t, const char* panel, const char* scale, int k, char* made) {
    const char* at = W::at(scale, k, t.group);
    const Vf s = vf_mul(W::scale(at), W::row(scale)), low = W::minimum(at);
    const auto value = [&](Vf x) __attribute__((always_inline)) {
      return W::kMinimum ? vf_fma(x, s, low) : vf_mul(x, s);
    };
    for (int j = 0; j < 16; j += Codes::kTogether) {
      const char* from = panel + size_t(k + j) * 2 * kBits;
      unroll<Codes::kTogether / 4>(
          KT_EACH(i) { put_lines(Codes::value(Codes::template code<i>(from)), made + (j + i * 4) * 32, value); });
    }
    return made;
  }
};

// Columns k0.. k0 + k - 1 of `panels` panels: every 16 become a panel of depth panels * 16. What is read of
// one panel is too short for the hardware to run ahead of, so that of the next but one is fetched.
template <class Lines>
void turn(const TurnArgs* t) {
  alignas(64) char made[512];
  const size_t at = size_t(t->k0) * 2 * Lines::kBits, bytes = size_t(t->k) * 2 * Lines::kBits;
  for (int p = 0; p < t->panels; ++p) {
    const char *src = t->src + size_t(p) * t->stride, *scale = t->scale + size_t(p) * t->scale_stride;
    for (size_t i = 0; i < bytes; i += 64) __builtin_prefetch(src + 2 * t->stride + at + i);
    __builtin_prefetch(scale + 2 * t->scale_stride);
    char* dst = t->dst + size_t(p) * 512;
    for (int k = 0; k < t->k; k += 16, dst += size_t(t->panels) * 512)
      turn_lines(Lines::get(*t, src, scale, t->k0 + k, made), dst);
  }
}

// k0.. k0 + k - 1 of one panel.
template <class Lines>
void widen(const TurnArgs* t) {
  for (int k = 0; k < t->k; k += 16) {
    char* dst = t->dst + size_t(k) * 32;
    const char* made = Lines::get(*t, t->src, t->scale, t->k0 + k, dst);
    if (made != dst) __builtin_memcpy(dst, made, 512);
  }
}

KT_INLINE Vf vf_slope(Vf x, Act act) {
  const Vf one = vf_set1(1.0f);
  if (act == Act::silu) {
    const Vf s = vf_sigmoid(x);
    return vf_mul(s, vf_fma(x, vf_sub(one, s), one));
  }
  const Vf square = vf_mul(x, x), c = vf_set1(1.5957691216f);
  const Vf s = vf_sigmoid(vf_mul(c, vf_mul(x, vf_fma(square, vf_set1(0.044715f), one))));
  const Vf inner = vf_mul(c, vf_fma(square, vf_set1(3 * 0.044715f), one));
  return vf_mul(s, vf_fma(vf_mul(x, vf_sub(one, s)), inner, one));
}

// From [gate 16][up 16] pairs and the gradient of h for weight 1: the gradients of gate and up, h
// itself where it is wanted, and the sum of h times its gradient.
float glu_back(const GluBackArgs* g) {
  const Vf w = vf_set1(g->weight);
  Vf sum = vf_zero();
  for (int i = 0; i < g->pairs; ++i) {
    const Vf gate = vf_load(g->c + i * 32), up = vf_load(g->c + i * 32 + 16), dh = vf_load(g->dh + i * 16);
    const Vf value = activate(gate, g->act), h = vf_mul(value, up), weighted = vf_mul(dh, w);
    sum = vf_fma(h, dh, sum);
    vf_store(g->dgate + i * 16, vf_mul(weighted, vf_mul(up, vf_slope(gate, g->act))));
    vf_store(g->dup + i * 16, vf_mul(weighted, value));
    if (g->h) vf_store(g->h + i * 16, h);
  }
  return vf_hsum(sum);
}

}  // namespace
}  // namespace kt
