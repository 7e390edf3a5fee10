// A panel with scales in groups becomes an int8 panel with one scale a row, for the int8 tiles: group
// scales inside the tile loop would cost as much as the products.
#pragma once
#include "packed.inl"

namespace kt {
namespace {

// Values times kFactor reach 128 at most, and 127 once the row's scale is taken off.
template <class W>
constexpr float kReach = 128.0f / (127.0f * W::Codes::kFactor);

// The middle of a group with a minimum is the 0 of what `wide` gives.
template <class W>
KT_INLINE Vf middle(const char* at) {
  return vf_fma(W::scale(at), vf_set1(float(W::Codes::kMiddle)), W::minimum(at));
}

// The row's scale serves the group with the widest values.
template <class W>
void row_scales(const char* src_scale, int k, int group, float* scale) {
  Vf most = vf_zero();
  for (int i = 0; i < k; i += group) {
    const char* at = W::at(src_scale, i, group);
    const Vf s = W::scale(at);
    most = vf_max(most, vf_mul(vf_abs(s), vf_set1(kReach<W>)));
    if constexpr (W::kMinimum) {
      const Vf low = W::minimum(at), high = vf_fma(s, vf_set1(float(W::Codes::kTop)), low);
      most = vf_max(most, vf_mul(vf_max(vf_abs(low), vf_abs(high)), vf_set1(1.0f / 127.0f)));
    }
  }
  vf_store(scale, vf_mul(most, W::row(src_scale)));
}

// Each row's number in both of its 16-bit lanes.
KT_INLINE __m512i in_both(Vf x) {
  const __m512i v = vi_round(x);
  return _mm512_or_si512(_mm512_slli_epi32(v, 16), _mm512_and_si512(v, _mm512_set1_epi32(0xffff)));
}

// Bytes times the factor, plus an offset, in 8.8 fixed point; the high bytes are the result.
KT_INLINE void put_scaled(char* dst, __m512i bytes, __m512i factor, __m512i offset) {
  const __mmask64 odd_bytes = 0xaaaaaaaaaaaaaaaaull;
  const __m512i high = _mm512_and_si512(bytes, _mm512_set1_epi16(short(0xff00)));
  const __m512i even = _mm512_adds_epi16(_mm512_mulhrs_epi16(_mm512_slli_epi16(bytes, 8), factor), offset);
  const __m512i odd = _mm512_adds_epi16(_mm512_mulhrs_epi16(high, factor), offset);
  _mm512_store_si512(dst, _mm512_mask_blend_epi8(odd_bytes, _mm512_srli_epi16(even, 8), odd));
}

template <class W>
void expand(const ExpandArgs* e) {
  using Codes = typename W::Codes;
  constexpr int kAhead = 2048, kTogether = Codes::kTogether, kBytes = kTogether * 2 * Codes::kBits;
  const Vf scale = vf_load(e->scale);
  const Vf inv = vf_mul(vf_if_zero(scale, vf_zero(), vf_div(vf_set1(1.0f), scale)), W::row(e->src_scale));
  const char* src = e->src;
  char* dst = e->dst;
  for (int k = 0; k < e->k;) {
    const char* at = W::at(e->src_scale, e->k0 + k, e->group);
    const __m512i f = in_both(vf_mul(vf_mul(W::scale(at), inv), vf_set1(32768.0f / Codes::kFactor)));
    __m512i offset = _mm512_set1_epi16(128);
    if constexpr (W::kMinimum)
      offset = _mm512_add_epi16(in_both(vf_mul(vf_mul(middle<W>(at), inv), vf_set1(256.0f))), offset);
    for (const int end = k + e->group; k < end; k += kTogether, src += kBytes, dst += 16 * kTogether) {
      unroll<kBytes / 64>(KT_EACH(i) { _mm_prefetch(src + kAhead + i * 64, _MM_HINT_T0); });
      unroll<kTogether / 4>(
          KT_EACH(i) { put_scaled(dst + i * 64, Codes::wide(Codes::template code<i>(src)), f, offset); });
    }
  }
}

}  // namespace
}  // namespace kt
