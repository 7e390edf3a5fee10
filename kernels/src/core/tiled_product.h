// One call's view of a layer on tiles, and the product of some panels with all rows of their expert.
#pragma once
#include <algorithm>

#include "tiled.h"
#include "units.h"

namespace kt {

// Blocks of 16 rows, the last one of an expert filled up with zeros.
struct Blocks {
  char* data;
  float* scale;      // [block][16], of int8
  size_t row_bytes;
  bool ints;         // int8, one scale a row; otherwise bf16

  int tiles() const { return int(row_bytes / 64); }
  size_t stride() const { return row_bytes * 16; }
  char* at(int block) const { return data + size_t(block) * stride(); }
};

struct Tiled {
  const Weights& w;
  const Layout& l;
  const Call& call;
  const Kernels& kernels;
  const Routing& routing;
  int first_token, tokens;
  Cut cut;
  const char* x_rows; // every token once, as the blocks hold it
  char* x_made;       // the same where x is not taken as it stands
  float* x_scale;     // [token]
  size_t x_row_stride;
  char* h_rows;       // [pair][intermediate] bf16, where h becomes int8
  char* y;            // [pair][hidden], weighted
  Dtype y_dtype;
  Blocks x, h;
  ExpertUnits up, down;
  char* scratch;
  size_t scratch_bytes;

  size_t y_bytes() const { return y_dtype == Dtype::f32 ? 4 : 2; }
};

struct ThreadScratch {
  char* sums;    // [panel][block][16][16]
  char* panels;  // four, expanded for one step
  float* scales; // of its rows
  float* row;
};

inline size_t sums_bytes(const Cut& c) { return size_t(c.panels) * c.blocks * 1024; }
inline size_t panels_bytes(const Cut& c) { return size_t(4) * c.depth * 1024; }

inline ThreadScratch scratch_of(const Tiled& s, int thread) {
  ThreadScratch t;
  t.sums = s.scratch + s.scratch_bytes * size_t(thread);
  t.panels = t.sums + sums_bytes(s.cut);
  t.scales = reinterpret_cast<float*>(t.panels + panels_bytes(s.cut));
  t.row = t.scales + size_t(s.cut.panels) * 16;
  return t;
}

inline size_t scratch_size(const Layout& l, const Cut& c) {
  const size_t row = size_t(std::max(l.hidden, l.intermediate));
  return (sums_bytes(c) + panels_bytes(c) + (size_t(c.panels) * 16 + row) * 4 + 4095) / 4096 * 4096;
}

// Some neighbouring panels of one expert.
struct Panels {
  Coding coding;
  const char* data;
  size_t stride;
  const char* scale;
  size_t scale_stride;
  int count;
  bool more;  // panels of the same stack follow

  int product() const { return int(coding.format->product); }
  // Whether they become int8 with one scale a row before tiles multiply them.
  bool expanded() const { return coding.format->grouped(); }
};

// The unit's panels from `first` on.
Panels panels_of(const Tiled& s, const Stack& stack, int expert, int first);

// Leaves the sums of some blocks of an expert in the thread's scratch.
void multiply(const Tiled& s, const Panels& w, const Blocks& a, int first_block, int blocks,
              const ThreadScratch& t);
// Scales of the rows of panels once they are int8, into the thread's scratch.
void row_scales(const Tiled& s, const Panels& w, int k, const ThreadScratch& t);
// How the sums of one block leave: the caller adds where to, and the rows' factors.
FinishArgs finish_args(const Tiled& s, const Panels& w, const Blocks& a, const ThreadScratch& t, int block,
                       int blocks, int rows);

// Multiplies panels with all rows of their expert; use(block, its finish arguments) for every block.
template <class Use>
void each_block(const Tiled& s, const Touched& e, const Panels& w, const Blocks& a, int thread, Use use) {
  const ThreadScratch t = scratch_of(s, thread);
  if (w.expanded()) row_scales(s, w, a.tiles() * 64, t);
  for (int first = 0; first < e.blocks; first += s.cut.blocks) {
    const int blocks = std::min(s.cut.blocks, e.blocks - first);
    multiply(s, w, a, e.first_block + first, blocks, t);
    for (int i = 0; i < blocks; ++i) {
      const int block = e.first_block + first + i;
      FinishArgs f = finish_args(s, w, a, t, i, blocks, s.routing.blocks[size_t(block)].rows);
      use(block, f);
    }
  }
}

}  // namespace kt
