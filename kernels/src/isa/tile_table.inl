// The table of a vector ISA that has tiles too.
#pragma once
#include "expand.inl"
#include "table.inl"
#include "tile_rows.inl"
#include "tiles.inl"

namespace kt {
namespace {

template <class W>
constexpr void add_expansion(Kernels& t, Product product) {
  t.row_scales[int(product)] = row_scales<W>;
  t.expand[int(product)] = expand<W>;
}

constexpr Kernels tile_table(const char* name) {
  Kernels t = vector_table(name);
  t.tile_from = 4;
  t.tile_bf16 = tile_bf16;
  t.tile_s8 = tile_s8;
  add_expansion<FormatI4>(t, Product::i4);
  add_expansion<FormatQ80>(t, Product::q8_0);
  add_expansion<FormatQ41>(t, Product::q4_1);
  add_expansion<FormatMxfp4>(t, Product::mxfp4);
  add_expansion<FormatNvfp4>(t, Product::nvfp4);
  add_expansion<FormatIq4>(t, Product::iq4_nl);
  add_expansion<FormatQ60>(t, Product::q6_0);
  add_expansion<FormatQ61>(t, Product::q6_1);
  t.gather = gather;
  t.finish_glu = finish_glu;
  t.finish_rows = finish_rows;
  t.peak = peak_with_tiles;
  return t;
}

}  // namespace
}  // namespace kt
