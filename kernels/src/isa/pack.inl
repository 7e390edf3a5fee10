// From 16 rows of f32 to one panel. Lanes are rows, so the input is turned first, 16 k at a time.

namespace {

constexpr int kMaxGroup = 128;

// t[k][row] = rows[row][k0 + k]
void turn(const float* rows, int depth, int k0, int n, float* t) {
  for (int r = 0; r < 16; ++r)
    for (int k = 0; k < n; ++k) t[k * 16 + r] = rows[size_t(r) * depth + k0 + k];
}

bool finite(const float* rows, size_t n) {
  Vf bad = vf_zero();  // x - x is NaN unless x is finite
  for (size_t i = 0; i < n; i += 16) {
    const Vf x = vf_load(rows + i);
    bad = vf_add(bad, vf_sub(x, x));
  }
  float lanes[16];
  vf_store(lanes, bad);
  for (float lane : lanes)
    if (lane != 0.0f) return false;
  return true;
}

bool pack_bf16(const PackArgs* p) {
  if (!finite(p->rows, size_t(p->k) * 16)) return false;
  for (int k = 0; k < p->k; k += 16) {
    for (int r = 0; r < 16; ++r) {
      uint16_t h[16];
      vf_to_bf16(h, vf_load(p->rows + size_t(r) * p->k + k));
      for (int j = 0; j < 16; j += 2)
        __builtin_memcpy(p->dst + (k + j) / 2 * 64 + r * 4, h + j, 4);
    }
  }
  return true;
}

bool pack_i8(const PackArgs* p) {
  if (!finite(p->rows, size_t(p->k) * 16)) return false;
  float* scales = reinterpret_cast<float*>(p->scale);
  for (int r = 0; r < 16; ++r) {
    const float* x = p->rows + size_t(r) * p->k;
    Vf most = vf_zero();
    for (int k = 0; k < p->k; k += 16) most = vf_max(most, vf_abs(vf_load(x + k)));
    const float amax = vf_hmax(most);
    const Vf inv = vf_set1(amax > 0 ? 127.0f / amax : 0.0f);
    scales[r] = amax / 127.0f;
    for (int k = 0; k < p->k; k += 16) {
      char q[16];
      vi_to_bytes(q, vi_round(vf_mul(vf_load(x + k), inv)));
      for (int j = 0; j < 16; j += 4) __builtin_memcpy(p->dst + (k + j) * 16 + r * 4, q + j, 4);
    }
  }
  return true;
}

KT_INLINE Vf round4(Vf x) {
  return vf_min(vf_max(vf_round(x), vf_set1(-8.0f)), vf_set1(7.0f));
}

// Through f16, so that the error is judged with the scale that will be stored.
KT_INLINE Vf as_f16(Vf x) {
  uint16_t h[16];
  vf_to_f16(h, x);
  return vf_from_f16(h);
}

KT_INLINE Vf inverse(Vf s) { return vf_if_zero(s, vf_zero(), vf_div(vf_set1(1.0f), s)); }

struct Fit { Vf error, least_squares; };

Fit fit4(const float* t, int n, Vf scale) {
  const Vf inv = inverse(scale);
  Vf error = vf_zero(), xq = vf_zero(), qq = vf_zero();
  for (int k = 0; k < n; ++k) {
    const Vf x = vf_load(t + k * 16), q = round4(vf_mul(x, inv));
    const Vf d = vf_sub(x, vf_mul(q, scale));
    error = vf_fma(d, d, error);
    xq = vf_fma(x, q, xq);
    qq = vf_fma(q, q, qq);
  }
  return {error, vf_mul(xq, inverse(qq))};
}

// Signed scales of least squared error: the extreme value at -8 and at less than -8, both signs,
// each refined once by least squares.
Vf search4(const float* t, int n) {
  Vf high = vf_zero(), low = vf_zero();
  for (int k = 0; k < n; ++k) {
    high = vf_max(high, vf_load(t + k * 16));
    low = vf_min(low, vf_load(t + k * 16));
  }
  const Vf amax = vf_max(high, vf_sub(vf_zero(), low));
  Vf best = vf_zero(), least = vf_set1(3e38f);
  for (int sign = -1; sign <= 1; sign += 2)
    for (int i = 0; i < 9; ++i) {
      const Vf start = vf_mul(amax, vf_set1(float(sign) / (6.6f + 0.3f * float(i))));
      const Vf scale = as_f16(fit4(t, n, start).least_squares);
      const Vf error = fit4(t, n, scale).error;
      best = vf_if_less(error, least, scale, best);
      least = vf_min(error, least);
    }
  return best;
}

// Nibbles are q + 8: k..k+3 of a row low, k+4..k+7 high.
void nibbles(const float* t, int n, Vf scale, char* dst) {
  char q[kMaxGroup][16];
  const Vf inv = inverse(scale);
  for (int k = 0; k < n; ++k)
    vi_to_bytes(q[k], vi_round(vf_add(round4(vf_mul(vf_load(t + k * 16), inv)), vf_set1(8.0f))));
  for (int k = 0; k < n; k += 8)
    for (int r = 0; r < 16; ++r)
      for (int j = 0; j < 4; ++j) dst[k * 8 + r * 4 + j] = char(q[k + j][r] | q[k + 4 + j][r] << 4);
}

bool pack_i4(const PackArgs* p) {
  if (!finite(p->rows, size_t(p->k) * 16)) return false;
  float t[kMaxGroup * 16];
  for (int k = 0; k < p->k; k += p->group) {
    turn(p->rows, p->k, k, p->group, t);
    const Vf scale = search4(t, p->group);
    vf_to_f16(p->scale + k / p->group * 32, scale);
    nibbles(t, p->group, scale, p->dst + k * 8);
  }
  return true;
}

}  // namespace
