// The table of a vector ISA; a unit with tiles fills in the rest.
#pragma once
#include "checksum.inl"
#include "gemm_bf16.inl"
#include "gemm_int.inl"
#include "limits.inl"
#include "pack_more.inl"
#include "turn.inl"

namespace kt {
namespace {

double peak_vector(int kind, long rounds) {
  if (kind == 0) return peak_fma(rounds);
  if (kind == 1) return peak_dot<DotU8>(rounds);
  if (kind == 2) return peak_bf16(rounds);
  return kind == 5 ? peak_dot<DotU<8, 15>>(rounds) : 0;
}

template <class W>
constexpr void add_format(Kernels& t, Product product, bool (*pack)(const PackArgs*),
                          void (*gemm)(const GemmArgs*) = gemm_int<W>) {
  const int i = int(product);
  t.gemm[i] = gemm;
  t.turn[i] = turn<LinesInt<W>>;
  t.widen[i] = widen<LinesInt<W>>;
  t.pack[i] = pack;
}

constexpr Kernels vector_table(const char* name) {
  Kernels t = {};
  t.name = name;
  t.bf16_acts = kBf16Acts;
  t.gemm_bf16 = gemm_bf16;
  t.gemm[0] = gemm_bf16;
  t.turn[0] = turn<LinesBf16>;
  t.widen[0] = widen<LinesBf16>;
  t.pack[0] = pack_bf16;
  add_format<FormatI8>(t, Product::i8, pack_i8);
  add_format<FormatI4>(t, Product::i4, pack_i4, gemm_any_group<FormatI4>);
  add_format<FormatQ80>(t, Product::q8_0, pack_q8_0);
  add_format<FormatQ41>(t, Product::q4_1, pack_q4_1, gemm_any_group<FormatQ41>);
  add_format<FormatMxfp4>(t, Product::mxfp4, pack_mxfp4);
  add_format<FormatNvfp4>(t, Product::nvfp4, pack_nvfp4);
  add_format<FormatIq4>(t, Product::iq4_nl, pack_iq4_nl);
  add_format<FormatQ60>(t, Product::q6_0, pack_q6_0, gemm_any_group<FormatQ60>);
  add_format<FormatQ61>(t, Product::q6_1, pack_q6_1, gemm_any_group<FormatQ61>);
  t.quantise = quantise;
  t.put_f32 = put_f32;
  t.put_bf16 = put_bf16;
  t.load_row = load_row;
  t.store_row = store_row;
  t.glu = glu;
  t.sum_rows = sum_rows;
  t.glu_back = glu_back;
  t.axpy = axpy;
  t.dot = dot;
  t.peak = peak_vector;
  t.read = read_all;
  t.checksums = checksums;
  return t;
}

}  // namespace
}  // namespace kt
