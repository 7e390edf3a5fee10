// The tile instructions in plain C++, as the architecture manual defines them: the AMX bodies can be
// tested on a CPU without AMX. Built for tests only.
#pragma once
#include <cstddef>
#include <cstdint>

namespace {

struct ShimTile {
  int rows, bytes;
  unsigned char data[1024];
};
thread_local ShimTile shim_tiles[8];

void shim_config(const void* p) {
  const unsigned char* c = static_cast<const unsigned char*>(p);
  for (int t = 0; t < 8; ++t) {
    shim_tiles[t].rows = c[48 + t];
    shim_tiles[t].bytes = c[16 + 2 * t] | c[17 + 2 * t] << 8;
  }
}

void shim_zero(int t) { __builtin_memset(shim_tiles[t].data, 0, 1024); }

void shim_load(int t, const void* p, size_t stride) {
  ShimTile& d = shim_tiles[t];
  shim_zero(t);
  for (int r = 0; r < d.rows; ++r)
    __builtin_memcpy(d.data + r * 64, static_cast<const char*>(p) + r * stride, size_t(d.bytes));
}

void shim_store(int t, void* p, size_t stride) {
  const ShimTile& s = shim_tiles[t];
  for (int r = 0; r < s.rows; ++r)
    __builtin_memcpy(static_cast<char*>(p) + r * stride, s.data + r * 64, size_t(s.bytes));
}

template <class In, class Sum, class Wide>
void shim_dot(int c, int a, int b, Wide wide) {
  constexpr int per = 4 / int(sizeof(In));
  for (int m = 0; m < shim_tiles[a].rows; ++m)
    for (int k = 0; k < shim_tiles[b].rows; ++k)
      for (int n = 0; n < 16; ++n) {
        Sum sum;
        unsigned char* at = shim_tiles[c].data + m * 64 + n * 4;
        __builtin_memcpy(&sum, at, 4);
        for (int i = 0; i < per; ++i) {
          In x, y;
          __builtin_memcpy(&x, shim_tiles[a].data + m * 64 + k * 4 + i * sizeof(In), sizeof(In));
          __builtin_memcpy(&y, shim_tiles[b].data + k * 64 + n * 4 + i * sizeof(In), sizeof(In));
          sum += wide(x) * wide(y);
        }
        __builtin_memcpy(at, &sum, 4);
      }
}

float shim_bf16(uint16_t x) {
  const uint32_t bits = uint32_t(x) << 16;
  float f;
  __builtin_memcpy(&f, &bits, 4);
  return f;
}

void shim_dot_s8(int c, int a, int b) {
  shim_dot<signed char, int>(c, a, b, [](signed char x) { return int(x); });
}
void shim_dot_bf16(int c, int a, int b) { shim_dot<uint16_t, float>(c, a, b, shim_bf16); }

}  // namespace

#define KT_TILE_CONFIG(p) shim_config(p)
#define KT_TILE_RELEASE() (void)0
#define KT_TILE_ZERO(t) shim_zero(t)
#define KT_TILE_LOAD(t, p, stride) shim_load(t, p, stride)
#define KT_TILE_STORE(t, p, stride) shim_store(t, p, stride)
#define KT_TILE_DOT_S8(c, a, b) shim_dot_s8(c, a, b)
#define KT_TILE_DOT_BF16(c, a, b) shim_dot_bf16(c, a, b)
