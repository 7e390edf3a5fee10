// AMX tile instructions under neutral names, so that tiles_shim.h can stand in for them.
//
// GCC 12 tells its optimiser that the intrinsic reads 8 bytes of the configuration, and drops the stores to the others.
#pragma once
#include <immintrin.h>

#define KT_TILE_CONFIG(p) __asm__ volatile("ldtilecfg %0" ::"m"(*(p)))
#define KT_TILE_RELEASE() _tile_release()
#define KT_TILE_ZERO(t) _tile_zero(t)
#define KT_TILE_LOAD(t, p, stride) _tile_loadd(t, p, stride)
#define KT_TILE_STORE(t, p, stride) _tile_stored(t, p, stride)
#define KT_TILE_DOT_S8(c, a, b) _tile_dpbssd(c, a, b)
#define KT_TILE_DOT_BF16(c, a, b) _tile_dpbf16ps(c, a, b)
