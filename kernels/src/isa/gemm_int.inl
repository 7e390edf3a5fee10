// A block of int8 activations times panels of int8 or int4 weights: exact integer sums of 32 k and
// more, then one f32 multiply-add with the scales of weight and activation.

namespace {

struct WeightS8 {
  using Dot = DotS8;
  static constexpr int kBytesPer32 = 512;  // of one panel
  static constexpr bool kGrouped = false;
  static size_t scale_bytes(int, int) { return 0; }
  static KT_INLINE Vf scale(const char* s) { return vf_load(s); }
  template <int M, int P>
  static KT_INLINE void sum32(Dot::Acc (&acc)[M][P], const char* a, const char* w, size_t stride) {
    steps<8>(KT_EACH(j) {
      Line line[P];
      unroll<P>(KT_EACH(p) { line[p] = Dot::w(line_load(w + p * stride + j * 64)); });
      unroll<M>(KT_EACH(m) {
        const auto x = Dot::x(a + m * 64 + j * 4);
        unroll<P>(KT_EACH(p) { acc[m][p] = Dot::dot(acc[m][p], line[p], x); });
      });
    });
  }
};

struct WeightU4 {  // one line holds k..k+3 in the low nibbles and k+4..k+7 in the high ones
  using Dot = DotU4;
  static constexpr int kBytesPer32 = 256;
  static size_t scale_bytes(int k, int group) { return size_t(k / group) * 32; }
  static constexpr bool kGrouped = true;  // and one activation scale for 32 k
  static KT_INLINE Vf scale(const char* s) { return vf_from_f16(s); }
  template <int M, int P>
  static KT_INLINE void sum32(Dot::Acc (&acc)[M][P], const char* a, const char* w, size_t stride) {
    steps<4>(KT_EACH(j) {
      unroll<2>(KT_EACH(half) {
        Line line[P];
        unroll<P>(KT_EACH(p) {
          const Line both = line_load(w + p * stride + j * 64);
          line[p] = half ? line_high(both) : line_low(both);
        });
        unroll<M>(KT_EACH(m) {
          const auto x = Dot::x(a + m * 64 + j * 8 + half * 4);
          unroll<P>(KT_EACH(p) { acc[m][p] = Dot::dot(acc[m][p], line[p], x); });
        });
      });
    });
  }
};

// For int4 and few rows: bound by memory, with panels too short for the hardware to run far ahead.
template <int P>
KT_INLINE void fetch_ahead(const char* w, size_t stride) {
  constexpr int kAhead = 1536;
  unroll<P * 4>(KT_EACH(i) { __builtin_prefetch(w + i / 4 * stride + i % 4 * 64 + kAhead); });
}

template <class W>
struct IntBody {
  using Dot = typename W::Dot;
  static constexpr int kRows = kMaxRowsInt;

  static void advance(GemmArgs& g, int k) {
    g.a += size_t(k / 64 * g.m) * 64;
    g.w += size_t(k / 32) * W::kBytesPer32;
    g.w_scale += W::scale_bytes(k, g.w_group);
    g.a_scale += k / g.a_group * 16;
    g.a_sum += k / g.a_group * 16;
  }

  template <int M, int P>
  static void run(const GemmArgs& g, int row, int panel) {
    const char* a = g.a + row * 64;
    const char* w = g.w + panel * g.w_stride;
    const char* ws = g.w_scale + panel * g.w_scale_stride;
    const float* as = g.a_scale + row;
    const int32_t* sums = g.a_sum + row;
    const size_t step = size_t(g.m) * 64, stride = g.w_stride;
    Vf total[M][P];
    unroll<M * P>(KT_EACH(i) { total[i / P][i % P] = vf_zero(); });
    for (int k = 0; k < g.k; ws += 32) {
      const int span_end = W::kGrouped ? k + g.w_group : g.k;
      Vf scale[P];
      unroll<P>(KT_EACH(p) { scale[p] = W::scale(ws + p * g.w_scale_stride); });
      for (; k < span_end; as += 16, sums += 16) {
        typename Dot::Acc acc[M][P];
        unroll<M * P>(KT_EACH(i) { acc[i / P][i % P] = Dot::init(sums[i / P]); });
        const int end = W::kGrouped ? k + 32 : k + g.a_group;
        do {
          if constexpr (M <= 2 && W::kGrouped) fetch_ahead<P>(w, stride);
          W::template sum32<M, P>(acc, a + (k >> 6) * step + (k & 32), w, stride);
          w += W::kBytesPer32;
          k += 32;
        } while (!W::kGrouped && k < end);
        unroll<M * P>(KT_EACH(i) {
          constexpr int m = i / P, p = i % P;
          total[m][p] = vf_fma(vf_from_int(Dot::done(acc[m][p], sums[m])),
                               vf_mul(scale[p], vf_set1(as[m])), total[m][p]);
        });
      }
    }
    put_sums<M, P>(g, row, panel, total);
  }
};

void gemm_i8(const GemmArgs* g) { walk<IntBody<WeightS8>>(*g); }
void gemm_i4(const GemmArgs* g) { walk<IntBody<WeightU4>>(*g); }

}  // namespace
