// Rows of activations: conversion, quantisation into blocks, the gated activation, accumulation.
#pragma once
#include "abi.h"
#include "vec.h"

namespace kt {
namespace {

KT_INLINE Vf vf_exp(Vf x) {  // 2^n * p(r), relative error below 2e-7 on [-87, 87]
  x = vf_min(vf_max(x, vf_set1(-87.0f)), vf_set1(87.0f));
  const Vf n = vf_round(vf_mul(x, vf_set1(1.44269504f)));
  Vf r = vf_fma(n, vf_set1(-0.693359375f), x);
  r = vf_fma(n, vf_set1(2.12194440e-4f), r);
  Vf p = vf_set1(1.9875691500e-4f);
  p = vf_fma(p, r, vf_set1(1.3981999507e-3f));
  p = vf_fma(p, r, vf_set1(8.3334519073e-3f));
  p = vf_fma(p, r, vf_set1(4.1665795894e-2f));
  p = vf_fma(p, r, vf_set1(1.6666665459e-1f));
  p = vf_fma(p, r, vf_set1(5.0000001201e-1f));
  p = vf_fma(vf_mul(r, r), p, vf_add(r, vf_set1(1.0f)));
  return vf_scale2(p, n);
}

KT_INLINE Vf vf_sigmoid(Vf x) {
  const Vf one = vf_set1(1.0f);
  return vf_div(one, vf_add(one, vf_exp(vf_sub(vf_zero(), x))));
}

KT_INLINE Vf activate(Vf x, Act act) {
  if (act == Act::silu) return vf_mul(x, vf_sigmoid(x));
  const Vf cubic = vf_fma(vf_mul(x, vf_mul(x, x)), vf_set1(0.044715f), x);
  return vf_mul(x, vf_sigmoid(vf_mul(cubic, vf_set1(1.5957691216f))));
}

float vf_hsum(Vf x) {
  float lanes[16], total = 0;
  vf_store(lanes, x);
  for (float lane : lanes) total += lane;
  return total;
}

// c holds [gate 16][up 16] pairs; h = act(gate) * up.
void glu(const float* c, int pairs, Act act, float* h) {
  for (int i = 0; i < pairs; ++i, c += 32) vf_store(h + i * 16, vf_mul(activate(vf_load(c), act), vf_load(c + 16)));
}

void axpy(float* out, const float* x, float w, int n) {
  const Vf s = vf_set1(w);
  for (int i = 0; i < n; i += 16) vf_store(out + i, vf_fma(vf_load(x + i), s, vf_load(out + i)));
}

float dot(const float* x, const float* y, int n) {
  Vf sum = vf_zero(), more = vf_zero();
  int i = 0;
  for (; i + 32 <= n; i += 32) {
    sum = vf_fma(vf_load(x + i), vf_load(y + i), sum);
    more = vf_fma(vf_load(x + i + 16), vf_load(y + i + 16), more);
  }
  for (; i < n; i += 16) sum = vf_fma(vf_load(x + i), vf_load(y + i), sum);
  return vf_hsum(vf_add(sum, more));
}

float scalar_load(const void* src, Dtype t, int i) {
  if (t == Dtype::f32) return static_cast<const float*>(src)[i];
  const uint16_t bits = static_cast<const uint16_t*>(src)[i];
  if (t == Dtype::f16) return _cvtsh_ss(bits);
  const uint32_t wide = uint32_t(bits) << 16;
  float x;
  __builtin_memcpy(&x, &wide, 4);
  return x;
}

KT_INLINE Vf load16(const void* src, Dtype t, int i) {
  if (t == Dtype::f32) return vf_load(static_cast<const float*>(src) + i);
  const uint16_t* h = static_cast<const uint16_t*>(src) + i;
  return t == Dtype::f16 ? vf_from_f16(h) : vf_from_bf16(h);
}

void load_row(const void* src, Dtype t, int n, int padded, float* dst) {
  int i = 0;
  for (; i + 16 <= n; i += 16) vf_store(dst + i, load16(src, t, i));
  for (; i < n; ++i) dst[i] = scalar_load(src, t, i);
  for (; i < padded; ++i) dst[i] = 0.0f;
}

KT_INLINE void store16(void* dst, Dtype t, int i, Vf x) {
  if (t == Dtype::f32) return vf_store(static_cast<float*>(dst) + i, x);
  uint16_t* h = static_cast<uint16_t*>(dst) + i;
  t == Dtype::f16 ? vf_to_f16(h, x) : vf_to_bf16(h, x);
}

void store_row(const float* src, Dtype t, int n, void* dst) {
  const int bytes = t == Dtype::f32 ? 4 : 2;
  int i = 0;
  for (; i + 16 <= n; i += 16) store16(dst, t, i, vf_load(src + i));
  if (i == n) return;
  float tail[16] = {};
  char out[64];
  __builtin_memcpy(tail, src + i, size_t(n - i) * 4);
  store16(out, t, 0, vf_load(tail));
  __builtin_memcpy(static_cast<char*>(dst) + i * bytes, out, size_t(n - i) * bytes);
}

// dst[i] = sum over rows of source[row][i]
void sum_rows(const SumArgs* s) {
  const int wide = s->n / 16 * 16;
  for (int i = 0; i < s->n; i += 16) {
    Vf sum = vf_zero();
    for (int r = 0; r < s->rows; ++r) sum = vf_add(sum, load16(s->source[r], s->from, i));
    if (i < wide) {
      store16(s->dst, s->to, i, sum);
      continue;
    }
    float tail[16];
    vf_store(tail, sum);
    const int bytes = s->to == Dtype::f32 ? 4 : 2;
    store_row(tail, s->to, s->n - i, static_cast<char*>(s->dst) + i * bytes);
  }
}

void put_f32(const PutArgs* q) {
  for (int i = 0; i < q->n; i += 16) vf_store(q->dst + (q->k0 + i) / 16 * q->tile_stride, vf_load(q->x + i));
}

void put_bf16(const PutArgs* q) {
  for (int i = 0; i < q->n; i += 16) {
    const int k = q->k0 + i;
    vf_to_bf16(q->dst + k / 32 * q->tile_stride + k % 32 * 2, vf_load(q->x + i));
  }
}

// A group with a value that is not finite: zeros with a scale of NaN, so that NaN is what every product gives.
void poison_group(const QuantArgs& q, int first) {
  for (int i = first; i < first + q.group; i += 16) {
    const int k = q.k0 + i;
    vi_to_bytes(q.dst + k / 64 * q.tile_stride + k % 64, vi_zero());
  }
  const int at = (q.k0 + first) / q.group * 16;
  q.scale[at] = __builtin_nanf("");
  q.sum[at] = 0;
}

// Where four products of 8 bits meet in 16 bits, their |x| are kept to kLaneMost in all: 258 * 127 just fits, and
// rounding adds 2 at most.
void quantise_group(const QuantArgs& q, int first) {
  Vf most = vf_zero();
  for (int i = first; i < first + q.group; i += 16) {
    const Vf x = vf_abs(vf_load(q.x + i));
    most = vf_wider(most, x);
    if constexpr (kLaneMost > 0) most = vf_wider(most, vf_mul(vf_fours(x), vf_set1(127.0f / (kLaneMost - 2))));
  }
  const float amax = vf_hwidest(most);
  if (!(amax <= __FLT_MAX__)) return poison_group(q, first);
  const Vf inv = vf_set1(amax > 1e-36f ? 127.0f / amax : 0.0f);  // below, the quotient would be infinite
  Vi sum = vi_zero();
  for (int i = first; i < first + q.group; i += 16) {
    const Vi v = vi_round(vf_mul(vf_load(q.x + i), inv));
    const int k = q.k0 + i;
    sum = vi_add(sum, v);
    vi_to_bytes(q.dst + k / 64 * q.tile_stride + k % 64, v);
  }
  const int at = (q.k0 + first) / q.group * 16;
  q.scale[at] = amax / 127.0f;
  q.sum[at] = vi_sum(sum);
}

void quantise(const QuantArgs* q) {
  for (int first = 0; first < q->n; first += q->group) quantise_group(*q, first);
}

}  // namespace
}  // namespace kt
