// Products on AMX tiles: two blocks of activations times two panels at a time, so that every loaded
// tile is used twice. Panels and blocks lie in memory exactly as the tiles want them.

namespace {

struct alignas(64) TileConfig {
  uint8_t palette, start_row, reserved[14];
  uint16_t bytes[16];
  uint8_t rows[16];
};

// Tiles 0..3 accumulate, 4 and 5 hold activations, 6 and 7 weights.
void configure(int m, int m2) {
  TileConfig c = {};
  c.palette = 1;
  const int second = m2 ? m2 : 1;
  const int rows[8] = {m, m, second, second, m, second, 16, 16};
  for (int t = 0; t < 8; ++t) {
    c.bytes[t] = 64;
    c.rows[t] = uint8_t(rows[t]);
  }
  KT_TILE_CONFIG(&c);
}

#define KT_TILES_RUN(DOT)                                                     \
  const char* b1 = b + g.w_stride;                                            \
  const char *a = g.a, *a2 = g.a2;                                            \
  const size_t step = size_t(g.m) * 64, step2 = size_t(g.m2) * 64;            \
  KT_TILE_ZERO(0);                                                            \
  KT_TILE_ZERO(1);                                                            \
  if (!g.m2) {                                                                \
    for (int t = 0; t < tiles; ++t, a += step, b += 1024, b1 += 1024) {       \
      KT_TILE_LOAD(6, b, 64);                                                 \
      KT_TILE_LOAD(4, a, 64);                                                 \
      DOT(0, 4, 6);                                                           \
      KT_TILE_LOAD(7, b1, 64);                                                \
      DOT(1, 4, 7);                                                           \
    }                                                                         \
    return;                                                                   \
  }                                                                           \
  KT_TILE_ZERO(2);                                                            \
  KT_TILE_ZERO(3);                                                            \
  for (int t = 0; t < tiles; ++t, a += step, a2 += step2, b += 1024, b1 += 1024) { \
    KT_TILE_LOAD(6, b, 64);                                                   \
    KT_TILE_LOAD(4, a, 64);                                                   \
    DOT(0, 4, 6);                                                             \
    KT_TILE_LOAD(5, a2, 64);                                                  \
    DOT(2, 5, 6);                                                             \
    KT_TILE_LOAD(7, b1, 64);                                                  \
    DOT(1, 4, 7);                                                             \
    DOT(3, 5, 7);                                                             \
  }

void run_s8(const GemmArgs& g, const char* b, int tiles) { KT_TILES_RUN(KT_TILE_DOT_S8) }
void run_bf16(const GemmArgs& g, const char* b, int tiles) { KT_TILES_RUN(KT_TILE_DOT_BF16) }
#undef KT_TILES_RUN

void tile_bf16(const GemmArgs* g) {
  configure(g->m, g->m2);
  const size_t stride = size_t(g->panels) * 64;
  for (int p = 0; p < g->panels; p += 2) {
    run_bf16(*g, g->w + p * g->w_stride, g->k / 32);
    float* c = g->c + p * 16;
    KT_TILE_STORE(0, c, stride);
    KT_TILE_STORE(1, c + 16, stride);
    if (!g->m2) continue;
    float* c2 = c + size_t(g->m) * g->panels * 16;
    KT_TILE_STORE(2, c2, stride);
    KT_TILE_STORE(3, c2 + 16, stride);
  }
  KT_TILE_RELEASE();
}

// Sums of one block and one panel become f32 with both scales.
void rescale(const int32_t* sums, int m, const float* a_scale, const char* w_scale, float* c,
             int stride) {
  const Vf s = vf_load(w_scale);
  for (int i = 0; i < m; ++i) {
    const Vf x = vf_from_int(_mm512_load_si512(sums + i * 16));
    vf_store(c + i * stride, vf_mul(x, vf_mul(s, vf_set1(a_scale[i]))));
  }
}

void tile_i8(const GemmArgs* g) {
  alignas(64) int32_t sums[4][256];
  configure(g->m, g->m2);
  const int stride = g->panels * 16;
  for (int p = 0; p < g->panels; p += 2) {
    run_s8(*g, g->w + p * g->w_stride, g->k / 64);
    KT_TILE_STORE(0, sums[0], 64);
    KT_TILE_STORE(1, sums[1], 64);
    const char* s = g->w_scale + p * g->w_scale_stride;
    float* c = g->c + p * 16;
    rescale(sums[0], g->m, g->a_scale, s, c, stride);
    rescale(sums[1], g->m, g->a_scale, s + g->w_scale_stride, c + 16, stride);
    if (!g->m2) continue;
    KT_TILE_STORE(2, sums[2], 64);
    KT_TILE_STORE(3, sums[3], 64);
    c += size_t(g->m) * stride;
    rescale(sums[2], g->m2, g->a2_scale, s, c, stride);
    rescale(sums[3], g->m2, g->a2_scale, s + g->w_scale_stride, c + 16, stride);
  }
  KT_TILE_RELEASE();
}

double peak_tiles(bool int8, long rounds) {
  alignas(64) char zeros[1024] = {};
  configure(16, 16);
  for (char& z : zeros) z = 0;
  KT_TILE_LOAD(4, zeros, 64);
  KT_TILE_LOAD(5, zeros, 64);
  KT_TILE_LOAD(6, zeros, 64);
  KT_TILE_LOAD(7, zeros, 64);
  KT_TILE_ZERO(0);
  KT_TILE_ZERO(1);
  KT_TILE_ZERO(2);
  KT_TILE_ZERO(3);
  for (long i = 0; i < rounds; ++i) {
    if (int8) {
      KT_TILE_DOT_S8(0, 4, 6);
      KT_TILE_DOT_S8(1, 4, 7);
      KT_TILE_DOT_S8(2, 5, 6);
      KT_TILE_DOT_S8(3, 5, 7);
    } else {
      KT_TILE_DOT_BF16(0, 4, 6);
      KT_TILE_DOT_BF16(1, 4, 7);
      KT_TILE_DOT_BF16(2, 5, 6);
      KT_TILE_DOT_BF16(3, 5, 7);
    }
  }
  KT_TILE_RELEASE();
  return double(rounds) * 4 * (int8 ? 32768.0 : 16384.0);
}

double peak_with_tiles(int kind, long rounds) {
  return kind < 3 ? peak_vector(kind, rounds) : peak_tiles(kind == 3, rounds);
}

}  // namespace
