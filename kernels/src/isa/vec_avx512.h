// The vector vocabulary on AVX-512: a Vf is the 16 rows of a panel.
#pragma once
#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#if defined(__AVX512VNNI__) || defined(KT_SHIM_VNNI)
#define KT_VNNI
#endif
#if defined(__AVX512BF16__) || defined(KT_SHIM_BF16)
#define KT_BF16
#endif
#ifndef KT_ANYWHERE
#define KT_ANYWHERE "+v"
#endif

#define KT_INLINE inline __attribute__((always_inline))

namespace {

using Vf = __m512;
using Vi = __m512i;
constexpr bool kManyRegisters = true;
constexpr int kMaxRows = 8;  // rows a block keeps in registers
constexpr int kMaxRowsInt = 6;
constexpr int kPanels = 2;  // panels a block of many rows keeps in registers
constexpr int kPanelsTwoRows = 4;
constexpr bool kUnpackOnce = false;  // shuffling costs less than reading what was unpacked

KT_INLINE Vf vf_zero() { return _mm512_setzero_ps(); }
KT_INLINE Vf vf_set1(float x) { return _mm512_set1_ps(x); }
KT_INLINE Vf vf_load(const void* p) { return _mm512_loadu_ps(p); }
KT_INLINE void vf_store(void* p, Vf x) { _mm512_storeu_ps(p, x); }
KT_INLINE Vf vf_add(Vf a, Vf b) { return _mm512_add_ps(a, b); }
KT_INLINE Vf vf_sub(Vf a, Vf b) { return _mm512_sub_ps(a, b); }
KT_INLINE Vf vf_mul(Vf a, Vf b) { return _mm512_mul_ps(a, b); }
KT_INLINE Vf vf_div(Vf a, Vf b) { return _mm512_div_ps(a, b); }
KT_INLINE Vf vf_fma(Vf a, Vf b, Vf c) { return _mm512_fmadd_ps(a, b, c); }
KT_INLINE Vf vf_max(Vf a, Vf b) { return _mm512_max_ps(a, b); }
KT_INLINE Vf vf_min(Vf a, Vf b) { return _mm512_min_ps(a, b); }
KT_INLINE Vf vf_abs(Vf a) { return _mm512_abs_ps(a); }
KT_INLINE Vf vf_round(Vf a) { return _mm512_roundscale_ps(a, 0x08); }
KT_INLINE Vf vf_if_less(Vf a, Vf b, Vf x, Vf y) {
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), y, x);
}
KT_INLINE Vf vf_if_zero(Vf a, Vf x, Vf y) {
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, vf_zero(), _CMP_EQ_OQ), y, x);
}
KT_INLINE float vf_hmax(Vf a) { return _mm512_reduce_max_ps(a); }
// Magnitudes compare as their bits do, NaN above infinity: unlike vf_max and vf_hmax, these keep NaN.
KT_INLINE Vf vf_wider(Vf a, Vf b) {
  return _mm512_castsi512_ps(_mm512_max_epi32(_mm512_castps_si512(a), _mm512_castps_si512(b)));
}
KT_INLINE float vf_hwidest(Vf a) {
  return _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128(_mm512_reduce_max_epi32(_mm512_castps_si512(a)))));
}
// Of each 8 values the sums of 0, 1, 4, 5 and of 2, 3, 6, 7: what two lines put into 16 bits.
KT_INLINE Vf vf_fours(Vf x) {
  const Vf s = _mm512_add_ps(x, _mm512_shuffle_f32x4(x, x, 0xb1));
  return _mm512_add_ps(s, _mm512_permute_ps(s, 0xb1));
}
KT_INLINE Vf vf_scale2(Vf x, Vf n) { return _mm512_scalef_ps(x, n); }
KT_INLINE Vf vf_from_f16(const void* p) { return _mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(p))); }
KT_INLINE Vf vf_from_e8m0(const void* p) {  // 0 for the byte 0
  const __m512i v = _mm512_cvtepu8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p)));
  return _mm512_castsi512_ps(_mm512_slli_epi32(v, 23));
}
// f16 has the exponents of e4m3 moved by 8: this is 2^-8 of the value.
KT_INLINE Vf vf_from_e4m3(const void* p) {
  const __m256i v = _mm256_cvtepu8_epi16(_mm_loadu_si128(static_cast<const __m128i*>(p)));
  return _mm512_cvtph_ps(_mm256_slli_epi16(v, 7));
}
KT_INLINE void vf_to_f16(void* p, Vf x) { _mm256_storeu_si256(static_cast<__m256i*>(p), _mm512_cvtps_ph(x, 0)); }
KT_INLINE Vf vf_from_bf16(const void* p) {
  const __m256i h = _mm256_loadu_si256(static_cast<const __m256i*>(p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}
KT_INLINE void vf_to_bf16(void* p, Vf x) {
  const __m512i u = _mm512_castps_si512(x);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
  const __m512i r = _mm512_srli_epi32(_mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
  const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  const __m512i fixed = _mm512_mask_set1_epi32(r, nan, 0x7fc0);
  _mm256_storeu_si256(static_cast<__m256i*>(p), _mm512_cvtepi32_epi16(fixed));
}
KT_INLINE Vi vi_round(Vf x) { return _mm512_cvtps_epi32(x); }
KT_INLINE Vf vf_from_int(Vi x) { return _mm512_cvtepi32_ps(x); }
KT_INLINE Vi vi_zero() { return _mm512_setzero_si512(); }
KT_INLINE Vi vi_add(Vi a, Vi b) { return _mm512_add_epi32(a, b); }
KT_INLINE int vi_sum(Vi a) { return _mm512_reduce_add_epi32(a); }
KT_INLINE void vi_to_bytes(void* p, Vi x) { _mm_storeu_si128(static_cast<__m128i*>(p), _mm512_cvtsepi32_epi8(x)); }
KT_INLINE Vi vi_or(Vi a, Vi b) { return _mm512_or_si512(a, b); }
KT_INLINE void vi_store(void* p, Vi x) { _mm512_storeu_si512(p, x); }
template <int At, int Bits>
KT_INLINE Vi vi_move(Vi x) {  // the lowest bits, moved up
  return _mm512_slli_epi32(_mm512_and_si512(x, _mm512_set1_epi32((1 << Bits) - 1)), At);
}

// ---- words of 16 bits
KT_INLINE Vi words_set1(int x) { return _mm512_set1_epi16(short(x)); }
KT_INLINE Vi words_min(Vi a, Vi b) { return _mm512_min_epi16(a, b); }
KT_INLINE Vi words_max(Vi a, Vi b) { return _mm512_max_epi16(a, b); }
KT_INLINE Vi words_scaled(Vi a, Vi b) { return _mm512_mulhrs_epi16(a, b); }  // round(a * b / 2^15)
KT_INLINE Vi words_dot(Vi sum, Vi a, Vi b) {                                 // of the two in each 32 bits
#ifdef KT_VNNI
  return _mm512_dpwssd_epi32(sum, a, b);
#else
  return _mm512_add_epi32(sum, _mm512_madd_epi16(a, b));
#endif
}

// ---- bf16 lines: 16 rows x 2 k
#ifdef KT_BF16
constexpr bool kBf16Acts = true;
constexpr int kHalves = 1;
KT_INLINE Vf bf16_half(const char* line, int) { return _mm512_loadu_ps(line); }
KT_INLINE Vf bf16_bcast(const char* x, int) {
  return _mm512_castsi512_ps(_mm512_set1_epi32(*reinterpret_cast<const int*>(x)));
}
KT_INLINE Vf bf16_dot(Vf acc, Vf w, Vf x) {
  return _mm512_dpbf16_ps(acc, reinterpret_cast<__m512bh>(w), reinterpret_cast<__m512bh>(x));
}
#else
constexpr bool kBf16Acts = false;
constexpr int kHalves = 2;
KT_INLINE Vf bf16_half(const char* line, int half) {
  const __m512i v = _mm512_loadu_si512(line);
  return _mm512_castsi512_ps(half ? _mm512_and_si512(v, _mm512_set1_epi32(0xffff0000)) : _mm512_slli_epi32(v, 16));
}
KT_INLINE Vf bf16_bcast(const char* x, int half) { return _mm512_set1_ps(reinterpret_cast<const float*>(x)[half]); }
KT_INLINE Vf bf16_dot(Vf acc, Vf w, Vf x) { return _mm512_fmadd_ps(w, x, acc); }
#endif

// ---- int8 and int4 lines: 16 rows x 4 k
using Line = __m512i;
KT_INLINE Line line_load(const char* p) { return _mm512_loadu_si512(p); }
KT_INLINE void line_store(char* p, Line v) { _mm512_storeu_si512(p, v); }
KT_INLINE Line line_abs(Line v) { return _mm512_abs_epi8(v); }
KT_INLINE Line line_low(Line v) { return _mm512_and_si512(v, _mm512_set1_epi8(15)); }
KT_INLINE Line line_high(Line v) { return _mm512_and_si512(_mm512_srli_epi16(v, 4), _mm512_set1_epi8(15)); }
KT_INLINE Line line_of(Line v, const signed char (&table)[16]) {  // v: indices 0..15
  const __m128i t = _mm_loadu_si128(reinterpret_cast<const __m128i*>(table));
  return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(t), v);
}
KT_INLINE Line line_less(Line v, int n) { return _mm512_sub_epi8(v, _mm512_set1_epi8(char(n))); }
KT_INLINE Line line_twice(Line v) { return _mm512_add_epi8(v, v); }
// Bits 4 and 5 of bytes below 16, from the I-th pairs of bits of `pairs`.
template <int I>
KT_INLINE Line line_with_pair(Line v, Line pairs) {
  const __m512i at4 = I < 2 ? _mm512_slli_epi16(pairs, 4 - 2 * I) : _mm512_srli_epi16(pairs, 2 * I - 4);
  return _mm512_ternarylogic_epi32(v, at4, _mm512_set1_epi8(0x30), 0xf8);  // v | (at4 & 0x30)
}
KT_INLINE Vi line_as_int(Line v) { return v; }
KT_INLINE __m512i bcast4(const char* x) { return _mm512_set1_epi32(*reinterpret_cast<const int*>(x)); }

// ---- between lines of bytes and bf16, and from rows to columns
template <int J>
KT_INLINE Vf byte_as_float(Line v) {
  return _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(v, 24 - 8 * J), 24));
}
KT_INLINE __m512i round_to_bf16(Vf x) {
  const __m512i u = _mm512_castps_si512(x);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
  return _mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
}
KT_INLINE void put_bf16_line(char* dst, Vf even, Vf odd) {
  const __m512i high = _mm512_and_si512(round_to_bf16(odd), _mm512_set1_epi32(0xffff0000));
  _mm512_storeu_si512(dst, _mm512_or_si512(_mm512_srli_epi32(round_to_bf16(even), 16), high));
}
// 16 rows of 64 bytes become 16 lines: line j holds word j of every row.
KT_INLINE void turn_words(const char* rows, size_t stride, char* dst) {
  __m512i v[16], u[16];
  for (int r = 0; r < 16; ++r) v[r] = _mm512_loadu_si512(rows + size_t(r) * stride);
  for (int r = 0; r < 16; r += 2) {
    u[r] = _mm512_unpacklo_epi32(v[r], v[r + 1]);
    u[r + 1] = _mm512_unpackhi_epi32(v[r], v[r + 1]);
  }
  for (int r = 0; r < 16; r += 4)  // v[r + j]: words j, j + 4, j + 8, j + 12 of four rows
    for (int j = 0; j < 2; ++j) {
      v[r + 2 * j] = _mm512_unpacklo_epi64(u[r + j], u[r + 2 + j]);
      v[r + 2 * j + 1] = _mm512_unpackhi_epi64(u[r + j], u[r + 2 + j]);
    }
  for (int j = 0; j < 4; ++j) {
    const __m512i a = _mm512_shuffle_i32x4(v[j], v[j + 4], 0x88), b = _mm512_shuffle_i32x4(v[j + 8], v[j + 12], 0x88);
    const __m512i c = _mm512_shuffle_i32x4(v[j], v[j + 4], 0xdd), d = _mm512_shuffle_i32x4(v[j + 8], v[j + 12], 0xdd);
    _mm512_storeu_si512(dst + j * 64, _mm512_shuffle_i32x4(a, b, 0x88));
    _mm512_storeu_si512(dst + (j + 4) * 64, _mm512_shuffle_i32x4(c, d, 0x88));
    _mm512_storeu_si512(dst + (j + 8) * 64, _mm512_shuffle_i32x4(a, b, 0xdd));
    _mm512_storeu_si512(dst + (j + 12) * 64, _mm512_shuffle_i32x4(c, d, 0xdd));
  }
}
// Eight lines of 16 rows x 2 k become eight lines of 16 k x 2 rows.
KT_INLINE void turn_lines(const char* src, char* dst) {
  __m512i low[4], high[4];
  for (int j = 0; j < 4; ++j) {
    __m512i v[2];
    for (int i = 0; i < 2; ++i) {
      const __m512i line = _mm512_loadu_si512(src + (2 * j + i) * 64);
      v[i] = _mm512_shufflehi_epi16(_mm512_shufflelo_epi16(line, 0xd8), 0xd8);
    }
    low[j] = _mm512_unpacklo_epi64(v[0], v[1]);
    high[j] = _mm512_unpackhi_epi64(v[0], v[1]);
  }
  for (int odd = 0; odd < 2; ++odd) {
    const __m512i* u = odd ? high : low;
    const __m512i a = _mm512_shuffle_i64x2(u[0], u[1], 0x88), b = _mm512_shuffle_i64x2(u[2], u[3], 0x88);
    const __m512i c = _mm512_shuffle_i64x2(u[0], u[1], 0xdd), d = _mm512_shuffle_i64x2(u[2], u[3], 0xdd);
    char* at = dst + odd * 64;
    _mm512_storeu_si512(at, _mm512_shuffle_i64x2(a, b, 0x88));
    _mm512_storeu_si512(at + 128, _mm512_shuffle_i64x2(c, d, 0x88));
    _mm512_storeu_si512(at + 256, _mm512_shuffle_i64x2(a, b, 0xdd));
    _mm512_storeu_si512(at + 384, _mm512_shuffle_i64x2(c, d, 0xdd));
  }
}

// Changed for all the compiler knows, so that it neither merges nor moves what was computed.
template <class T>
KT_INLINE void opaque(T& x) {
  __asm__ volatile("" : KT_ANYWHERE(x));
}

struct DotU8 {  // unsigned weights, at most 127: the most that this CPU does with bytes
  using Acc = __m512i;
  static KT_INLINE Acc zero() { return vi_zero(); }
  static KT_INLINE Acc line(Acc a, Line w, __m512i x) {
#ifdef KT_VNNI
    return _mm512_dpbusd_epi32(a, w, x);
#else
    return _mm512_add_epi32(a, _mm512_madd_epi16(_mm512_maddubs_epi16(w, x), _mm512_set1_epi16(1)));
#endif
  }
};

#ifdef KT_VNNI
constexpr int kLaneMost = 0;  // no sums in 16 bits
// Weights 0..Most that stand for values less by Offset: the activations' sum takes the offset off.
template <int Offset, int Most>
struct DotU {
  static constexpr int kDepth = 1 << 16;
  static constexpr bool kAbs = false;
  using Acc = __m512i;
  struct X {
    __m512i v[2];
  };
  static KT_INLINE Acc zero() { return vi_zero(); }
  static KT_INLINE X x(const char* p) { return {{bcast4(p), bcast4(p + 4)}}; }
  static KT_INLINE Line w(Line v) { return v; }
  static KT_INLINE Acc init(int sum) { return _mm512_set1_epi32(-Offset * sum); }
  static KT_INLINE Acc line(Acc a, Line w, __m512i x) { return _mm512_dpbusd_epi32(a, w, x); }
  static KT_INLINE Acc dot(Acc a, const Line (&w)[2], const X& x) { return line(line(a, w[0], x.v[0]), w[1], x.v[1]); }
  static KT_INLINE Vi done(Acc a) { return a; }
};
struct DotS8 : DotU<128, 255> {  // weights moved to unsigned
  static KT_INLINE Line w(Line v) { return _mm512_xor_si512(v, _mm512_set1_epi8(-128)); }
};
#else
constexpr int kLaneMost = 258;  // what |x| of the four k that two lines put into 16 bits add up to
// |x| * (w with x's sign): both within 127, so vpmaddubsw cannot saturate. Two lines are added in 16 bits.
struct DotS8 {
  static constexpr int kDepth = 1 << 16;
  static constexpr bool kAbs = false;
  using Acc = __m512i;
  struct X {
    __m512i abs[2];
    __mmask64 neg[2];
  };
  static KT_INLINE X x(const char* p) {
    const __m512i v = bcast4(p), u = bcast4(p + 4);
    return {{_mm512_abs_epi8(v), _mm512_abs_epi8(u)}, {_mm512_movepi8_mask(v), _mm512_movepi8_mask(u)}};
  }
  static KT_INLINE Line w(Line v) { return v; }
  static KT_INLINE Acc init(int) { return vi_zero(); }
  static KT_INLINE __m512i products(Line w, __m512i abs, __mmask64 neg) {
    return _mm512_maddubs_epi16(abs, _mm512_mask_sub_epi8(w, neg, _mm512_setzero_si512(), w));
  }
  static KT_INLINE Acc dot(Acc a, const Line (&w)[2], const X& x) {
    const __m512i p = products(w[0], x.abs[0], x.neg[0]), q = products(w[1], x.abs[1], x.neg[1]);
    return _mm512_add_epi32(a, _mm512_madd_epi16(_mm512_add_epi16(p, q), _mm512_set1_epi16(1)));
  }
  static KT_INLINE Vi done(Acc a) { return a; }
};
// Weights 0..Most that stand for values less by Offset, summed in 16 bits. Each of the two 16-bit lanes of a
// row starts with its share of the offset; what passes 16 bits on the way wraps and comes back.
template <int Offset, int Most>
struct DotU {
  static constexpr int kDepth = 32767 / (Most * kLaneMost) * 8;  // k until they could overflow
  static constexpr bool kAbs = false;
  using Acc = __m512i;
  struct X {
    __m512i v[2];
  };
  static KT_INLINE Acc zero() { return vi_zero(); }
  static KT_INLINE X x(const char* p) { return {{bcast4(p), bcast4(p + 4)}}; }
  static KT_INLINE Line w(Line v) { return v; }
  static KT_INLINE Acc init(int sum) {
    static_assert(Offset % 2 == 0);
    return _mm512_set1_epi16(short(-Offset / 2 * sum));
  }
  static KT_INLINE Acc line(Acc a, Line w, __m512i x) {
    a = _mm512_add_epi16(a, _mm512_maddubs_epi16(w, x));
    opaque(a);  // else the compiler takes up the next lines first and runs out of registers
    return a;
  }
  static KT_INLINE Acc dot(Acc a, const Line (&w)[2], const X& x) { return line(line(a, w[0], x.v[0]), w[1], x.v[1]); }
  static KT_INLINE Vi done(Acc a) { return _mm512_madd_epi16(a, _mm512_set1_epi16(1)); }
};
#endif

}  // namespace
