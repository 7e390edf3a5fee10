// Loops that measure what this CPU can do at most.

namespace {

// Enough independent chains to hide the latency; distinct starts keep them from being merged.
constexpr int kChains = kPanels == 1 ? 5 : 12;

double peak_fma(long rounds) {
  Vf acc[kChains];
  for (int i = 0; i < kChains; ++i) acc[i] = vf_set1(float(i));
  const Vf x = vf_set1(0.999f), y = vf_set1(1e-3f);
  for (long i = 0; i < rounds; ++i)
    for (Vf& a : acc) a = vf_fma(a, x, y);
  const double ops = double(rounds) * kChains * 32.0;
  Vf sum = vf_zero();
  for (Vf& a : acc) sum = vf_add(sum, a);
  return vf_hmax(sum) > -1 ? ops : 0;
}

double peak_int8(long rounds) {
  alignas(64) char bytes[64];
  for (int i = 0; i < 64; ++i) bytes[i] = char(i % 7);
  const Line w = DotS8::w(line_load(bytes));
  const auto x = DotS8::x(bytes);
  DotS8::Acc acc[kChains];
  for (int i = 0; i < kChains; ++i) acc[i] = DotS8::init(i);
  for (long i = 0; i < rounds; ++i)
    for (auto& a : acc) a = DotS8::dot(a, w, x);
  const double ops = double(rounds) * kChains * 128.0;
  Vi sum = vi_zero();
  for (auto& a : acc) sum = vi_add(sum, DotS8::done(a, 0));
  return vi_sum(sum) != 1 ? ops : 0;
}

double peak_bf16(long rounds) {
  alignas(64) char bytes[64] = {};
  const Vf w = bf16_half(bytes, 0);
  const auto x = bf16_bcast(bytes, 0);
  Vf acc[kChains];
  for (int i = 0; i < kChains; ++i) acc[i] = vf_set1(float(i));
  for (long i = 0; i < rounds; ++i)
    for (Vf& a : acc) a = bf16_dot(a, w, x);
  const double ops = double(rounds) * kChains * 64.0 / kHalves;
  Vf sum = vf_zero();
  for (Vf& a : acc) sum = vf_add(sum, a);
  return vf_hmax(sum) > -1 ? ops : 0;
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
