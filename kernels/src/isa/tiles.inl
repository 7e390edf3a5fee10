// Products on AMX tiles: two blocks of activations times two panels at a time, so that every loaded
// tile is used twice. Panels and blocks lie in memory exactly as the tiles want them.
#pragma once
#include "table.inl"
#ifndef KT_TILE_ZERO
#include "tiles_hw.h"
#endif

namespace kt {
namespace {

struct alignas(64) TileConfig {
  uint8_t palette, start_row, reserved[14];
  uint16_t bytes[16];
  uint8_t rows[16];
};

void configure(const int (&rows)[8]) {
  TileConfig c = {};
  c.palette = 1;
  for (int t = 0; t < 8; ++t) {
    c.bytes[t] = 64;
    c.rows[t] = uint8_t(rows[t]);
  }
  KT_TILE_CONFIG(&c);
}

// Tiles 0 to 3 accumulate: 0 and 1 the first block, 2 and 3 the second. Activations are in 4 and 5. A
// product takes as many cycles as its block has rows.
void configure_square(int rows, int rows2) {
  const int of_tile[8] = {rows, rows, rows2, rows2, rows, rows2, 16, 16};
  configure(of_tile);
}

// One block: all sums and tile 4 have its rows, 5 and 6 hold weights.
void configure_stripe(int rows) {
  const int of_tile[8] = {rows, rows, rows, rows, rows, 16, 16, 16};
  configure(of_tile);
}

// Lines brought into the second-level cache while the tiles compute, two streams side by side.
struct Fetch {
  const char *p = nullptr, *q = nullptr;
  int lines = 0;  // of each stream, at every step
  int until = 0;  // steps until both streams jump
  size_t jump = 0;
};

KT_INLINE void fetch(Fetch& f) {
  for (int i = 0; i < f.lines; ++i) {
    _mm_prefetch(f.p + i * 64, _MM_HINT_T1);
    _mm_prefetch(f.q + i * 64, _MM_HINT_T1);
  }
  const size_t on = size_t(f.lines) * 64 + (--f.until == 0 ? f.jump : 0);
  f.p += on;
  f.q += on;
}

// The part of what is to be fetched that falls to run `i` of `n`, each of `depth` steps.
Fetch share(const Ahead& ahead, int first, int i, int n, int depth) {
  if (!ahead.at) return {};
  const int lines = (ahead.lines + n * depth - 1) / (n * depth);
  const char* p = ahead.at + size_t(first) * ahead.stride + size_t(i) * lines * depth * 64;
  return {p, p + ahead.stride, lines};
}

// Two panels that are read once, some tiles ahead, and then the two that come `panels` later.
Fetch run_ahead(const TileArgs& g, int panel, int panels) {
  const int by = g.run_ahead < g.depth ? g.run_ahead : g.depth;
  const size_t jump = size_t(panels - 1) * g.w_stride;  // a panel ends where the next one begins
  const char* p = g.w + size_t(panel) * g.w_stride + size_t(by) * 1024 + (by < g.depth ? 0 : jump);
  return {p, p + g.w_stride, 16, g.depth - by, jump};
}

char* sums_at(const TileArgs& g, int block, int panel) { return g.c + (size_t(panel) * g.blocks + block) * 1024; }

#define KT_START(t, at)               \
  if (g.add) KT_TILE_LOAD(t, at, 64); \
  else KT_TILE_ZERO(t)

// An operand's tile is emptied after its last use. A busy hyper-thread on the same core leaves hardly
// any spare tile to rename to; an empty tile needs none, so the next load need not wait for the
// products before it. That makes these loops 1.6 times as fast there, and costs nothing elsewhere.
#define KT_LAST_USE(t) KT_TILE_ZERO(t)

// Two blocks, two panels.
#define KT_SQUARE(DOT)                                                              \
  char *c0 = sums_at(g, block, panel), *c1 = sums_at(g, block, panel + 1);          \
  const char *a = g.a + block * g.a_stride, *a2 = a + g.a_stride;                   \
  const char *b = g.w + panel * g.w_stride, *b2 = b + g.w_stride;                   \
  KT_START(0, c0);                                                                  \
  KT_START(1, c1);                                                                  \
  KT_START(2, c0 + 1024);                                                           \
  KT_START(3, c1 + 1024);                                                           \
  for (int t = 0; t < g.depth; ++t, a += 1024, a2 += 1024, b += 1024, b2 += 1024) { \
    KT_TILE_LOAD(4, a, 64);                                                         \
    KT_TILE_LOAD(7, b2, 64);                                                        \
    DOT(1, 4, 7);                                                                   \
    fetch(w);                                                                       \
    KT_TILE_LOAD(6, b, 64);                                                         \
    DOT(0, 4, 6);                                                                   \
    KT_LAST_USE(4);                                                                 \
    KT_TILE_LOAD(5, a2, 64);                                                        \
    DOT(3, 5, 7);                                                                   \
    KT_LAST_USE(7);                                                                 \
    fetch(x);                                                                       \
    DOT(2, 5, 6);                                                                   \
    KT_LAST_USE(5);                                                                 \
    KT_LAST_USE(6);                                                                 \
  }                                                                                 \
  KT_TILE_STORE(0, c0, 64);                                                         \
  KT_TILE_STORE(1, c1, 64);                                                         \
  KT_TILE_STORE(2, c0 + 1024, 64);                                                  \
  KT_TILE_STORE(3, c1 + 1024, 64);

// One block, four panels.
#define KT_STRIPE(DOT)                                                           \
  char *c0 = sums_at(g, block, panel), *c1 = sums_at(g, block, panel + 1);       \
  char *c2 = sums_at(g, block, panel + 2), *c3 = sums_at(g, block, panel + 3);   \
  const char *a = g.a + block * g.a_stride, *b = g.w + panel * g.w_stride;       \
  const char *b1 = b + g.w_stride, *b2 = b1 + g.w_stride, *b3 = b2 + g.w_stride; \
  KT_START(0, c0);                                                               \
  KT_START(1, c1);                                                               \
  KT_START(2, c2);                                                               \
  KT_START(3, c3);                                                               \
  for (int t = 0; t < g.depth; ++t, a += 1024) {                                 \
    const size_t at = size_t(t) * 1024;                                          \
    KT_TILE_LOAD(4, a, 64);                                                      \
    KT_TILE_LOAD(5, b + at, 64);                                                 \
    DOT(0, 4, 5);                                                                \
    KT_LAST_USE(5);                                                              \
    KT_TILE_LOAD(6, b1 + at, 64);                                                \
    DOT(1, 4, 6);                                                                \
    KT_LAST_USE(6);                                                              \
    KT_TILE_LOAD(5, b2 + at, 64);                                                \
    DOT(2, 4, 5);                                                                \
    KT_LAST_USE(5);                                                              \
    KT_TILE_LOAD(6, b3 + at, 64);                                                \
    DOT(3, 4, 6);                                                                \
    KT_LAST_USE(6);                                                              \
    KT_LAST_USE(4);                                                              \
    fetch(w);                                                                    \
    fetch(w2);                                                                   \
  }                                                                              \
  KT_TILE_STORE(0, c0, 64);                                                      \
  KT_TILE_STORE(1, c1, 64);                                                      \
  KT_TILE_STORE(2, c2, 64);                                                      \
  KT_TILE_STORE(3, c3, 64);

struct S8 {
  static void square(const TileArgs& g, int block, int panel, Fetch w, Fetch x) { KT_SQUARE(KT_TILE_DOT_S8) }
  static void stripe(const TileArgs& g, int block, int panel, Fetch w, Fetch w2) { KT_STRIPE(KT_TILE_DOT_S8) }
};

struct Bf16 {
  static void square(const TileArgs& g, int block, int panel, Fetch w, Fetch x) { KT_SQUARE(KT_TILE_DOT_BF16) }
  static void stripe(const TileArgs& g, int block, int panel, Fetch w, Fetch w2) { KT_STRIPE(KT_TILE_DOT_BF16) }
};
#undef KT_START
#undef KT_SQUARE
#undef KT_STRIPE
#undef KT_LAST_USE

// A pair of panels stays in the first-level cache while the blocks from..to pass by, two at a time.
template <class Dot>
void walk_squares(const TileArgs& g, int from, int to) {
  const int visits = (g.blocks + 1) / 2;
  for (int p = 0; p < g.panels; p += 2)
    for (int i = from; i < to; i += 2)
      Dot::square(g, i, p, g.run_ahead ? run_ahead(g, p, 2) : share(g.w_ahead, p, i / 2, visits, g.depth),
                  share(g.a_ahead, i, p / 2, g.panels / 2, g.depth));
}

template <class Dot>
void walk_tiles(const TileArgs& g) {
  const int full = (g.last_rows == 16 ? g.blocks : g.blocks - 1) / 2 * 2;
  if (full) {
    configure_square(16, 16);
    walk_squares<Dot>(g, 0, full);
  }
  if (g.blocks - full == 2) {
    configure_square(16, g.last_rows);
    walk_squares<Dot>(g, full, g.blocks);
  } else if (g.blocks > full) {
    const int last = g.blocks - 1, visits = (g.blocks + 1) / 2;
    configure_stripe(g.last_rows);
    const auto ahead = [&](int panel) {
      return g.run_ahead ? run_ahead(g, panel, 4) : share(g.w_ahead, panel, last / 2, visits, g.depth);
    };
    for (int p = 0; p < g.panels; p += 4) Dot::stripe(g, last, p, ahead(p), ahead(p + 2));
  }
  KT_TILE_RELEASE();
}

void tile_s8(const TileArgs* g) { walk_tiles<S8>(*g); }
void tile_bf16(const TileArgs* g) { walk_tiles<Bf16>(*g); }

double peak_tiles(bool int8, long rounds) {
  static const char zeros[1024] = {};  // an automatic one would never be written: tile loads do not count as reads
  configure_square(16, 16);
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
  return kind == 3 || kind == 4 ? peak_tiles(kind == 3, rounds) : peak_vector(kind, rounds);
}

}  // namespace
}  // namespace kt
