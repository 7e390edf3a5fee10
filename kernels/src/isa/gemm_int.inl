// A block of int8 activations times panels of integer weights: exact integer sums of a group, then f32
// multiply-adds with the scales of weight and activation.

namespace {

// Sums over N k of P panels and M rows.
template <class C, int N, int M, int P>
KT_INLINE void sum_lines(typename C::Dot::Acc (&acc)[M][P], const char* a, const char* w, size_t stride) {
  using Dot = typename C::Dot;
  constexpr int kTogether = C::kTogether;
  steps<N / kTogether>(KT_EACH(j) {
    unroll<kTogether / 4>(KT_EACH(i) {
      Line line[P];
      unroll<P>(KT_EACH(p) {
        const char* at = w + p * stride + j * (kTogether * 2 * C::kBits);
        line[p] = Dot::w(C::operand(C::template code<i>(at)));
      });
      unroll<M>(KT_EACH(m) {
        const auto x = Dot::x(a + m * 64 + j * kTogether + i * 4);
        unroll<P>(KT_EACH(p) { acc[m][p] = Dot::dot(acc[m][p], line[p], x); });
      });
    });
  });
}

template <class W>
struct IntBody {
  using Codes = typename W::Codes;
  using Dot = typename Codes::Dot;
  static constexpr int kRows = kMaxRowsInt;

  static void advance(GemmArgs& g, int k) {
    g.a += size_t(k / 64 * g.m) * 64;
    g.w += size_t(k) * 2 * Codes::kBits;
    g.k0 += k;
    g.a_scale += k / g.a_group * 16;
    g.a_sum += k / g.a_group * 16;
  }

  template <int M>
  struct At {  // of one block of rows
    const char *a, *w;
    size_t step, stride;
    int k, end;
    KT_INLINE size_t left() const { return size_t(end - k) * 2 * Codes::kBits; }
    KT_INLINE const char* x() const { return a + (k >> 6) * step + (k & 63); }
    KT_INLINE void skip(int n) {
      w += n * 2 * Codes::kBits;
      k += n;
    }
  };

  // Sums over a group's span, in parts that the accumulators can hold.
  template <int M, int P>
  static KT_INLINE void sum_span(Vi (&sum)[M][P], At<M>& at, const int32_t* x_sum) {
    constexpr int kSpan = W::kSpan, kPart = kSpan < Dot::kDepth ? kSpan : 16;
    if constexpr (M <= 2) fetch_ahead<kSpan * Codes::kBits / 32, P>(at.w, at.stride, at.left());
    unroll<kSpan / kPart>(KT_EACH(part) {
      typename Dot::Acc acc[M][P];
      unroll<M * P>(KT_EACH(i) { acc[i / P][i % P] = Dot::init(part ? 0 : x_sum[i / P]); });
      sum_lines<Codes, kPart>(acc, at.x(), at.w, at.stride);
      at.skip(kPart);
      unroll<M * P>(KT_EACH(i) {
        const Vi done = Dot::done(acc[i / P][i % P], part ? 0 : x_sum[i / P]);
        sum[i / P][i % P] = part ? vi_add(sum[i / P][i % P], done) : done;
      });
    });
  }

  // Sums over k that share one activation scale.
  template <int M, int P>
  static KT_INLINE void sum_to(Vi (&sum)[M][P], At<M>& at, const int32_t* x_sum, int end) {
    typename Dot::Acc acc[M][P];
    unroll<M * P>(KT_EACH(i) { acc[i / P][i % P] = Dot::init(x_sum[i / P]); });
    do {
      if constexpr (M <= 2) fetch_ahead<Codes::kBits, P>(at.w, at.stride, at.left());
      sum_lines<Codes, 32>(acc, at.x(), at.w, at.stride);
      at.skip(32);
    } while (at.k < end);
    unroll<M * P>(KT_EACH(i) { sum[i / P][i % P] = Dot::done(acc[i / P][i % P], x_sum[i / P]); });
  }

  template <int M, int P>
  static void run(const GemmArgs& g, int row, int panel) {
    At<M> at = {g.a + row * 64, g.w + panel * g.w_stride, size_t(g.m) * 64, g.w_stride, 0, g.k};
    const char* ws = g.w_scale + panel * g.w_scale_stride;
    const float* as = g.a_scale + row;
    const int32_t* x_sum = g.a_sum + row;
    Vf total[M][P];
    unroll<M * P>(KT_EACH(i) { total[i / P][i % P] = vf_zero(); });
    while (at.k < g.k) {
      const int span_end = W::kGrouped ? at.k + g.w_group : g.k;
      Vf scale[P], low[P];
      unroll<P>(KT_EACH(p) {
        const char* s = W::at(ws + p * g.w_scale_stride, g.k0 + at.k, g.w_group);
        if constexpr (M <= 2 && W::kGrouped) __builtin_prefetch(s + P * g.w_scale_stride);  // the next panels'
        scale[p] = W::scale(s);
        low[p] = W::minimum(s);
      });
      for (; at.k < span_end; as += 16, x_sum += 16) {
        Vi sum[M][P];
        if constexpr (W::kGrouped) sum_span<M, P>(sum, at, x_sum);
        else sum_to<M, P>(sum, at, x_sum, at.k + g.a_group);
        unroll<M * P>(KT_EACH(i) {
          constexpr int m = i / P, p = i % P;
          total[m][p] = vf_fma(vf_from_int(sum[m][p]), vf_mul(scale[p], vf_set1(as[m])), total[m][p]);
          if constexpr (W::kMinimum)
            total[m][p] = vf_fma(low[p], vf_set1(as[m] * float(x_sum[m])), total[m][p]);
        });
      }
    }
    if constexpr (W::kRow)
      unroll<M * P>(KT_EACH(i) {
        total[i / P][i % P] = vf_mul(total[i / P][i % P], W::row(ws + i % P * g.w_scale_stride));
      });
    put_sums<M, P>(g, row, panel, total);
  }
};

template <class W>
void gemm_int(const GemmArgs* g) { walk<IntBody<W>>(*g); }

template <class W>
void gemm_any_group(const GemmArgs* g) {
  g->w_group == 16 ? walk<IntBody<typename W::Narrow>>(*g) : walk<IntBody<W>>(*g);
}

}  // namespace
