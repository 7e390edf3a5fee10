// The AVX-512 instructions that vec_avx512.h and the tile bodies use, lane by lane in plain C++ as the
// architecture manual defines them: those bodies can be tested on a CPU without AVX-512. Built for tests only.
#pragma once
#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#define KT_SHIM inline __attribute__((noinline))  // inlined, the loops over them take minutes to compile
#define KT_SHIM_INLINE inline __attribute__((always_inline))
#define KT_ANYWHERE "+m"  // there is no register for 64 bytes

namespace {
namespace shim {

typedef int8_t I8 __attribute__((vector_size(64)));
typedef uint8_t U8 __attribute__((vector_size(64)));
typedef int16_t I16 __attribute__((vector_size(64)));
typedef uint16_t U16 __attribute__((vector_size(64)));
typedef int32_t I32 __attribute__((vector_size(64)));
typedef uint32_t U32 __attribute__((vector_size(64)));
typedef int64_t I64 __attribute__((vector_size(64)));
typedef __m512 F32;
typedef __m512i V;

// V of f(0), f(1), …; N lanes.
template <class Lanes, int N, class F>
KT_SHIM_INLINE Lanes lanes(F f) {
  Lanes v = {};
  for (int i = 0; i < N; ++i) v[i] = f(i);
  return v;
}

// ---- memory and constants
KT_SHIM_INLINE V load(const void* p) {
  V v;
  __builtin_memcpy(&v, p, 64);
  return v;
}
KT_SHIM_INLINE F32 load_ps(const void* p) { return F32(load(p)); }
KT_SHIM_INLINE void store(void* p, V v) { __builtin_memcpy(p, &v, 64); }
KT_SHIM_INLINE void store_ps(void* p, F32 v) { __builtin_memcpy(p, &v, 64); }
KT_SHIM F32 set1_ps(float x) {
  return lanes<F32, 16>([=](int) { return x; });
}
KT_SHIM V set1_32(int x) {
  return V(lanes<I32, 16>([=](int) { return x; }));
}
KT_SHIM V set1_16(short x) {
  return V(lanes<I16, 32>([=](int) { return x; }));
}
KT_SHIM V set1_8(char x) {
  return V(lanes<I8, 64>([=](int) { return x; }));
}
KT_SHIM_INLINE F32 zero_ps() { return F32{}; }
KT_SHIM_INLINE V zero() { return V{}; }
KT_SHIM_INLINE F32 as_ps(V v) { return F32(v); }
KT_SHIM_INLINE V as_int(F32 v) { return V(v); }

// ---- floats
KT_SHIM_INLINE F32 add_ps(F32 a, F32 b) { return a + b; }
KT_SHIM_INLINE F32 sub_ps(F32 a, F32 b) { return a - b; }
KT_SHIM_INLINE F32 mul_ps(F32 a, F32 b) { return a * b; }
KT_SHIM_INLINE F32 div_ps(F32 a, F32 b) { return a / b; }
KT_SHIM F32 fma_ps(F32 a, F32 b, F32 c) {
  return lanes<F32, 16>([&](int i) { return __builtin_fmaf(a[i], b[i], c[i]); });
}
KT_SHIM F32 max_ps(F32 a, F32 b) {  // the second one if either is NaN
  return lanes<F32, 16>([&](int i) { return a[i] > b[i] ? a[i] : b[i]; });
}
KT_SHIM F32 min_ps(F32 a, F32 b) {
  return lanes<F32, 16>([&](int i) { return a[i] < b[i] ? a[i] : b[i]; });
}
KT_SHIM_INLINE F32 abs_ps(F32 a) { return F32(U32(a) & 0x7fffffffu); }
KT_SHIM F32 round_ps(F32 a, int) {  // to the nearest integer
  return lanes<F32, 16>([&](int i) { return __builtin_rintf(a[i]); });
}
KT_SHIM F32 scalef_ps(F32 a, F32 n) {
  return lanes<F32, 16>([&](int i) { return __builtin_ldexpf(a[i], int(n[i])); });
}
KT_SHIM __mmask16 compare_ps(F32 a, F32 b, int kind) {
  __mmask16 mask = 0;
  for (int i = 0; i < 16; ++i) {
    const bool holds = kind == _CMP_LT_OQ   ? a[i] < b[i]
                       : kind == _CMP_EQ_OQ ? a[i] == b[i]
                                            : a[i] != a[i] || b[i] != b[i];
    mask = __mmask16(mask | int(holds) << i);
  }
  return mask;
}
KT_SHIM F32 blend_ps(__mmask16 mask, F32 a, F32 b) {
  return lanes<F32, 16>([&](int i) { return mask >> i & 1 ? b[i] : a[i]; });
}
KT_SHIM float reduce_max_ps(F32 a) {
  float most = a[0];
  for (int i = 1; i < 16; ++i) most = a[i] > most ? a[i] : most;
  return most;
}

// ---- conversions
KT_SHIM F32 from_f16(__m256i h) {
  alignas(32) float out[16];
  _mm256_store_ps(out, _mm256_cvtph_ps(_mm256_castsi256_si128(h)));
  _mm256_store_ps(out + 8, _mm256_cvtph_ps(_mm256_extracti128_si256(h, 1)));
  return load_ps(out);
}
KT_SHIM __m256i to_f16(F32 x, int) {
  const __m128i low = _mm256_cvtps_ph(_mm256_loadu_ps(reinterpret_cast<const float*>(&x)), 0);
  const __m128i high = _mm256_cvtps_ph(_mm256_loadu_ps(reinterpret_cast<const float*>(&x) + 8), 0);
  return _mm256_set_m128i(high, low);
}
KT_SHIM V round_to_int(F32 x) {
  return V(lanes<I32, 16>([&](int i) { return _mm_cvtss_si32(_mm_set_ss(x[i])); }));
}
KT_SHIM F32 from_int(V x) {
  return lanes<F32, 16>([&](int i) { return float(I32(x)[i]); });
}
template <class In, class Out, int N, class Narrow>
KT_SHIM V widen(Narrow x) {
  In in[N];
  __builtin_memcpy(in, &x, sizeof in);
  return V(lanes<Out, N>([&](int i) { return in[i]; }));
}
KT_SHIM V from_u8(__m128i x) { return widen<uint8_t, I32, 16>(x); }
KT_SHIM V from_u16(__m256i x) { return widen<uint16_t, I32, 16>(x); }
KT_SHIM __m256i to_16(V x) {
  uint16_t out[16];
  for (int i = 0; i < 16; ++i) out[i] = uint16_t(I32(x)[i]);
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(out));
}
KT_SHIM_INLINE int clamp(int x, int least, int most) { return x < least ? least : x > most ? most : x; }
KT_SHIM __m128i to_8_saturated(V x) {
  int8_t out[16];
  for (int i = 0; i < 16; ++i) out[i] = int8_t(clamp(I32(x)[i], -128, 127));
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(out));
}

// ---- integers
KT_SHIM_INLINE V and_(V a, V b) { return a & b; }
KT_SHIM_INLINE V or_(V a, V b) { return a | b; }
KT_SHIM_INLINE V xor_(V a, V b) { return a ^ b; }
KT_SHIM V ternary(V a, V b, V c, int table) {
  V v = {};
  for (int i = 0; i < 8; ++i) {
    if (!(table >> i & 1)) continue;
    v |= (i & 4 ? a : ~a) & (i & 2 ? b : ~b) & (i & 1 ? c : ~c);
  }
  return v;
}
KT_SHIM_INLINE V add_32(V a, V b) { return V(U32(a) + U32(b)); }
KT_SHIM_INLINE V add_16(V a, V b) { return V(U16(a) + U16(b)); }
KT_SHIM_INLINE V add_8(V a, V b) { return V(U8(a) + U8(b)); }
KT_SHIM_INLINE V sub_8(V a, V b) { return V(U8(a) - U8(b)); }
KT_SHIM V adds_16(V a, V b) {
  return V(lanes<I16, 32>([&](int i) { return int16_t(clamp(I16(a)[i] + I16(b)[i], -32768, 32767)); }));
}
KT_SHIM V max_32(V a, V b) {
  return V(lanes<I32, 16>([&](int i) { return I32(a)[i] > I32(b)[i] ? I32(a)[i] : I32(b)[i]; }));
}
KT_SHIM V max_16(V a, V b) {
  return V(lanes<I16, 32>([&](int i) { return I16(a)[i] > I16(b)[i] ? I16(a)[i] : I16(b)[i]; }));
}
KT_SHIM V min_16(V a, V b) {
  return V(lanes<I16, 32>([&](int i) { return I16(a)[i] < I16(b)[i] ? I16(a)[i] : I16(b)[i]; }));
}
KT_SHIM V abs_8(V a) {
  return V(lanes<I8, 64>([&](int i) { return int8_t(I8(a)[i] < 0 ? -I8(a)[i] : I8(a)[i]); }));
}
KT_SHIM_INLINE V left_32(V a, int n) { return V(U32(a) << uint32_t(n)); }
KT_SHIM_INLINE V right_32(V a, int n) { return V(U32(a) >> uint32_t(n)); }
KT_SHIM_INLINE V right_signed_32(V a, int n) { return V(I32(a) >> n); }
KT_SHIM_INLINE V left_16(V a, int n) { return V(U16(a) << uint16_t(n)); }
KT_SHIM_INLINE V right_16(V a, int n) { return V(U16(a) >> uint16_t(n)); }
KT_SHIM V multiply_high_16(V a, V b) {
  return V(lanes<I16, 32>([&](int i) { return int16_t(((I16(a)[i] * I16(b)[i] >> 14) + 1) >> 1); }));
}
KT_SHIM int reduce_add(V a) {
  uint32_t sum = 0;
  for (int i = 0; i < 16; ++i) sum += U32(a)[i];
  return int(sum);
}
KT_SHIM int reduce_max(V a) {
  int most = I32(a)[0];
  for (int i = 1; i < 16; ++i) most = I32(a)[i] > most ? I32(a)[i] : most;
  return most;
}

// ---- products
KT_SHIM V dot_words(V sum, V a, V b) {
  return V(lanes<U32, 16>([&](int i) {
    return U32(sum)[i] + uint32_t(I16(a)[2 * i] * I16(b)[2 * i]) + uint32_t(I16(a)[2 * i + 1] * I16(b)[2 * i + 1]);
  }));
}
KT_SHIM V pairs_16(V a, V b) { return dot_words(V{}, a, b); }
KT_SHIM V pairs_8(V a, V b) {  // unsigned times signed, into words that saturate
  return V(lanes<I16, 32>([&](int i) {
    return int16_t(clamp(U8(a)[2 * i] * I8(b)[2 * i] + U8(a)[2 * i + 1] * I8(b)[2 * i + 1], -32768, 32767));
  }));
}
KT_SHIM V dot_bytes(V sum, V a, V b) {
  return V(lanes<U32, 16>([&](int i) {
    int all = 0;
    for (int j = 4 * i; j < 4 * i + 4; ++j) all += U8(a)[j] * I8(b)[j];
    return U32(sum)[i] + uint32_t(all);
  }));
}
KT_SHIM F32 dot_bf16(F32 sum, __m512bh a, __m512bh b) {
  const U32 x = U32(V(a)), y = U32(V(b)), high = U32{} + 0xffff0000u;
  return fma_ps(F32(x << 16), F32(y << 16), fma_ps(F32(x & high), F32(y & high), sum));
}

// ---- masks
KT_SHIM __mmask64 signs_8(V a) {
  __mmask64 mask = 0;
  for (int i = 0; i < 64; ++i) mask |= __mmask64(I8(a)[i] < 0) << i;
  return mask;
}
KT_SHIM V blend_8(__mmask64 mask, V a, V b) {
  return V(lanes<I8, 64>([&](int i) { return mask >> i & 1 ? I8(b)[i] : I8(a)[i]; }));
}
KT_SHIM V mask_sub_8(V otherwise, __mmask64 mask, V a, V b) { return blend_8(mask, otherwise, sub_8(a, b)); }
KT_SHIM V mask_set1_32(V otherwise, __mmask16 mask, int x) {
  return V(lanes<I32, 16>([&](int i) { return mask >> i & 1 ? x : I32(otherwise)[i]; }));
}

// ---- order of lanes; a quarter is 128 bits
KT_SHIM V quarters(V a, V b, int which) {
  return V(lanes<I64, 8>([&](int i) { return I64(i < 4 ? a : b)[(which >> i / 2 * 2 & 3) * 2 + i % 2]; }));
}
KT_SHIM F32 quarters_ps(F32 a, F32 b, int which) { return F32(quarters(V(a), V(b), which)); }
KT_SHIM F32 permute_ps(F32 a, int which) {
  return lanes<F32, 16>([&](int i) { return a[i / 4 * 4 + (which >> i % 4 * 2 & 3)]; });
}
KT_SHIM V shuffle_8(V a, V index) {
  return V(
      lanes<I8, 64>([&](int i) { return I8(index)[i] < 0 ? int8_t(0) : I8(a)[i / 16 * 16 + (I8(index)[i] & 15)]; }));
}
KT_SHIM V shuffle_words(V a, int which, int first) {  // four of each quarter's eight
  return V(lanes<I16, 32>([&](int i) {
    const int at = i % 8 - first;
    return I16(a)[at < 0 || at > 3 ? i : i / 8 * 8 + first + (which >> at * 2 & 3)];
  }));
}
KT_SHIM V shuffle_low_words(V a, int which) { return shuffle_words(a, which, 0); }
KT_SHIM V shuffle_high_words(V a, int which) { return shuffle_words(a, which, 4); }
template <class Lanes, int N>
KT_SHIM V unpack(V a, V b, int first) {  // in turn, from one half of each quarter
  return V(lanes<Lanes, N * 4>([&](int i) { return (i % 2 ? Lanes(b) : Lanes(a))[i / N * N + first + i % N / 2]; }));
}
KT_SHIM V unpack_low_32(V a, V b) { return unpack<I32, 4>(a, b, 0); }
KT_SHIM V unpack_high_32(V a, V b) { return unpack<I32, 4>(a, b, 2); }
KT_SHIM V unpack_low_64(V a, V b) { return unpack<I64, 2>(a, b, 0); }
KT_SHIM V unpack_high_64(V a, V b) { return unpack<I64, 2>(a, b, 1); }
KT_SHIM V four_times(__m128i x) {
  char all[64];
  for (int i = 0; i < 4; ++i) __builtin_memcpy(all + i * 16, &x, 16);
  return load(all);
}

}  // namespace shim
}  // namespace

#define _mm512_abs_epi8 shim::abs_8
#define _mm512_abs_ps shim::abs_ps
#define _mm512_add_epi16 shim::add_16
#define _mm512_add_epi32 shim::add_32
#define _mm512_add_epi8 shim::add_8
#define _mm512_add_ps shim::add_ps
#define _mm512_adds_epi16 shim::adds_16
#define _mm512_and_si512 shim::and_
#define _mm512_broadcast_i32x4 shim::four_times
#define _mm512_castps_si512 shim::as_int
#define _mm512_castsi512_ps shim::as_ps
#define _mm512_cmp_ps_mask shim::compare_ps
#define _mm512_cvtepi32_epi16 shim::to_16
#define _mm512_cvtepi32_ps shim::from_int
#define _mm512_cvtepu16_epi32 shim::from_u16
#define _mm512_cvtepu8_epi32 shim::from_u8
#define _mm512_cvtph_ps shim::from_f16
#define _mm512_cvtps_epi32 shim::round_to_int
#define _mm512_cvtps_ph shim::to_f16
#define _mm512_cvtsepi32_epi8 shim::to_8_saturated
#define _mm512_div_ps shim::div_ps
#define _mm512_dpbf16_ps shim::dot_bf16
#define _mm512_dpbusd_epi32 shim::dot_bytes
#define _mm512_dpwssd_epi32 shim::dot_words
#define _mm512_fmadd_ps shim::fma_ps
#define _mm512_load_si512 shim::load
#define _mm512_loadu_ps shim::load_ps
#define _mm512_loadu_si512 shim::load
#define _mm512_madd_epi16 shim::pairs_16
#define _mm512_maddubs_epi16 shim::pairs_8
#define _mm512_mask_blend_epi8 shim::blend_8
#define _mm512_mask_blend_ps shim::blend_ps
#define _mm512_mask_set1_epi32 shim::mask_set1_32
#define _mm512_mask_sub_epi8 shim::mask_sub_8
#define _mm512_max_epi16 shim::max_16
#define _mm512_max_epi32 shim::max_32
#define _mm512_max_ps shim::max_ps
#define _mm512_min_epi16 shim::min_16
#define _mm512_min_ps shim::min_ps
#define _mm512_movepi8_mask shim::signs_8
#define _mm512_mul_ps shim::mul_ps
#define _mm512_mulhrs_epi16 shim::multiply_high_16
#define _mm512_or_si512 shim::or_
#define _mm512_permute_ps shim::permute_ps
#define _mm512_reduce_add_epi32 shim::reduce_add
#define _mm512_reduce_max_epi32 shim::reduce_max
#define _mm512_reduce_max_ps shim::reduce_max_ps
#define _mm512_roundscale_ps shim::round_ps
#define _mm512_scalef_ps shim::scalef_ps
#define _mm512_set1_epi16 shim::set1_16
#define _mm512_set1_epi32 shim::set1_32
#define _mm512_set1_epi8 shim::set1_8
#define _mm512_set1_ps shim::set1_ps
#define _mm512_setzero_ps shim::zero_ps
#define _mm512_setzero_si512 shim::zero
#define _mm512_shuffle_epi8 shim::shuffle_8
#define _mm512_shuffle_f32x4 shim::quarters_ps
#define _mm512_shuffle_i32x4 shim::quarters
#define _mm512_shuffle_i64x2 shim::quarters
#define _mm512_shufflehi_epi16 shim::shuffle_high_words
#define _mm512_shufflelo_epi16 shim::shuffle_low_words
#define _mm512_slli_epi16 shim::left_16
#define _mm512_slli_epi32 shim::left_32
#define _mm512_srai_epi32 shim::right_signed_32
#define _mm512_srli_epi16 shim::right_16
#define _mm512_srli_epi32 shim::right_32
#define _mm512_store_si512 shim::store
#define _mm512_storeu_ps shim::store_ps
#define _mm512_storeu_si512 shim::store
#define _mm512_sub_epi8 shim::sub_8
#define _mm512_sub_ps shim::sub_ps
#define _mm512_ternarylogic_epi32 shim::ternary
#define _mm512_unpackhi_epi32 shim::unpack_high_32
#define _mm512_unpackhi_epi64 shim::unpack_high_64
#define _mm512_unpacklo_epi32 shim::unpack_low_32
#define _mm512_unpacklo_epi64 shim::unpack_low_64
#define _mm512_xor_si512 shim::xor_
