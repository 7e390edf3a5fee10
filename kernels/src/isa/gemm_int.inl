// A block of int8 activations times panels of int8 or int4 weights: exact integer sums of 32 k and
// more, then one f32 multiply-add with the scales of weight and activation.

namespace {

struct WeightS8 {
  using Dot = DotS8;
  static constexpr int kBytesPer32 = 512;  // of one panel
  static KT_INLINE Vf scale(const char* s, int, int) { return vf_load(s); }
  template <int M, int P>
  static KT_INLINE void sum32(Dot::Acc (&acc)[M][P], const char* a, const char* w, size_t stride) {
#pragma GCC unroll 2
    for (int j = 0; j < 8; ++j) {
      Line line[P];
      unroll<P>(KT_EACH(p) { line[p] = Dot::w(line_load(w + p * stride + j * 64)); });
      unroll<M>(KT_EACH(m) {
        const auto x = Dot::x(a + m * 64 + j * 4);
        unroll<P>(KT_EACH(p) { acc[m][p] = Dot::dot(acc[m][p], line[p], x); });
      });
    }
  }
};

struct WeightU4 {  // one line holds k..k+3 in the low nibbles and k+4..k+7 in the high ones
  using Dot = DotU4;
  static constexpr int kBytesPer32 = 256;
  static KT_INLINE Vf scale(const char* s, int k, int group) {
    return vf_from_f16(s + k / group * 32);
  }
  template <int M, int P>
  static KT_INLINE void sum32(Dot::Acc (&acc)[M][P], const char* a, const char* w, size_t stride) {
#pragma GCC unroll 2
    for (int j = 0; j < 4; ++j) {
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
    }
  }
};

template <class W>
struct IntBody {
  using Dot = typename W::Dot;
  static constexpr int kRows = kMaxRowsInt;

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
    for (int k = 0; k < g.k; as += 16, sums += 16) {
      const int first = k, end = k + g.a_group;
      typename Dot::Acc acc[M][P];
      unroll<M * P>(KT_EACH(i) { acc[i / P][i % P] = Dot::init(sums[i / P]); });
      for (; k < end; k += 32, w += W::kBytesPer32)
        W::template sum32<M, P>(acc, a + (k >> 6) * step + (k & 32), w, stride);
      unroll<P>(KT_EACH(p) {
        const Vf s = W::scale(ws + p * g.w_scale_stride, first, g.w_group);
        unroll<M>(KT_EACH(m) {
          total[m][p] = vf_fma(vf_from_int(Dot::done(acc[m][p], sums[m])),
                               vf_mul(s, vf_set1(as[m])), total[m][p]);
        });
      });
    }
    float* c = g.c + (row * g.panels + panel) * 16;
    unroll<M * P>(KT_EACH(i) { vf_store(c + (i / P * g.panels + i % P) * 16, total[i / P][i % P]); });
  }
};

void gemm_i8(const GemmArgs* g) { walk<IntBody<WeightS8>>(*g); }
void gemm_i4(const GemmArgs* g) { walk<IntBody<WeightU4>>(*g); }

}  // namespace
