// To the formats that checkpoints bring along: scales as their makers choose them. Lanes are
// rows, as in pack.inl.
#pragma once
#include "pack.inl"

namespace kt {
namespace {

// Codes 0..63 given as floats.
template <class F>
void put_sixes(const float* t, int n, char* dst, F code) {
  unsigned char q[kMaxGroup][16];
  for (int k = 0; k < n; ++k) vi_to_bytes(q[k], vi_round(code(vf_load(t + k * 16))));
  for (int k = 0; k < n; k += 16, dst += 192)
    for (int at = 0; at < 64; ++at) {
      const int r = at / 4, j = k + at % 4;
      const unsigned char a = q[j][r], b = q[j + 4][r], c = q[j + 8][r], d = q[j + 12][r];
      dst[at] = char((a & 15) | b << 4);
      dst[at + 64] = char((c & 15) | d << 4);
      dst[at + 128] = char(a >> 4 | b >> 4 << 2 | c >> 4 << 4 | d >> 4 << 6);
    }
}

struct Range {
  Vf low, high;
};

Range range(const float* t, int n) {
  Vf low = vf_load(t), high = low;
  for (int k = 1; k < n; ++k) {
    low = vf_min(low, vf_load(t + k * 16));
    high = vf_max(high, vf_load(t + k * 16));
  }
  return {low, high};
}

Vf widest(const float* t, int n) {
  const Range r = range(t, n);
  return vf_max(vf_abs(r.low), vf_abs(r.high));
}

bool pack_q8_0(const PackArgs* p) {
  return pack_groups(*p, [&](const float* t, int at) {
    const Vf scale = as_f16(vf_mul(widest(t, p->group), vf_set1(1.0f / 127.0f))), inv = inverse(scale);
    vf_to_f16(p->scale + at / p->group * 32, scale);
    const Vf most = vf_set1(127.0f), least = vf_set1(-127.0f);
    put_codes<8>(t, p->group, p->dst + at * 16, [&](Vf x) { return vf_min(vf_max(vf_mul(x, inv), least), most); });
  });
}

// Scale and minimum of each group spread codes 0..Top from its least to its largest weight;
// put(weights, k, code).
template <int Top, class Put>
bool pack_between(const PackArgs& p, Put put) {
  return pack_groups(p, [&](const float* t, int at) {
    const Range r = range(t, p.group);
    const Vf low = as_f16(r.low), scale = as_f16(vf_mul(vf_sub(r.high, r.low), vf_set1(1.0f / float(Top))));
    const Vf inv = inverse(scale), most = vf_set1(float(Top));
    char* scales = p.scale + at / p.group * 64;
    vf_to_f16(scales, scale);
    vf_to_f16(scales + 32, low);
    put(t, at, [&](Vf x) { return vf_min(vf_max(vf_mul(vf_sub(x, low), inv), vf_zero()), most); });
  });
}

bool pack_q4_1(const PackArgs* p) {
  return pack_between<15>(*p,
                          [&](const float* t, int at, auto code) { put_codes<4>(t, p->group, p->dst + at * 8, code); });
}

bool pack_q6_1(const PackArgs* p) {
  return pack_between<63>(*p,
                          [&](const float* t, int at, auto code) { put_sixes(t, p->group, p->dst + at * 12, code); });
}

// The weight farthest from 0 becomes code 0, which stands for -32: the scale has its sign.
bool pack_q6_0(const PackArgs* p) {
  return pack_groups(*p, [&](const float* t, int at) {
    const Range r = range(t, p->group);
    const Vf farthest = vf_if_less(vf_add(r.low, r.high), vf_zero(), r.low, r.high);
    const Vf scale = as_f16(vf_mul(farthest, vf_set1(-1.0f / 32.0f))), inv = inverse(scale);
    vf_to_f16(p->scale + at / p->group * 32, scale);
    const Vf middle = vf_set1(32.0f), most = vf_set1(63.0f);
    put_sixes(t, p->group, p->dst + at * 12,
              [&](Vf x) { return vf_min(vf_max(vf_fma(x, inv, middle), vf_zero()), most); });
  });
}

// The first of the codes 0..N (as floats) whose upper limit x stays below; `even`: a tie goes to the
// even one, otherwise upwards.
template <int N>
Vf code_of(Vf x, const float (&limits)[N], bool even) {
  Vf code = vf_zero();
  const Vf one = vf_set1(1.0f);
  for (int i = 0; i < N; ++i) {
    const Vf limit = vf_set1(limits[i]);
    const Vf beyond = even && i % 2 == 0 ? vf_if_less(limit, x, one, vf_zero()) : vf_if_less(x, limit, vf_zero(), one);
    code = vf_add(code, beyond);
  }
  return code;
}

constexpr float kE2m1Limits[7] = {0.25f, 0.75f, 1.25f, 1.75f, 2.5f, 3.5f, 5.0f};

Vf e2m1_code(Vf x) {
  const Vf sign = vf_if_less(x, vf_zero(), vf_set1(8.0f), vf_zero());
  return vf_add(code_of(vf_abs(x), kE2m1Limits, true), sign);
}

// MX 1.0, section 6.3: floor(log2(max)) less the largest exponent of e2m1. The grid is doubled, so the
// byte is one less than the exponent that the format would store.
bool pack_mxfp4(const PackArgs* p) {
  return pack_groups(*p, [&](const float* t, int at) {
    uint32_t bits[16];
    vf_store(bits, widest(t, p->group));
    char* scales = p->scale + at / p->group * 16;
    for (int r = 0; r < 16; ++r) {
      const int exponent = int(bits[r] >> 23) - 3;
      scales[r] = char(exponent < 0 ? 0 : exponent);
    }
    const Vf inv = vf_mul(inverse(vf_from_e8m0(scales)), vf_set1(0.5f));
    put_codes<4>(t, p->group, p->dst + at * 8, [&](Vf x) { return e2m1_code(vf_mul(x, inv)); });
  });
}

// To e4m3 without sign, ties to even, 448 at most.
unsigned char to_e4m3(float x) {
  if (!(x < 448.0f)) return 0x7e;
  if (x < 0.015625f) {                            // steps of 2^-9
    const float grown = x * 512.0f + 8388608.0f;  // the addition rounds
    return static_cast<unsigned char>(int(grown - 8388608.0f));
  }
  uint32_t bits;
  __builtin_memcpy(&bits, &x, 4);
  bits += 0x7ffff + (bits >> 20 & 1);
  return static_cast<unsigned char>((bits >> 20) - (120 << 3));
}

// The row's number maps its largest weight to 6 · 448. It takes in the halving of the doubled grid, and
// the 2^8 that reading e4m3 leaves out.
bool pack_nvfp4(const PackArgs* p) {
  const Vf whole = vf_div(widest_of_rows(*p), vf_set1(448.0f * 6.0f)), inv_whole = inverse(whole);
  vf_store(p->scale, vf_mul(whole, vf_set1(128.0f)));
  return pack_groups(*p, [&](const float* t, int at) {
    float wanted[16];
    vf_store(wanted, vf_mul(vf_mul(widest(t, p->group), vf_set1(1.0f / 6.0f)), inv_whole));
    char* scales = p->scale + 64 + at / p->group * 16;
    for (int r = 0; r < 16; ++r) scales[r] = char(to_e4m3(wanted[r]));
    const Vf inv = inverse(vf_mul(vf_mul(vf_from_e4m3(scales), vf_set1(256.0f)), whole));
    put_codes<4>(t, p->group, p->dst + at * 8, [&](Vf x) { return e2m1_code(vf_mul(x, inv)); });
  });
}

struct Iq4Limits {
  float of[15] = {};
  constexpr Iq4Limits() {
    for (int i = 0; i < 15; ++i) of[i] = 0.5f * float(kIq4Grid[i] + kIq4Grid[i + 1]);
  }
};
constexpr Iq4Limits kIq4Limits;

Vf iq4_code(Vf x) { return code_of(x, kIq4Limits.of, false); }

// The value of a code: what lies between the limits passed.
Vf iq4_value(Vf x) {
  Vf value = vf_set1(float(kIq4Grid[0]));
  for (int i = 0; i < 15; ++i) {
    const Vf step = vf_set1(float(kIq4Grid[i + 1] - kIq4Grid[i]));
    value = vf_add(value, vf_if_less(x, vf_set1(kIq4Limits.of[i]), vf_zero(), step));
  }
  return value;
}

struct Fit {
  Vf error, least_squares;
};

Fit fit_iq4(const float* t, int n, Vf scale) {
  const Vf inv = inverse(scale);
  Vf error = vf_zero(), xq = vf_zero(), qq = vf_zero();
  for (int k = 0; k < n; ++k) {
    const Vf x = vf_load(t + k * 16), q = iq4_value(vf_mul(x, inv)), d = vf_sub(x, vf_mul(q, scale));
    error = vf_fma(d, d, error);
    xq = vf_fma(x, q, xq);
    qq = vf_fma(q, q, qq);
  }
  return {error, vf_mul(xq, inverse(qq))};
}

// The widest weight at either end of the grid, or a little beyond, refined by least squares.
Vf search_iq4(const float* t, int n) {
  const Vf amax = widest(t, n);
  Vf best = vf_zero(), least = vf_set1(3e38f);
  for (int sign = -1; sign <= 1; sign += 2)
    for (int i = 0; i < 4; ++i) {
      const Vf start = vf_mul(amax, vf_set1(float(sign) / (112.0f + 8.0f * float(i))));
      const Vf scale = as_f16(fit_iq4(t, n, start).least_squares), error = fit_iq4(t, n, scale).error;
      best = vf_if_less(error, least, scale, best);
      least = vf_min(error, least);
    }
  return best;
}

bool pack_iq4_nl(const PackArgs* p) {
  return pack_groups(*p, [&](const float* t, int at) {
    const Vf scale = search_iq4(t, p->group), inv = inverse(scale);
    vf_to_f16(p->scale + at / p->group * 32, scale);
    put_codes<4>(t, p->group, p->dst + at * 8, [&](Vf x) { return iq4_code(vf_mul(x, inv)); });
  });
}

}  // namespace
}  // namespace kt
