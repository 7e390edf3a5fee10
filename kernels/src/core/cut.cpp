#include "cut.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <tuple>

namespace kt {
namespace {

// Weights used by many blocks want narrow units that leave room for the activations, weights used by
// few want deep steps; prefetching pays unless memory is the limit.
constexpr Cut kCandidates[] = {
    {8, 16, 16, true}, {8, 16, 16, false}, {16, 16, 16, true}, {8, 32, 16, true}, {32, 8, 16, true},
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

int pick(const Trials& t) {
  const auto fewer = [](const Trial& a, const Trial& b) { return a.runs < b.runs; };
  const auto faster = [](const Trial& a, const Trial& b) { return a.best < b.best; };
  const Trial* least = std::min_element(t.of, t.of + kCount, fewer);
  if (least->runs < kRounds) return int(least - t.of);
  return int(std::min_element(t.of, t.of + kCount, faster) - t.of);
}

}  // namespace

CutChoice::CutChoice(const Work& work) : work_(work), candidate_(-1) {
  std::lock_guard<std::mutex> hold(g_lock);
  if (!g_pinned) g_cut = kCandidates[candidate_ = pick(trials_of(work))];
  cut_ = g_cut;
}

void CutChoice::took(double seconds) const {
  if (candidate_ < 0) return;
  std::lock_guard<std::mutex> hold(g_lock);
  Trial& t = trials_of(work_).of[candidate_];
  if (t.runs >= kRounds) return;
  ++t.runs;
  t.best = std::min(t.best, seconds / double(work_.blocks + work_.touched));
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
