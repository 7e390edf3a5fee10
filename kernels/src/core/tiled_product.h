// The dense product on tiles: blocks of 16 rows times panels of a packed matrix, cut for the caches. It knows
// nothing of experts, tokens or threads.
#pragma once
#include <algorithm>

#include "cut.h"
#include "panels.h"

namespace kt {

// Blocks of 16 rows, the last one of an expert filled up with zeros.
struct Blocks {
  char* data = nullptr;
  float* scale = nullptr;  // [block][16], of int8
  size_t row_bytes = 0;
  bool ints = false;  // int8, one scale a row; otherwise bf16

  int tiles() const { return int(row_bytes / 64); }
  size_t stride() const { return row_bytes * 16; }
  char* at(int block) const { return data + size_t(block) * stride(); }
};

// What one thread needs for it.
struct TileScratch {
  char* sums;     // [panel][block][16][16]
  char* panels;   // four, expanded for one step
  float* scales;  // of its rows
};

inline size_t sums_bytes(const Cut& c) { return size_t(c.panels) * c.blocks * 1024; }
inline size_t panels_bytes(const Cut& c) { return size_t(4) * c.depth * 1024; }
inline size_t tile_scratch_bytes(const Cut& c) { return sums_bytes(c) + panels_bytes(c) + size_t(c.panels) * 64; }

inline TileScratch tile_scratch(const Cut& c, char* at) {
  return {at, at + sums_bytes(c), reinterpret_cast<float*>(at + sums_bytes(c) + panels_bytes(c))};
}

// Neighbouring blocks, the last of which may have fewer rows that count.
struct BlockRange {
  int first, count, last_rows;
};

// Scales of the rows of panels once they are int8, into the scratch; before the first multiply with them.
void row_scales(const Kernels& kernels, const Panels& w, const TileScratch& t);
// Leaves the sums of some blocks in the scratch.
void multiply(const Kernels& kernels, const Cut& cut, const Panels& w, const Blocks& a, const BlockRange& blocks,
              const TileScratch& t);
// How the sums of the range's `i`-th block leave: the caller adds where to, the activation and the rows' factors.
FinishArgs finish_args(const Panels& w, const Blocks& a, const BlockRange& blocks, int i, int rows,
                       const TileScratch& t);

}  // namespace kt
