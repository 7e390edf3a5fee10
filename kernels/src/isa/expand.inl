// An int4 panel with group scales becomes an int8 panel with one scale a row, for the int8 tiles:
// group scales inside the tile loop would cost as much as the products.

namespace {

// The row's scale serves the group with the widest values.
void i4_row_scales(const char* src_scale, int groups, float* scale) {
  Vf most = vf_zero();
  for (int g = 0; g < groups; ++g) most = vf_max(most, vf_abs(vf_from_f16(src_scale + g * 32)));
  vf_store(scale, vf_mul(most, vf_set1(8.0f / 127.0f)));
}

// Each row's factor in both of its 16-bit lanes, in 5.11 fixed point.
__m512i factors(Vf ratio) {
  const __m512i f = vi_round(vf_mul(ratio, vf_set1(2048.0f)));
  return _mm512_or_si512(_mm512_slli_epi32(f, 16),
                         _mm512_and_si512(f, _mm512_set1_epi32(0xffff)));
}

// A signed nibble at the top of every 16-bit lane times the factor: 8.8 fixed point, rounded so that
// the high byte is the result.
KT_INLINE __m512i scaled(__m512i at_top, __m512i factor) {
  const __m512i nibble = _mm512_and_si512(at_top, _mm512_set1_epi16(short(0xf000)));
  return _mm512_add_epi16(_mm512_mulhrs_epi16(nibble, factor), _mm512_set1_epi16(128));
}

KT_INLINE void put_bytes(char* dst, __m512i even, __m512i odd) {
  const __mmask64 odd_bytes = 0xaaaaaaaaaaaaaaaaull;
  _mm512_store_si512(dst, _mm512_mask_blend_epi8(odd_bytes, _mm512_srli_epi16(even, 8), odd));
}

void i4_to_i8(const ExpandArgs* e) {
  constexpr int kAhead = 2048;
  const Vf scale = vf_load(e->scale);
  const Vf inv = vf_if_zero(scale, vf_zero(), vf_div(vf_set1(1.0f), scale));
  const __m512i sign = _mm512_set1_epi8(char(0x88));
  const char* src = e->src;
  char* dst = e->dst;
  for (int k = 0; k < e->k;) {
    const __m512i f = factors(vf_mul(vf_from_f16(e->src_scale + k / e->group * 32), inv));
    for (const int end = k + e->group; k < end; k += 8, src += 64, dst += 128) {
      _mm_prefetch(src + kAhead, _MM_HINT_T0);
      const __m512i v = _mm512_xor_si512(line_load(src), sign);
      put_bytes(dst, scaled(_mm512_slli_epi16(v, 12), f), scaled(_mm512_slli_epi16(v, 4), f));
      put_bytes(dst + 64, scaled(_mm512_slli_epi16(v, 8), f), scaled(v, f));
    }
  }
}

}  // namespace
