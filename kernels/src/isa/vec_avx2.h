// The vector vocabulary on AVX2: a Vf is the 16 rows of a panel, two registers.
#pragma once
#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#define KT_INLINE inline __attribute__((always_inline))

namespace {

struct Vf {
  __m256 a, b;
};
struct Vi {
  __m256i a, b;
};
constexpr bool kManyRegisters = false;
constexpr int kMaxRows = 6;  // 12 accumulators, 2 weights, 1 activation of 16 registers
constexpr int kMaxRowsInt = 4;
constexpr int kPanels = 1;  // panels a block of many rows keeps in registers
constexpr int kPanelsTwoRows = 2;
constexpr bool kUnpackOnce = true;  // packed panels become bytes once for many rows
constexpr int kLaneMost = 258;      // what |x| of the four k that two lines put into 16 bits add up to

KT_INLINE Vf vf_zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
KT_INLINE Vf vf_set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
KT_INLINE Vf vf_load(const void* p) {
  const float* f = static_cast<const float*>(p);
  return {_mm256_loadu_ps(f), _mm256_loadu_ps(f + 8)};
}
KT_INLINE void vf_store(void* p, Vf x) {
  float* f = static_cast<float*>(p);
  _mm256_storeu_ps(f, x.a);
  _mm256_storeu_ps(f + 8, x.b);
}
KT_INLINE Vf vf_add(Vf x, Vf y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
KT_INLINE Vf vf_sub(Vf x, Vf y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
KT_INLINE Vf vf_mul(Vf x, Vf y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
KT_INLINE Vf vf_div(Vf x, Vf y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
KT_INLINE Vf vf_fma(Vf x, Vf y, Vf z) { return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)}; }
KT_INLINE Vf vf_max(Vf x, Vf y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
KT_INLINE Vf vf_min(Vf x, Vf y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
KT_INLINE Vf vf_abs(Vf x) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_andnot_ps(sign, x.a), _mm256_andnot_ps(sign, x.b)};
}
KT_INLINE Vf vf_round(Vf x) { return {_mm256_round_ps(x.a, 0x08), _mm256_round_ps(x.b, 0x08)}; }
KT_INLINE Vf vf_if_less(Vf a, Vf b, Vf x, Vf y) {
  return {_mm256_blendv_ps(y.a, x.a, _mm256_cmp_ps(a.a, b.a, _CMP_LT_OQ)),
          _mm256_blendv_ps(y.b, x.b, _mm256_cmp_ps(a.b, b.b, _CMP_LT_OQ))};
}
KT_INLINE Vf vf_if_zero(Vf a, Vf x, Vf y) {
  const __m256 z = _mm256_setzero_ps();
  return {_mm256_blendv_ps(y.a, x.a, _mm256_cmp_ps(a.a, z, _CMP_EQ_OQ)),
          _mm256_blendv_ps(y.b, x.b, _mm256_cmp_ps(a.b, z, _CMP_EQ_OQ))};
}
KT_INLINE float vf_hmax(Vf x) {
  const __m256 m = _mm256_max_ps(x.a, x.b);
  __m128 r = _mm_max_ps(_mm256_castps256_ps128(m), _mm256_extractf128_ps(m, 1));
  r = _mm_max_ps(r, _mm_movehl_ps(r, r));
  return _mm_cvtss_f32(_mm_max_ss(r, _mm_movehdup_ps(r)));
}
// Magnitudes compare as their bits do, NaN above infinity: unlike vf_max and vf_hmax, these keep NaN.
KT_INLINE __m256 half_wider(__m256 x, __m256 y) {
  return _mm256_castsi256_ps(_mm256_max_epi32(_mm256_castps_si256(x), _mm256_castps_si256(y)));
}
KT_INLINE Vf vf_wider(Vf x, Vf y) { return {half_wider(x.a, y.a), half_wider(x.b, y.b)}; }
KT_INLINE float vf_hwidest(Vf x) {
  const __m256i m = _mm256_castps_si256(half_wider(x.a, x.b));
  __m128i r = _mm_max_epi32(_mm256_castsi256_si128(m), _mm256_extracti128_si256(m, 1));
  r = _mm_max_epi32(r, _mm_shuffle_epi32(r, 0x4e));
  r = _mm_max_epi32(r, _mm_shuffle_epi32(r, 0xb1));
  return _mm_cvtss_f32(_mm_castsi128_ps(r));
}
KT_INLINE __m256 half_fours(__m256 x) {
  const __m256 s = _mm256_add_ps(x, _mm256_permute2f128_ps(x, x, 1));
  return _mm256_add_ps(s, _mm256_permute_ps(s, 0xb1));
}
// Of each 8 values the sums of 0, 1, 4, 5 and of 2, 3, 6, 7: what two lines put into 16 bits.
KT_INLINE Vf vf_fours(Vf x) { return {half_fours(x.a), half_fours(x.b)}; }
KT_INLINE __m256 half_scale2(__m256 x, __m256 n) {
  const __m256i e = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
  return _mm256_mul_ps(x, _mm256_castsi256_ps(_mm256_slli_epi32(e, 23)));
}
KT_INLINE Vf vf_scale2(Vf x, Vf n) { return {half_scale2(x.a, n.a), half_scale2(x.b, n.b)}; }
KT_INLINE __m128i load128(const void* p, int i) { return _mm_loadu_si128(static_cast<const __m128i*>(p) + i); }
KT_INLINE Vf vf_from_f16(const void* p) { return {_mm256_cvtph_ps(load128(p, 0)), _mm256_cvtph_ps(load128(p, 1))}; }
KT_INLINE __m256 bits_as_float(__m128i bytes) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu8_epi32(bytes), 23));
}
KT_INLINE Vf vf_from_e8m0(const void* p) {  // 0 for the byte 0
  const __m128i v = load128(p, 0);
  return {bits_as_float(v), bits_as_float(_mm_srli_si128(v, 8))};
}
// f16 has the exponents of e4m3 moved by 8: this is 2^-8 of the value.
KT_INLINE Vf vf_from_e4m3(const void* p) {
  const __m256i v = _mm256_slli_epi16(_mm256_cvtepu8_epi16(load128(p, 0)), 7);
  return {_mm256_cvtph_ps(_mm256_castsi256_si128(v)), _mm256_cvtph_ps(_mm256_extracti128_si256(v, 1))};
}
KT_INLINE void vf_to_f16(void* p, Vf x) {
  _mm_storeu_si128(static_cast<__m128i*>(p), _mm256_cvtps_ph(x.a, 0));
  _mm_storeu_si128(static_cast<__m128i*>(p) + 1, _mm256_cvtps_ph(x.b, 0));
}
KT_INLINE __m256 half_from_bf16(__m128i h) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}
KT_INLINE Vf vf_from_bf16(const void* p) { return {half_from_bf16(load128(p, 0)), half_from_bf16(load128(p, 1))}; }
KT_INLINE __m256i half_to_bf16(__m256 x) {
  const __m256i u = _mm256_castps_si256(x);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
  const __m256i r = _mm256_srli_epi32(_mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  return _mm256_blendv_epi8(r, _mm256_set1_epi32(0x7fc0), nan);
}
KT_INLINE void vf_to_bf16(void* p, Vf x) {
  const __m256i v = _mm256_packus_epi32(half_to_bf16(x.a), half_to_bf16(x.b));
  _mm256_storeu_si256(static_cast<__m256i*>(p), _mm256_permute4x64_epi64(v, 0xd8));
}
KT_INLINE Vi vi_round(Vf x) { return {_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)}; }
KT_INLINE Vf vf_from_int(Vi x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
KT_INLINE Vi vi_zero() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
KT_INLINE Vi vi_add(Vi x, Vi y) { return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)}; }
KT_INLINE int vi_sum(Vi x) {
  const __m256i s = _mm256_add_epi32(x.a, x.b);
  __m128i r = _mm_add_epi32(_mm256_castsi256_si128(s), _mm256_extracti128_si256(s, 1));
  r = _mm_add_epi32(r, _mm_shuffle_epi32(r, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(r, _mm_shuffle_epi32(r, 0xb1)));
}
KT_INLINE void vi_to_bytes(void* p, Vi x) {
  const __m256i w = _mm256_permute4x64_epi64(_mm256_packs_epi32(x.a, x.b), 0xd8);
  const __m128i b = _mm_packs_epi16(_mm256_castsi256_si128(w), _mm256_extracti128_si256(w, 1));
  _mm_storeu_si128(static_cast<__m128i*>(p), b);
}
KT_INLINE Vi vi_or(Vi x, Vi y) { return {_mm256_or_si256(x.a, y.a), _mm256_or_si256(x.b, y.b)}; }
KT_INLINE void vi_store(void* p, Vi x) {
  _mm256_storeu_si256(static_cast<__m256i*>(p), x.a);
  _mm256_storeu_si256(static_cast<__m256i*>(p) + 1, x.b);
}
template <int At, int Bits>
KT_INLINE Vi vi_move(Vi x) {  // the lowest bits, moved up
  const __m256i mask = _mm256_set1_epi32((1 << Bits) - 1);
  return {_mm256_slli_epi32(_mm256_and_si256(x.a, mask), At), _mm256_slli_epi32(_mm256_and_si256(x.b, mask), At)};
}

// ---- words of 16 bits
KT_INLINE Vi words_set1(int x) { return {_mm256_set1_epi16(short(x)), _mm256_set1_epi16(short(x))}; }
KT_INLINE Vi words_min(Vi x, Vi y) { return {_mm256_min_epi16(x.a, y.a), _mm256_min_epi16(x.b, y.b)}; }
KT_INLINE Vi words_max(Vi x, Vi y) { return {_mm256_max_epi16(x.a, y.a), _mm256_max_epi16(x.b, y.b)}; }
KT_INLINE Vi words_scaled(Vi x, Vi y) {  // round(x * y / 2^15)
  return {_mm256_mulhrs_epi16(x.a, y.a), _mm256_mulhrs_epi16(x.b, y.b)};
}
KT_INLINE Vi words_dot(Vi sum, Vi x, Vi y) {  // of the two in each 32 bits
  return {_mm256_add_epi32(sum.a, _mm256_madd_epi16(x.a, y.a)), _mm256_add_epi32(sum.b, _mm256_madd_epi16(x.b, y.b))};
}

// ---- bf16 lines: 16 rows x 2 k, multiplied in f32
constexpr bool kBf16Acts = false;
constexpr int kHalves = 2;
KT_INLINE __m256 half_line(const char* p, int half) {
  const __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return _mm256_castsi256_ps(half ? _mm256_and_si256(v, _mm256_set1_epi32(0xffff0000)) : _mm256_slli_epi32(v, 16));
}
KT_INLINE Vf bf16_half(const char* line, int half) { return {half_line(line, half), half_line(line + 32, half)}; }
KT_INLINE __m256 bf16_bcast(const char* x, int half) {
  return _mm256_broadcast_ss(reinterpret_cast<const float*>(x) + half);
}
KT_INLINE Vf bf16_dot(Vf acc, Vf w, __m256 x) {
  return {_mm256_fmadd_ps(w.a, x, acc.a), _mm256_fmadd_ps(w.b, x, acc.b)};
}

// ---- int8 and int4 lines: 16 rows x 4 k
struct Line {
  __m256i a, b;
};
KT_INLINE Line line_load(const char* p) {
  const __m256i* v = reinterpret_cast<const __m256i*>(p);
  return {_mm256_loadu_si256(v), _mm256_loadu_si256(v + 1)};
}
KT_INLINE void line_store(char* p, Line v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v.a);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p) + 1, v.b);
}
KT_INLINE Line line_abs(Line v) { return {_mm256_abs_epi8(v.a), _mm256_abs_epi8(v.b)}; }
KT_INLINE Line line_low(Line v) {
  const __m256i m = _mm256_set1_epi8(15);
  return {_mm256_and_si256(v.a, m), _mm256_and_si256(v.b, m)};
}
KT_INLINE Line line_high(Line v) { return line_low({_mm256_srli_epi16(v.a, 4), _mm256_srli_epi16(v.b, 4)}); }
KT_INLINE Line line_of(Line v, const signed char (&table)[16]) {  // v: indices 0..15
  const __m256i t = _mm256_broadcastsi128_si256(load128(table, 0));
  return {_mm256_shuffle_epi8(t, v.a), _mm256_shuffle_epi8(t, v.b)};
}
KT_INLINE Line line_less(Line v, int n) {
  const __m256i all = _mm256_set1_epi8(char(n));
  return {_mm256_sub_epi8(v.a, all), _mm256_sub_epi8(v.b, all)};
}
KT_INLINE Line line_twice(Line v) { return {_mm256_add_epi8(v.a, v.a), _mm256_add_epi8(v.b, v.b)}; }
// Bits 4 and 5 of bytes below 16, from the I-th pairs of bits of `pairs`.
template <int I>
KT_INLINE __m256i half_with_pair(__m256i v, __m256i pairs) {
  const __m256i at4 = I < 2 ? _mm256_slli_epi16(pairs, 4 - 2 * I) : _mm256_srli_epi16(pairs, 2 * I - 4);
  return _mm256_or_si256(v, _mm256_and_si256(at4, _mm256_set1_epi8(0x30)));
}
template <int I>
KT_INLINE Line line_with_pair(Line v, Line pairs) {
  return {half_with_pair<I>(v.a, pairs.a), half_with_pair<I>(v.b, pairs.b)};
}
KT_INLINE Vi line_as_int(Line v) { return {v.a, v.b}; }
KT_INLINE __m256i bcast4(const char* x) { return _mm256_set1_epi32(*reinterpret_cast<const int*>(x)); }

// ---- between lines of bytes and bf16, and from rows to columns
template <int J>
KT_INLINE __m256 half_byte_as_float(__m256i v) {
  return _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(v, 24 - 8 * J), 24));
}
template <int J>
KT_INLINE Vf byte_as_float(Line v) {
  return {half_byte_as_float<J>(v.a), half_byte_as_float<J>(v.b)};
}
KT_INLINE __m256i round_to_bf16(__m256 x) {
  const __m256i u = _mm256_castps_si256(x);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
  return _mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
}
KT_INLINE void put_half_line(char* dst, __m256 even, __m256 odd) {
  const __m256i high = _mm256_and_si256(round_to_bf16(odd), _mm256_set1_epi32(0xffff0000));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(dst),
                      _mm256_or_si256(_mm256_srli_epi32(round_to_bf16(even), 16), high));
}
KT_INLINE void put_bf16_line(char* dst, Vf even, Vf odd) {
  put_half_line(dst, even.a, odd.a);
  put_half_line(dst + 32, even.b, odd.b);
}
// Eight words of eight rows.
KT_INLINE void turn_eight(const char* rows, size_t stride, char* dst) {
  __m256i v[8], u[8];
  for (int r = 0; r < 8; ++r) v[r] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(rows + size_t(r) * stride));
  for (int r = 0; r < 8; r += 2) {
    u[r] = _mm256_unpacklo_epi32(v[r], v[r + 1]);
    u[r + 1] = _mm256_unpackhi_epi32(v[r], v[r + 1]);
  }
  for (int r = 0; r < 8; r += 4)  // v[r + j]: words j and j + 4 of four rows
    for (int j = 0; j < 2; ++j) {
      v[r + 2 * j] = _mm256_unpacklo_epi64(u[r + j], u[r + 2 + j]);
      v[r + 2 * j + 1] = _mm256_unpackhi_epi64(u[r + j], u[r + 2 + j]);
    }
  for (int j = 0; j < 4; ++j) {
    __m256i* at = reinterpret_cast<__m256i*>(dst + j * 64);
    _mm256_storeu_si256(at, _mm256_permute2x128_si256(v[j], v[j + 4], 0x20));
    _mm256_storeu_si256(at + 8, _mm256_permute2x128_si256(v[j], v[j + 4], 0x31));
  }
}
// 16 rows of 64 bytes become 16 lines: line j holds word j of every row.
KT_INLINE void turn_words(const char* rows, size_t stride, char* dst) {
  for (size_t r = 0; r < 2; ++r)
    for (size_t k = 0; k < 2; ++k) turn_eight(rows + r * 8 * stride + k * 32, stride, dst + k * 512 + r * 32);
}
// Eight lines of 16 rows x 2 k become eight lines of 16 k x 2 rows, in four squares.
KT_INLINE void turn_square(const char* src, char* dst) {
  __m256i v[4];
  for (int j = 0; j < 4; ++j) {
    const __m256i line = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(src + j * 64));
    v[j] = _mm256_shufflehi_epi16(_mm256_shufflelo_epi16(line, 0xd8), 0xd8);
  }
  const __m256i a = _mm256_unpacklo_epi64(v[0], v[1]), b = _mm256_unpacklo_epi64(v[2], v[3]);
  const __m256i c = _mm256_unpackhi_epi64(v[0], v[1]), d = _mm256_unpackhi_epi64(v[2], v[3]);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(dst), _mm256_permute2x128_si256(a, b, 0x20));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(dst + 64), _mm256_permute2x128_si256(c, d, 0x20));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(dst + 128), _mm256_permute2x128_si256(a, b, 0x31));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(dst + 192), _mm256_permute2x128_si256(c, d, 0x31));
}
KT_INLINE void turn_lines(const char* src, char* dst) {
  for (int h = 0; h < 2; ++h)
    for (int g = 0; g < 2; ++g) turn_square(src + g * 256 + h * 32, dst + h * 256 + g * 32);
}

// Changed for all the compiler knows, so that it neither merges nor moves what was computed.
template <class T>
KT_INLINE void opaque(T& x) {
  __asm__ volatile("" : "+x"(x.a), "+x"(x.b));
}

struct DotU8 {  // unsigned weights, at most 127: the most that this CPU does with bytes
  using Acc = Vi;
  static KT_INLINE Acc zero() { return vi_zero(); }
  static KT_INLINE __m256i one(__m256i acc, __m256i w, __m256i x) {
    return _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(w, x), _mm256_set1_epi16(1)));
  }
  static KT_INLINE Acc line(Acc s, Line w, __m256i x) { return {one(s.a, w.a, x), one(s.b, w.b, x)}; }
};

// |x| * (w with x's sign): both within 127, so vpmaddubsw cannot saturate. Two lines are added in 16 bits.
struct DotS8 {
  static constexpr int kDepth = 1 << 16;
  static constexpr bool kAbs = true;
  using Acc = Vi;
  struct X {
    __m256i v[2], abs[2];
  };
  static KT_INLINE X x(const char* p) {
    const __m256i v[2] = {bcast4(p), bcast4(p + 4)};
    return {{v[0], v[1]}, {_mm256_abs_epi8(v[0]), _mm256_abs_epi8(v[1])}};
  }
  static KT_INLINE X x(const char* p, const char* abs) {
    return {{bcast4(p), bcast4(p + 4)}, {bcast4(abs), bcast4(abs + 4)}};
  }
  static KT_INLINE Line w(Line v) { return v; }
  static KT_INLINE Acc init(int) { return vi_zero(); }
  static KT_INLINE __m256i one(__m256i acc, __m256i w0, __m256i w1, const X& x) {
    const __m256i p = _mm256_maddubs_epi16(x.abs[0], _mm256_sign_epi8(w0, x.v[0]));
    const __m256i q = _mm256_maddubs_epi16(x.abs[1], _mm256_sign_epi8(w1, x.v[1]));
    return _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_add_epi16(p, q), _mm256_set1_epi16(1)));
  }
  static KT_INLINE Acc dot(Acc s, const Line (&w)[2], const X& x) {
    s = {one(s.a, w[0].a, w[1].a, x), one(s.b, w[0].b, w[1].b, x)};
    opaque(s);  // else the compiler takes up the next lines first and runs out of registers
    return s;
  }
  static KT_INLINE Vi done(Acc s) { return s; }
};

// Weights 0..Most that stand for values less by Offset, summed in 16 bits. Each of the two 16-bit lanes of a
// row starts with its share of the offset; what passes 16 bits on the way wraps and comes back.
template <int Offset, int Most>
struct DotU {
  static constexpr int kDepth = 32767 / (Most * kLaneMost) * 8;  // k until they could overflow
  static constexpr bool kAbs = false;
  using Acc = Vi;
  struct X {
    __m256i v[2];
  };
  static KT_INLINE Acc zero() { return vi_zero(); }
  static KT_INLINE X x(const char* p) { return {{bcast4(p), bcast4(p + 4)}}; }
  static KT_INLINE Line w(Line v) { return v; }
  static KT_INLINE Acc init(int sum) {
    static_assert(Offset % 2 == 0);
    const __m256i share = _mm256_set1_epi16(short(-Offset / 2 * sum));
    return {share, share};
  }
  static KT_INLINE Acc line(Acc s, Line w, __m256i x) {
    s = {_mm256_add_epi16(s.a, _mm256_maddubs_epi16(w.a, x)), _mm256_add_epi16(s.b, _mm256_maddubs_epi16(w.b, x))};
    opaque(s);
    return s;
  }
  static KT_INLINE Acc dot(Acc s, const Line (&w)[2], const X& x) { return line(line(s, w[0], x.v[0]), w[1], x.v[1]); }
  static KT_INLINE Vi done(Acc s) {
    const __m256i ones = _mm256_set1_epi16(1);
    return {_mm256_madd_epi16(s.a, ones), _mm256_madd_epi16(s.b, ones)};
  }
};

}  // namespace
