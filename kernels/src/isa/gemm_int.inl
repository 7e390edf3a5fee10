// A block of int8 activations times panels of integer weights: exact integer sums of a group, then f32
// multiply-adds with the scales of weight and activation.
#pragma once
#include "blocks.inl"
#include "packed.inl"

namespace kt {
namespace {

// Where formats keep their codes, 8 k are the least that products take at once.
template <class C>
constexpr int kChunk = C::kTogether < 8 ? 8 : C::kTogether;

// The operands of the I-th 8 k of a chunk: two lines.
template <class C, int I>
KT_INLINE void operands(Line (&w)[2], const char* at) {
  unroll<2>(KT_EACH(i) {
    constexpr int kLine = 2 * I + i, kPer = C::kTogether / 4;
    w[i] = C::Dot::w(C::operand(C::template code<kLine % kPer>(at + kLine / kPer * (C::kTogether * 2 * C::kBits))));
  });
}

// Sums over N k of P panels and M rows.
template <class C, bool Abs, int N, int M, int P>
KT_INLINE void sum_lines(typename C::Dot::Acc (&acc)[M][P], const char* a, ptrdiff_t abs_at, const char* w,
                         size_t stride) {
  using Dot = typename C::Dot;
  steps<N / kChunk<C>, C::kBits == 8>(KT_EACH(j) {
    unroll<kChunk<C> / 8>(KT_EACH(i) {
      Line lines[P][2];
      unroll<P>(KT_EACH(p) { operands<C, i>(lines[p], w + p * stride + j * (kChunk<C> * 2 * C::kBits)); });
      unroll<M>(KT_EACH(m) {
        const char* at = a + m * 64 + j * kChunk<C> + i * 8;
        typename Dot::X x;
        if constexpr (Abs) x = Dot::x(at, at + abs_at);
        else x = Dot::x(at);
        unroll<P>(KT_EACH(p) { acc[m][p] = Dot::dot(acc[m][p], lines[p], x); });
      });
    });
  });
}

// What a step of the depth is prepared as for many rows.
struct IntRoom {
  alignas(64) char abs[16 * kDepthStep];
  alignas(64) char codes[kPanels][16 * kDepthStep];
  alignas(64) char scale[kPanels][kDepthStep / 16 * 128];
};

// A panel of format W as W::Unpacked has it.
template <class W>
KT_INLINE void unpack_panel(const Step& g, const char* w, const char* w_scale, char* codes, char* scale) {
  using C = typename W::Codes;
  if constexpr (C::kBits < 8)
    for (int k = 0; k < g.k; k += kChunk<C>, codes += kChunk<C> * 16)
      unroll<kChunk<C> / 8>(KT_EACH(i) {
        Line two[2];
        operands<C, i>(two, w + k * 2 * C::kBits);
        line_store(codes + i * 128, two[0]);
        line_store(codes + i * 128 + 64, two[1]);
      });
  for (int k = 0; k < g.k; k += W::kSpan, scale += W::Unpacked::kBytes) {
    const char* at = W::at(w_scale, g.k0 + k, g.w_group);
    vf_store(scale, vf_mul(W::scale(at), W::row(w_scale)));
    if constexpr (W::kMinimum) vf_store(scale + 64, vf_mul(W::minimum(at), W::row(w_scale)));
  }
}

template <class W, bool Many>
struct HeldAs {
  using Format = W;
};
template <class W>
struct HeldAs<W, true> {
  using Format = typename W::Unpacked;
};

// Many: rows share panels that are unpacked first, and magnitudes of activations.
template <class Packed, bool Many>
struct IntBody {
  using W = typename HeldAs<Packed, Many>::Format;
  using Codes = typename W::Codes;
  using Dot = typename Codes::Dot;
  using Room = IntRoom;
  static constexpr int kRows = kMaxRowsInt;
  static constexpr int kFrom = Many && Packed::Codes::kBits < 8 ? 6 : 0;  // rows for which it pays
  static constexpr bool kAbs = Many && Dot::kAbs;

  static void advance(Step& g, int k) {
    g.a += size_t(k / 64 * g.m) * 64;
    g.w += size_t(k) * 2 * Packed::Codes::kBits;
    g.k0 += k;
    g.a_scale += k / g.a_group * 16;
    g.a_sum += k / g.a_group * 16;
  }

  static void begin(Step& g, Room& room) {
    if constexpr (kAbs) {
      for (int i = 0; i < g.m * g.k; i += 64) line_store(room.abs + i, line_abs(line_load(g.a + i)));
      g.abs_at = room.abs - g.a;
    }
  }

  static Step unpack(const Step& g, int panel, Room& room) {
    Step ready = panels_from(g, panel);
    if constexpr (Many && Packed::kGrouped) {
      unroll<kPanels>(KT_EACH(p) {
        unpack_panel<Packed>(g, ready.w + p * g.w_stride, ready.w_scale + p * g.w_scale_stride, room.codes[p],
                             room.scale[p]);
      });
      if constexpr (Packed::Codes::kBits < 8) {
        ready.w = room.codes[0];
        ready.w_stride = sizeof room.codes[0];
      }
      ready.w_scale = room.scale[0];
      ready.w_scale_stride = sizeof room.scale[0];
    }
    return ready;
  }

  template <int M>
  struct At {  // of one block of rows
    const char *a, *w;
    size_t to_next, stride;  // from the end of a tile's row to the next tile's; from panel to panel
    int k, end;
    ptrdiff_t abs_at;
    KT_INLINE size_t left() const { return size_t(end - k) * 2 * Codes::kBits; }
    KT_INLINE void skip(int n) {
      w += n * 2 * Codes::kBits;
      a += n;
      k += n;
      if (k % 64 == 0) a += to_next;
    }
  };

  // Sums over k that share one activation scale.
  template <int M, int P>
  static KT_INLINE void sum_to(Vi (&sum)[M][P], At<M>& at, const int32_t* x_sum, int end) {
    constexpr int kSpan = W::kSpan;
    static_assert(kSpan <= Dot::kDepth);
    typename Dot::Acc acc[M][P];
    unroll<M * P>(KT_EACH(i) { acc[i / P][i % P] = Dot::init(x_sum[i / P]); });
    do {
      if constexpr (!Many && M <= 2) fetch_ahead<kSpan * Codes::kBits / 32, P>(at.w, at.stride, at.left());
      sum_lines<Codes, kAbs, kSpan>(acc, at.a, at.abs_at, at.w, at.stride);
      at.skip(kSpan);
    } while (!W::kGrouped && at.k < end);
    unroll<M * P>(KT_EACH(i) { sum[i / P][i % P] = Dot::done(acc[i / P][i % P]); });
  }

  template <int M, int P>
  static void run(const Step& g, int row, int panel) {
    At<M> at = {.a = g.a + row * 64,
                .w = g.w + panel * g.w_stride,
                .to_next = size_t(g.m - 1) * 64,
                .stride = g.w_stride,
                .k = 0,
                .end = g.k,
                .abs_at = g.abs_at};
    const char* ws = g.w_scale + panel * g.w_scale_stride;
    const float* as = g.a_scale + row;
    const int32_t* x_sum = g.a_sum + row;
    Vf total[M][P];
    unroll<M * P>(KT_EACH(i) { total[i / P][i % P] = vf_zero(); });
    while (at.k < g.k) {
      const int span_end = W::kGrouped ? at.k + W::span(g.w_group) : g.k;
      Vf scale[P], low[P];
      unroll<P>(KT_EACH(p) {
        const char* s = W::at(ws + p * g.w_scale_stride, Many ? at.k : g.k0 + at.k, g.w_group);
        if constexpr (!Many && M <= 2 && W::kGrouped) __builtin_prefetch(s + P * g.w_scale_stride);  // the next panels'
        scale[p] = W::scale(s);
        low[p] = W::minimum(s);
      });
      for (; at.k < span_end; as += 16, x_sum += 16) {
        Vi sum[M][P];
        sum_to<M, P>(sum, at, x_sum, at.k + g.a_group);
        unroll<M * P>(KT_EACH(i) {
          constexpr int m = i / P, p = i % P;
          total[m][p] = vf_fma(vf_from_int(sum[m][p]), vf_mul(scale[p], vf_set1(as[m])), total[m][p]);
          if constexpr (W::kMinimum) total[m][p] = vf_fma(low[p], vf_set1(as[m] * float(x_sum[m])), total[m][p]);
        });
      }
    }
    if constexpr (W::kRow)
      unroll<M * P>(
          KT_EACH(i) { total[i / P][i % P] = vf_mul(total[i / P][i % P], W::row(ws + i % P * g.w_scale_stride)); });
    put_sums<M, P>(g, row, panel, total);
  }
};

template <class W>
void gemm_int(const GemmArgs* g) {
  walk<IntBody<W, false>, IntBody<W, kUnpackOnce>>(*g);
}

template <class W>
void gemm_any_group(const GemmArgs* g) {
  g->w_group == 16 ? gemm_int<typename W::Narrow>(g) : gemm_int<W>(g);
}

}  // namespace
}  // namespace kt
