// The dense product on vectors: at most 16 rows of activations times panels of a packed matrix, in every format
// and on every instruction set. It knows nothing of experts, tokens or threads.
#pragma once
#include <cstddef>
#include <cstdint>

#include "memory.h"
#include "panels.h"

namespace kt {

enum class ActKind { f32, bf16, s8 };

// Rows of activations in blocks, as products read them.
struct Acts {
  ActKind kind = ActKind::f32;
  int k = 0;      // padded depth
  int group = 0;  // k that share a scale
  char* data = nullptr;
  float* scale = nullptr;  // [block][k / group][16], of s8
  int32_t* sum = nullptr;

  size_t row_bytes() const { return size_t(k) * (kind == ActKind::f32 ? 4 : kind == ActKind::bf16 ? 2 : 1); }
  size_t scales() const { return size_t(k / group) * 16; }
  int k_of_tile() const { return kind == ActKind::f32 ? 16 : kind == ActKind::bf16 ? 32 : 64; }
};

// Some rows of Acts that lie together.
struct RowBlock {
  int index;  // among the blocks: where its scales are
  int first;  // number of its first row
  int rows;   // 1 to 16
};

// What a product with a matrix reads, still without memory. A scale covers `widest` k where the format lets it.
Acts acts_for(const Kernels& kernels, const Coding& coding, int k, int widest);

struct ActsMemory {
  Scratch data, scale, sum;
};
void allocate(Acts& acts, size_t rows, size_t blocks, ActsMemory& memory);

// Values k0 to k0 + n - 1 of one row into its place in a block.
void put_row(const Kernels& kernels, const Acts& acts, const RowBlock& block, int row, const float* x, int n, int k0);

// c [rows][panels * 16] = rows times panels, or is added to. The panels start at depth k0 and go as deep as they say.
void multiply(const Kernels& kernels, const Acts& acts, const RowBlock& block, const Panels& panels, int k0, bool add,
              float* c);

}  // namespace kt
