// CRC-32C of every 64 KiB, by all threads: what packed files are checked with.
#pragma once
#include <cstddef>
#include <cstdint>

#include "../isa/abi.h"

namespace kt {

constexpr size_t kSummed = size_t(64) << 10;

// sums: one for every 64 KiB, the last of which may be shorter. More than a few MiB go through the pool, in steps
// between which other calls have their turn. Throws FormatError where a mapped file cannot be read.
void checksums(const Kernels& kernels, const char* data, size_t bytes, uint32_t* sums);

}  // namespace kt
