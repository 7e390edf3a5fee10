// The table of a vector ISA that has tiles too.

namespace {

constexpr Kernels tile_table(const char* name) {
  Kernels t = vector_table(name);
  t.tile_from = 4;
  t.tile_bf16 = tile_bf16;
  t.tile_s8 = tile_s8;
  t.i4_row_scales = i4_row_scales;
  t.i4_to_i8 = i4_to_i8;
  t.gather = gather;
  t.finish_glu = finish_glu;
  t.finish_rows = finish_rows;
  t.peak = peak_with_tiles;
  return t;
}

}  // namespace
