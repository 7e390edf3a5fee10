// CRC-32C of every 64 KiB, for files of packed weights.
#pragma once
#include <cstddef>
#include <cstdint>

#include "vec.h"

namespace kt {
namespace {

constexpr size_t kChecked = 64 << 10;

// Of N blocks side by side, as one chain of this instruction waits for itself.
template <int N>
void checksum_blocks(const char* p, uint32_t* sums) {
  uint64_t crc[N];
  for (int n = 0; n < N; ++n) crc[n] = 0xffffffff;
  for (size_t at = 0; at < kChecked; at += 8)
    for (int n = 0; n < N; ++n) {
      uint64_t word;
      __builtin_memcpy(&word, p + size_t(n) * kChecked + at, 8);
      crc[n] = _mm_crc32_u64(crc[n], word);
    }
  for (int n = 0; n < N; ++n) sums[n] = ~uint32_t(crc[n]);
}

void checksums(const char* p, size_t bytes, uint32_t* sums) {
  for (; bytes >= 4 * kChecked; bytes -= 4 * kChecked, p += 4 * kChecked, sums += 4) checksum_blocks<4>(p, sums);
  for (; bytes >= kChecked; bytes -= kChecked, p += kChecked, ++sums) checksum_blocks<1>(p, sums);
  if (bytes == 0) return;
  uint32_t crc = 0xffffffff;
  for (size_t i = 0; i < bytes; ++i) crc = _mm_crc32_u8(crc, static_cast<unsigned char>(p[i]));
  *sums = ~crc;
}

}  // namespace
}  // namespace kt
