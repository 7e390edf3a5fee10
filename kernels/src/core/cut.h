// How a tile product is cut for the caches, and which cut is best here: found by trying.
#pragma once
#include <cstddef>
#include <vector>

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
  CutChoice(const Work& work, bool may_try);
  const Cut& cut() const { return cut_; }
  void took(double seconds) const;

 private:
  Work work_;
  Cut cut_;
  int candidate_;  // -1: its time tells nothing
};

// What trying has found about a cut for a kind of call: kept from process to process by Python.
struct CutRecord {
  int product, hidden, intermediate, threads, crowding;
  Cut cut;
  double best;  // seconds for a block
};

// Of the kinds whose trials are over.
std::vector<CutRecord> cut_records();
// A kind that has a record for every cut of today is not tried again.
void adopt_cuts(const std::vector<CutRecord>& records);
int newly_settled_cuts();  // kinds, since the last time it was asked
bool tried_a_cut();        // rather than taking the best one, since the last time it was asked

void pin_cut(const Cut* cut);  // null: choose again by trying
Cut last_cut();

}  // namespace kt
