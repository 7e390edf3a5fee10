#include "cut.h"

#include <algorithm>
#include <atomic>
#include <map>
#include <mutex>
#include <tuple>
#include <utility>

namespace kt {
namespace {

// Weights that many blocks use want shallow steps that leave room for the activations, those that are
// expanded deep ones; fetching ahead pays unless memory is the limit.
constexpr Cut kCandidates[] = {
    {8, 16, 16, true}, {8, 16, 16, false}, {16, 16, 16, true}, {32, 16, 16, true}, {32, 8, 16, true},
};
constexpr int kCount = sizeof kCandidates / sizeof *kCandidates;
constexpr int kRounds = 3;

struct Trial {
  int runs = 0;
  double best = 1e30;  // seconds for a block
};

struct Trials {
  Trial of[kCount];
};

using Key = std::tuple<int, int, int, int, int>;

std::mutex g_lock;
std::map<Key, Trials>* g_trials = nullptr;
bool g_pinned = false;
bool g_tried = false;
std::atomic<int> g_settled{0};
Cut g_cut;

// Blocks for each expert, on a scale of powers of two.
int crowding(const Work& w) {
  int step = 0;
  for (size_t limit = w.touched; limit < w.blocks && step < 6; limit *= 2) ++step;
  return step;
}

Trials& trials_of(const Work& w) {
  if (!g_trials) g_trials = new std::map<Key, Trials>;
  return (*g_trials)[Key(w.product, w.hidden, w.intermediate, w.threads, crowding(w))];
}

const Trial* least_tried(const Trials& t) {
  const auto fewer = [](const Trial& a, const Trial& b) { return a.runs < b.runs; };
  return std::min_element(t.of, t.of + kCount, fewer);
}

bool settled(const Trials& t) { return least_tried(t)->runs >= kRounds; }

bool same(const Cut& a, const Cut& b) {
  return a.depth == b.depth && a.panels == b.panels && a.blocks == b.blocks && a.fetch == b.fetch;
}

// The first one where nothing was tried yet.
int fastest(const Trials& t) {
  const auto faster = [](const Trial& a, const Trial& b) { return a.best < b.best; };
  return int(std::min_element(t.of, t.of + kCount, faster) - t.of);
}

int pick(const Trials& t) {
  const Trial* least = least_tried(t);
  return least->runs < kRounds ? int(least - t.of) : fastest(t);
}

}  // namespace

CutChoice::CutChoice(const Work& work, bool may_try) : work_(work), candidate_(-1) {
  std::lock_guard<std::mutex> hold(g_lock);
  if (!g_pinned && may_try) {
    const Trials& trials = trials_of(work);
    g_tried |= !settled(trials);
    g_cut = kCandidates[candidate_ = pick(trials)];
  } else if (!g_pinned) {
    g_cut = kCandidates[fastest(trials_of(work))];
  }
  cut_ = g_cut;
}

void CutChoice::took(double seconds) const {
  if (candidate_ < 0) return;
  std::lock_guard<std::mutex> hold(g_lock);
  Trials& trials = trials_of(work_);
  Trial& t = trials.of[candidate_];
  if (t.runs >= kRounds) return;
  ++t.runs;
  t.best = std::min(t.best, seconds / double(work_.blocks + work_.touched));
  if (settled(trials)) ++g_settled;
}

std::vector<CutRecord> cut_records() {
  std::lock_guard<std::mutex> hold(g_lock);
  std::vector<CutRecord> records;
  if (!g_trials) return records;
  for (const auto& [key, trials] : *g_trials) {
    if (!settled(trials)) continue;
    const auto [product, hidden, intermediate, threads, crowding] = key;
    for (int i = 0; i < kCount; ++i)
      records.push_back({product, hidden, intermediate, threads, crowding, kCandidates[i], trials.of[i].best});
  }
  return records;
}

void adopt_cuts(const std::vector<CutRecord>& records) {
  std::lock_guard<std::mutex> hold(g_lock);
  if (!g_trials) g_trials = new std::map<Key, Trials>;
  std::map<Key, Trials> told;
  for (const CutRecord& r : records)
    for (int i = 0; i < kCount; ++i)
      if (same(kCandidates[i], r.cut))
        told[Key(r.product, r.hidden, r.intermediate, r.threads, r.crowding)].of[i] = {kRounds, r.best};
  for (const auto& [key, trials] : told)
    if (settled(trials)) g_trials->emplace(key, trials);
}

int newly_settled_cuts() { return g_settled.exchange(0, std::memory_order_relaxed); }

bool tried_a_cut() {
  std::lock_guard<std::mutex> hold(g_lock);
  return std::exchange(g_tried, false);
}

void pin_cut(const Cut* cut) {
  std::lock_guard<std::mutex> hold(g_lock);
  g_pinned = cut != nullptr;
  if (cut) g_cut = *cut;
}

Cut last_cut() {
  std::lock_guard<std::mutex> hold(g_lock);
  return g_cut;
}

}  // namespace kt
