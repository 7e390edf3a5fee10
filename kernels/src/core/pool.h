// One pool of threads per process. The caller works too: N threads are N - 1 workers and the caller.
//
// A job is a few phases of numbered units. Every thread has a range of each phase and takes from the
// others' ranges when its own is used up. A phase is over when its units are done, not when all
// threads have come by: a worker the scheduler has put aside delays nobody but its own last unit.
//
// With several memory nodes the threads lie in the order of the nodes, and units whose data is on a node
// are first offered to its threads.
#pragma once
#include <memory>

#include "topology.h"

namespace kt {

constexpr int kMaxThreads = 256;
constexpr int kMaxPhases = 8;

// Units first[n] to first[n + 1] belong to node n.
struct Split {
  int nodes = 1;
  int first[kMaxNodes + 1] = {};
};

struct Job {
  void (*run)(void* context, int phase, int unit, int thread) = nullptr;
  void* context = nullptr;
  int phases = 0;
  int units[kMaxPhases] = {};
  double* seconds = nullptr;             // adds the time of each phase, as the caller sees it
  const Split* splits[kMaxPhases] = {};  // null: no unit is nearer to one node than to another
};

class Pool {
 public:
  virtual ~Pool() = default;
  virtual int threads() const = 0;
  virtual void run(const Job& job) = 0;  // one caller at a time
};

// The process's pool, made at first use and made anew in a forked child.
Pool& pool();
void set_threads(int n);  // 0: one per allowed physical core
int threads();
int pool_threads();  // as pool().threads(), without a lock and without making one
int allowed_cores();

// Calls are near: for so long from now on workers without work stay awake, though behind all others that
// want their core.
void stay_awake(long nanoseconds);

// Held for a whole call: the pool and the work buffers belong to one caller at a time.
class PoolLock {
 public:
  PoolLock();
  ~PoolLock();
  PoolLock(const PoolLock&) = delete;
};

}  // namespace kt
