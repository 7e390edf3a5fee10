// Token-expert pairs grouped by expert, in blocks of at most 16 rows.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace kt {

struct Block {
  int expert;
  int first;  // index of its first pair
  int rows;
};

struct Touched {
  int expert;
  int first_block, blocks;
  int first, pairs;
};

struct Routing {
  std::vector<int> token;     // of each pair, sorted by expert
  std::vector<float> weight;  // of each pair
  std::vector<int> pair;      // of each token and slot, -1 for none
  std::vector<Block> blocks;
  std::vector<Touched> touched;
};

struct Ids {
  const void* data;
  bool wide;  // int64 instead of int32
  int64_t operator[](std::size_t i) const {
    return wide ? static_cast<const int64_t*>(data)[i] : static_cast<const int32_t*>(data)[i];
  }
};

// Ids of -1 and experts whose mask byte is set are left out. Throws std::invalid_argument naming the
// first id out of range. The result's vectors are reused from call to call.
void route(Ids ids, const float* weights, const uint8_t* mask, int first_token, int tokens, int top_k, int experts,
           Routing& out);

}  // namespace kt
