#include "switch.h"

#include <atomic>

namespace kt {
namespace {

// Below this the time of a call is not that of its products.
constexpr size_t kLeastWeights = size_t(1) << 19;  // of an expert

struct Kept {
  LayerKind kind;
  int tokens;
  const Kept* next;
};

// Read in every call and only ever added to: no lock that a fork could find held.
std::atomic<const Kept*> g_kept{nullptr};
std::atomic<int> g_set{0};

const Kept* find(const Kept* from, const LayerKind& kind) {
  while (from && from->kind != kind) from = from->next;
  return from;
}

}  // namespace

LayerKind kind_of(const Layout& l, int threads) {
  return {l.up.product(), l.up.coding.group, l.down.product(), l.down.coding.group, l.hidden, l.intermediate, threads};
}

int tile_from(const Kernels& kernels, const LayerKind* kind) {
  if (!kernels.tile_from) return 0;
  if (const int set = g_set.load()) return set;
  const Kept* kept = kind ? find(g_kept.load(std::memory_order_acquire), *kind) : nullptr;
  return kept && kept->tokens ? kept->tokens : kernels.tile_from;
}

bool wants_switch(const Kernels& kernels, const Layout& l, int threads) {
  const size_t weights = size_t(l.hidden) * size_t(l.intermediate) * 3;
  if (!kernels.tile_from || g_set.load() || weights < kLeastWeights) return false;
  return !find(g_kept.load(std::memory_order_acquire), kind_of(l, threads));
}

void set_tile_from(int tokens) { g_set.store(tokens); }

void keep_switch(const LayerKind& kind, int tokens) {
  const Kept* head = g_kept.load(std::memory_order_acquire);
  Kept* fresh = new Kept{kind, tokens, head};
  do {
    fresh->next = head;
    if (find(head, kind)) return delete fresh;
  } while (!g_kept.compare_exchange_weak(head, fresh, std::memory_order_acq_rel));
}

std::vector<std::pair<LayerKind, int>> switches() {
  std::vector<std::pair<LayerKind, int>> all;
  for (const Kept* k = g_kept.load(std::memory_order_acquire); k; k = k->next)
    if (k->tokens) all.emplace_back(k->kind, k->tokens);
  return all;
}

}  // namespace kt
