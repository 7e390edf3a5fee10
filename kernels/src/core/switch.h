// From how many tokens per touched expert the tiles take over from the vectors. Both ways give slightly
// different numbers, so what was found for a kind of layer stays for the life of the process.
#pragma once
#include <array>
#include <utility>
#include <vector>

#include "weights.h"

namespace kt {

// Product and group of gate and up, the same of down, hidden, intermediate, threads.
using LayerKind = std::array<int, 7>;

LayerKind kind_of(const Layout& l, int threads);

// The value that was set for all kinds, or the one found for this kind, or the built-in one; 0 without
// tiles. Gradients, whose products are others, know no kind.
int tile_from(const Kernels& kernels, const LayerKind* kind);

inline bool use_tiles(int from, size_t pairs, size_t touched) {
  return from && pairs && pairs >= touched * size_t(from);
}

// Tiles are there, the experts are no toys, and neither a value was set nor one kept for this kind.
bool wants_switch(const Kernels& kernels, const Layout& l, int threads);

void set_tile_from(int tokens);  // for all kinds; 0 undoes it
// The first value of a kind stays. 0: the built-in one, and no record of it.
void keep_switch(const LayerKind& kind, int tokens);
std::vector<std::pair<LayerKind, int>> switches();

}  // namespace kt
