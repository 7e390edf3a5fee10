// The table of a vector ISA; a unit with tiles fills in the rest.

namespace {

double peak_vector(int kind, long rounds) {
  if (kind == 0) return peak_fma(rounds);
  if (kind == 1) return peak_int8(rounds);
  return kind == 2 ? peak_bf16(rounds) : 0;
}

constexpr Kernels vector_table(const char* name) {
  Kernels t = {};
  t.name = name;
  t.bf16_acts = kBf16Acts;
  t.gemm_bf16 = gemm_bf16;
  t.gemm_i8 = gemm_i8;
  t.gemm_i4 = gemm_i4;
  t.quantise = quantise;
  t.put_f32 = put_f32;
  t.put_bf16 = put_bf16;
  t.load_row = load_row;
  t.store_row = store_row;
  t.glu = glu;
  t.sum_rows = sum_rows;
  t.turn[0] = turn<lines_bf16>;
  t.turn[1] = turn<lines_i8>;
  t.turn[2] = turn<lines_i4>;
  t.widen[0] = widen<lines_bf16>;
  t.widen[1] = widen<lines_i8>;
  t.widen[2] = widen<lines_i4>;
  t.glu_back = glu_back;
  t.axpy = axpy;
  t.dot = dot;
  t.pack_bf16 = pack_bf16;
  t.pack_i8 = pack_i8;
  t.pack_i4 = pack_i4;
  t.peak = peak_vector;
  t.read = read_all;
  return t;
}

}  // namespace
