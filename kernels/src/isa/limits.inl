// Loops that measure what this CPU can do at most.
#pragma once
#include "unroll.inl"

namespace kt {
namespace {

// Enough independent chains to hide the latency, opaque so that none is merged or moved out of a loop.
constexpr int kChains = kPanels == 1 ? 5 : 12;

double peak_fma(long rounds) {
  Vf acc[kChains];
  unroll<kChains>(KT_EACH(i) { opaque(acc[i] = vf_set1(float(i))); });
  const Vf x = vf_set1(0.999f), y = vf_set1(1e-3f);
  for (long i = 0; i < rounds; ++i) unroll<kChains>(KT_EACH(j) { acc[j] = vf_fma(acc[j], x, y); });
  Vf sum = vf_zero();
  unroll<kChains>(KT_EACH(i) { sum = vf_add(sum, acc[i]); });
  opaque(sum);
  return double(rounds) * kChains * 32.0;
}

// DotU8: products of bytes summed in 32 bits; DotU<8, 15>: as int4 weights take them.
template <class Dot>
double peak_dot(long rounds) {
  alignas(64) char bytes[64];
  for (int i = 0; i < 64; ++i) bytes[i] = char(i % 7);
  Line w = line_load(bytes);
  const auto x = bcast4(bytes);
  typename Dot::Acc acc[kChains];
  unroll<kChains>(KT_EACH(i) { opaque(acc[i] = Dot::zero()); });
  for (long i = 0; i < rounds; ++i)
    unroll<kChains>(KT_EACH(j) {
      opaque(w);
      opaque(acc[j] = Dot::line(acc[j], w, x));
    });
  Vi sum = vi_zero();
  unroll<kChains>(KT_EACH(i) { sum = vi_add(sum, acc[i]); });
  opaque(sum);
  return double(rounds) * kChains * 128.0;
}

double peak_bf16(long rounds) {
  alignas(64) char bytes[64] = {};
  const Vf w = bf16_half(bytes, 0);
  const auto x = bf16_bcast(bytes, 0);
  Vf acc[kChains];
  unroll<kChains>(KT_EACH(i) { opaque(acc[i] = vf_set1(float(i))); });
  for (long i = 0; i < rounds; ++i) unroll<kChains>(KT_EACH(j) { acc[j] = bf16_dot(acc[j], w, x); });
  Vf sum = vf_zero();
  unroll<kChains>(KT_EACH(i) { sum = vf_add(sum, acc[i]); });
  opaque(sum);
  return double(rounds) * kChains * 64.0 / kHalves;
}

// Eight independent streams: one sequential stream does not keep enough lines in flight.
uint64_t read_all(const char* p, size_t bytes) {
  const size_t part = bytes / 8 / 64 * 64;
  Vi sum[4] = {vi_zero(), vi_zero(), vi_zero(), vi_zero()};
  for (size_t i = 0; i < part; i += 64)
    for (int s = 0; s < 8; ++s) {
      const Line v = line_load(p + size_t(s) * part + i);
      sum[s % 4] = vi_add(sum[s % 4], line_as_int(v));
    }
  return uint64_t(vi_sum(vi_add(vi_add(sum[0], sum[1]), vi_add(sum[2], sum[3]))));
}

}  // namespace
}  // namespace kt
