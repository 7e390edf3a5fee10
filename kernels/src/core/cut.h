// How a tile product is cut for the caches, and which cut is best here: found by trying.
#pragma once
#include <cstddef>

namespace kt {

// Two panels of `depth` tiles stay in the first-level cache while the blocks pass by; the sums and both
// operands of one step stay in the second-level cache.
struct Cut {
  int depth = 8;       // k tiles (1 KB of a panel) a step
  int panels = 16;     // of one unit, a multiple of 4
  int blocks = 16;     // of 16 rows, taken together
  bool fetch = false;  // bring the next step's operands into the second-level cache
};

// What decides about the best cut.
struct Work {
  int product, hidden, intermediate, threads;
  size_t touched, blocks;  // experts, and blocks of rows of all of them
};

// A first few calls of a kind each try another cut; from then on the fastest one is taken. Results do
// not depend on it. Under the PoolLock.
class CutChoice {
 public:
  explicit CutChoice(const Work& work);
  const Cut& cut() const { return cut_; }
  void took(double seconds) const;

 private:
  Work work_;
  Cut cut_;
  int candidate_;  // -1: pinned
};

void pin_cut(const Cut* cut);  // null: choose again by trying
Cut last_cut();

}  // namespace kt
