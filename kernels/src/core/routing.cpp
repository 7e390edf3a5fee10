#include "routing.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace kt {
namespace {

[[noreturn]] void refuse(int64_t id, size_t token, int experts) {
  throw std::invalid_argument("expert id " + std::to_string(id) + " of token " + std::to_string(token) +
                              " is out of range: the layer has " + std::to_string(experts) +
                              " experts and -1 means none");
}

void add_blocks(int expert, int first, int pairs, Routing& out) {
  const int at = int(out.blocks.size());
  for (int done = 0; done < pairs; done += 16) out.blocks.push_back({expert, first + done, std::min(16, pairs - done)});
  out.touched.push_back({expert, at, int(out.blocks.size()) - at, first, pairs});
}

}  // namespace

void route(Ids ids, const float* weights, const uint8_t* mask, int first_token, int tokens, int top_k, int experts,
           Routing& out) {
  thread_local std::vector<int> next;
  next.assign(size_t(experts) + 1, 0);
  const size_t begin = size_t(first_token) * top_k, pairs_at_most = size_t(tokens) * top_k;
  const auto used = [&](int64_t id) { return id >= 0 && !(mask && mask[id]); };
  for (size_t i = 0; i < pairs_at_most; ++i) {
    const int64_t id = ids[begin + i];
    if (id < -1 || id >= experts) refuse(id, (begin + i) / size_t(top_k), experts);
    if (used(id)) ++next[size_t(id) + 1];
  }
  out.blocks.clear();
  out.touched.clear();
  for (int e = 0; e < experts; ++e) {
    const int pairs = next[size_t(e) + 1];
    if (pairs) add_blocks(e, next[size_t(e)], pairs, out);
    next[size_t(e) + 1] += next[size_t(e)];
  }
  out.token.resize(size_t(next.back()));
  out.weight.resize(size_t(next.back()));
  out.pair.assign(pairs_at_most, -1);
  size_t i = 0;
  for (int token = 0; token < tokens; ++token)
    for (int slot = 0; slot < top_k; ++slot, ++i) {
      const int64_t id = ids[begin + i];
      if (!used(id)) continue;
      const size_t at = size_t(next[size_t(id)]++);
      out.pair[i] = int(at);
      out.token[at] = token;
      out.weight[at] = weights[begin + i];
    }
}

}  // namespace kt
