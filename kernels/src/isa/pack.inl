// From 16 rows of a matrix to one panel. Lanes are rows, so the input is turned first, 16 k at a time.
#pragma once
#include "rows.inl"

namespace kt {
namespace {

constexpr int kMaxGroup = 128;

KT_INLINE Vf sixteen(const PackArgs& p, int row, int k) { return load16(p.rows + size_t(row) * p.stride, p.dtype, k); }

// What is added to in this way stays zero as long as all x are finite.
KT_INLINE Vf if_finite(Vf sum, Vf x) { return vf_add(sum, vf_sub(x, x)); }

bool all_zero(Vf x) {
  float lanes[16];
  vf_store(lanes, x);
  for (float lane : lanes)
    if (lane != 0.0f) return false;
  return true;
}

// t[k][row] = value k0 + k of a row; returns zeros as long as all are finite.
Vf turn(const PackArgs& p, int k0, int n, float* t) {
  Vf bad = vf_zero();
  float rows[16 * 16];
  for (int k = 0; k < n; k += 16) {
    for (int r = 0; r < 16; ++r) {
      const Vf x = sixteen(p, r, k0 + k);
      bad = if_finite(bad, x);
      vf_store(rows + r * 16, x);
    }
    turn_words(reinterpret_cast<const char*>(rows), 64, reinterpret_cast<char*>(t + k * 16));
  }
  return bad;
}

// A line of codes, which are 4 bytes of each row, or 8 halves of a byte: k..k+3 low, k+4..k+7 high.
template <int Bits, int J = 0, class F>
KT_INLINE Vi line_of_codes(const float* t, F code) {
  constexpr int at = Bits == 8 ? J * 8 : J % 4 * 8 + J / 4 * 4;
  const Vi one = vi_move<at, Bits>(vi_round(code(vf_load(t + J * 16))));
  if constexpr (J + 1 == 32 / Bits) return one;
  else return vi_or(one, line_of_codes<Bits, J + 1>(t, code));
}

// code(x) gives codes as floats: integers, modulo 2^Bits.
template <int Bits, class F>
void put_codes(const float* t, int n, char* dst, F code) {
  for (int k = 0; k < n; k += 32 / Bits) vi_store(dst + k * 2 * Bits, line_of_codes<Bits>(t + k * 16, code));
}

bool pack_bf16(const PackArgs* p) {
  Vf bad = vf_zero();
  char rows[16 * 64];
  for (int k = 0; k < p->k; k += 32) {
    for (int r = 0; r < 16; ++r)
      for (int half = 0; half < 32; half += 16) {
        const Vf x = sixteen(*p, r, k + half);
        bad = if_finite(bad, x);
        vf_to_bf16(rows + r * 64 + half * 2, x);
      }
    turn_words(rows, 64, p->dst + k * 32);
  }
  return all_zero(bad);
}

KT_INLINE Vf inverse(Vf s) { return vf_if_zero(s, vf_zero(), vf_div(vf_set1(1.0f), s)); }

Vf widest_of_rows(const PackArgs& p) {
  float widest[16];
  for (int r = 0; r < 16; ++r) {
    Vf most = vf_zero();
    for (int k = 0; k < p.k; k += 16) most = vf_max(most, vf_abs(sixteen(p, r, k)));
    widest[r] = vf_hmax(most);
  }
  return vf_load(widest);
}

bool pack_i8(const PackArgs* p) {
  const Vf widest = widest_of_rows(*p), most = vf_set1(127.0f);
  const Vf inv = vf_if_zero(widest, vf_zero(), vf_div(most, widest));
  vf_store(p->scale, vf_div(widest, most));
  Vf bad = vf_zero();
  float t[64 * 16];
  for (int k = 0; k < p->k; k += 64) {
    bad = vf_add(bad, turn(*p, k, 64, t));
    put_codes<8>(t, 64, p->dst + k * 16, [&](Vf x) { return vf_mul(x, inv); });
  }
  return all_zero(bad);
}

// pack(t, k0) for each group of k.
template <class F>
bool pack_groups(const PackArgs& p, F pack) {
  Vf bad = vf_zero();
  float t[kMaxGroup * 16];
  for (int k = 0; k < p.k; k += p.group) {
    bad = vf_add(bad, turn(p, k, p.group, t));
    pack(t, k);
  }
  return all_zero(bad);
}

KT_INLINE Vf round4(Vf x) { return vf_min(vf_max(vf_round(x), vf_set1(-8.0f)), vf_set1(7.0f)); }

// The nearest in f16: codes are made for the scale that is stored.
KT_INLINE Vf as_f16(Vf x) {
  uint16_t h[16];
  vf_to_f16(h, vf_min(vf_max(x, vf_set1(-65504.0f)), vf_set1(65504.0f)));
  return vf_from_f16(h);
}

// The best scale for the codes that `scale` gives.
Vf least_squares(const float* t, int n, Vf scale) {
  const Vf inv = inverse(scale);
  Vf xq = vf_zero(), qq = vf_zero();
  for (int k = 0; k < n; ++k) {
    const Vf x = vf_load(t + k * 16), q = round4(vf_mul(x, inv));
    xq = vf_fma(x, q, xq);
    qq = vf_fma(q, q, qq);
  }
  return vf_mul(xq, inverse(qq));
}

struct Best {
  Vf gain, scale;

  // Of weights x in units and codes q. The gain is what the scale of least squares takes off the sum of x².
  KT_INLINE void offer(Vi xq, Vi qq, Vf unit) {
    const Vf sum = vf_from_int(xq), s = vf_mul(sum, inverse(vf_from_int(qq))), g = vf_mul(s, sum);
    scale = vf_if_less(gain, g, vf_mul(s, unit), scale);
    gain = vf_max(gain, g);
  }
};

constexpr int kUnits = 2048;  // of the widest weight
constexpr int kFine = 32768 / kUnits;
// Where the widest weight would lie among the codes, times kFine. Up to 7.5 no code is cut off.
constexpr int kInside[] = {106, 110, 115};
constexpr int kBeyond[] = {120, 125, 130, 134, 139, 144, 154};

// Signed scales of small squared error, compared in words of 16 bits: of the codes -8..7 and, with the
// other sign, -7..8.
Vf search4(const float* t, int n) {
  Vf amax = vf_zero();
  for (int k = 0; k < n; ++k) amax = vf_max(amax, vf_abs(vf_load(t + k * 16)));
  const Vf unit = vf_mul(amax, vf_set1(1.0f / kUnits)), inv = inverse(unit);
  Vi x[kMaxGroup / 2];
  for (int k = 0; k < n; k += 2)
    x[k / 2] = vi_or(vi_move<0, 16>(vi_round(vf_mul(vf_load(t + k * 16), inv))),
                     vi_move<16, 16>(vi_round(vf_mul(vf_load(t + k * 16 + 16), inv))));
  Best best = {vf_zero(), vf_zero()};
  for (const int place : kInside) {
    Vi xq = vi_zero(), qq = vi_zero();
    for (int i = 0; i < n / 2; ++i) {
      const Vi q = words_scaled(x[i], words_set1(place));
      xq = words_dot(xq, x[i], q);
      qq = words_dot(qq, q, q);
    }
    best.offer(xq, qq, unit);
  }
  for (const int place : kBeyond) {
    Vi xq = vi_zero(), qq = vi_zero(), xp = vi_zero(), pp = vi_zero();
    for (int i = 0; i < n / 2; ++i) {
      const Vi r = words_scaled(x[i], words_set1(place));
      const Vi q = words_max(words_min(r, words_set1(7)), words_set1(-8));
      const Vi p = words_max(words_min(r, words_set1(8)), words_set1(-7));
      xq = words_dot(xq, x[i], q);
      qq = words_dot(qq, q, q);
      xp = words_dot(xp, x[i], p);
      pp = words_dot(pp, p, p);
    }
    best.offer(xq, qq, unit);
    best.offer(xp, pp, vf_sub(vf_zero(), unit));
  }
  return as_f16(least_squares(t, n, best.scale));
}

bool pack_i4(const PackArgs* p) {
  return pack_groups(*p, [&](const float* t, int at) {
    const Vf scale = search4(t, p->group), inv = inverse(scale);
    vf_to_f16(p->scale + at / p->group * 32, scale);
    put_codes<4>(t, p->group, p->dst + at * 8, [&](Vf x) { return vf_add(round4(vf_mul(x, inv)), vf_set1(8.0f)); });
  });
}

}  // namespace
}  // namespace kt
