// When other processes share the cores: a worker whose core was taken away in the middle of its work
// holds up all others, so it stays out for a while and leaves the work to cores that are free.
#pragma once
#include <atomic>

#include "wait.h"

namespace kt {

// What one thread knows of its own core.
class Watch {
 public:
  void begin() { look(); }
  void yielded() { ++yields_; }
  // Whether the system took the core away since the last look, other than by yields.
  bool interrupted() { return look(); }
  long next_rest(long at);  // nanoseconds: doubles while one rest follows another

 private:
  bool look();

  long switches_ = 0, yields_ = 0;
  long rest_ = 0, rested_until_ = 0;
};

class Rests {
 public:
  explicit Rests(int threads) : most_(threads > 4 ? threads / 4 : 1) {}

  void ask() { asked_.store(true); }  // by the caller, which cannot rest itself
  // Stays out if this worker was interrupted, or another one asks, and not too many rest already.
  void after_work(Watch& watch, bool interrupted);
  void end() {
    ending_.fetch_add(1);
    futex_wake_all(ending_);
  }

 private:
  const int most_;
  std::atomic<bool> asked_{false};
  std::atomic<int> resting_{0};
  Word ending_{0};
};

}  // namespace kt
