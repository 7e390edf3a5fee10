// An int4 panel with group scales becomes an int8 panel with one scale a row, for the int8 tiles:
// group scales inside the tile loop would cost as much as the products.

namespace {

// 16 rows' factors, each four times over: rows 0..7 and rows 8..15, in 4.11 fixed point.
struct Factors { __m512i low, high; };

Factors factors(Vf ratio) {
  const __m512i f = vi_round(vf_mul(ratio, vf_set1(2048.0f)));
  const __m512i h = _mm512_castsi256_si512(_mm512_cvtepi32_epi16(f));
  const __m512i by4 = _mm512_set_epi16(7, 7, 7, 7, 6, 6, 6, 6, 5, 5, 5, 5, 4, 4, 4, 4,
                                       3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0);
  return {_mm512_permutexvar_epi16(by4, h),
          _mm512_permutexvar_epi16(_mm512_add_epi16(by4, _mm512_set1_epi16(8)), h)};
}

__m256i scaled(__m256i q, __m512i factor) {  // (q - 8) * 16 * factor / 2^15
  const __m512i wide = _mm512_sub_epi16(_mm512_cvtepi8_epi16(q), _mm512_set1_epi16(8));
  return _mm512_cvtepi16_epi8(_mm512_mulhrs_epi16(_mm512_slli_epi16(wide, 4), factor));
}

void expand_line(__m512i q, Factors f, char* dst) {
  __m256i* out = reinterpret_cast<__m256i*>(dst);
  _mm256_storeu_si256(out, scaled(_mm512_castsi512_si256(q), f.low));
  _mm256_storeu_si256(out + 1, scaled(_mm512_extracti64x4_epi64(q, 1), f.high));
}

void i4_to_i8(const PackArgs* p, const char* src, const char* src_scale) {
  const int groups = p->k / p->group;
  Vf most = vf_zero();
  for (int g = 0; g < groups; ++g) most = vf_max(most, vf_abs(vf_from_f16(src_scale + g * 32)));
  const Vf scale = vf_mul(most, vf_set1(8.0f / 127.0f));
  vf_store(p->scale, scale);
  const Vf inv = vf_if_zero(scale, vf_zero(), vf_div(vf_set1(1.0f), scale));
  char* dst = p->dst;
  for (int g = 0; g < groups; ++g) {
    const Factors f = factors(vf_mul(vf_from_f16(src_scale + g * 32), inv));
    for (int k = 0; k < p->group; k += 8, src += 64, dst += 128) {
      const __m512i line = line_load(src);
      expand_line(line_low(line), f, dst);
      expand_line(line_high(line), f, dst + 64);
    }
  }
}

}  // namespace
