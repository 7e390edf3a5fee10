#include "pool.h"

#include <immintrin.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <ctime>
#include <mutex>
#include <thread>
#include <vector>

#include "topology.h"

namespace kt {
namespace {

constexpr long kSpinNanoseconds = 40000;
constexpr int kSlots = 8;

long now() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000L + t.tv_nsec;
}

// Spins on `ready` for a while; true once it holds.
template <class Ready>
bool spin(Ready ready) {
  const long end = now() + kSpinNanoseconds;
  do {
    for (int i = 0; i < 32; ++i) {
      if (ready()) return true;
      _mm_pause();
    }
  } while (now() < end);
  return false;
}

void futex_wait(std::atomic<uint32_t>& word, uint32_t seen) {
  syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, seen, nullptr, nullptr, 0);
}
void futex_wake_all(std::atomic<uint32_t>& word) {
  syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, INT32_MAX, nullptr, nullptr, 0);
}

// One hardware thread a core: a second one on the same core would only share its units.
void keep_to(const std::vector<int>& cores) {
  cpu_set_t set;
  CPU_ZERO(&set);
  for (int c : cores) CPU_SET(c, &set);
  sched_setaffinity(0, sizeof set, &set);
}

struct alignas(64) Range {
  std::atomic<int> next{0};
  int end = 0;
};

struct alignas(64) Phase {
  std::atomic<int> done{0};
  int units = 0;
  std::vector<Range> ranges;
};

// A job's shared state. A late worker may still look at a finished job, so slots are reused in turn
// and only once nobody is inside.
struct Slot {
  alignas(64) std::atomic<uint32_t> sequence{0};
  alignas(64) std::atomic<int> inside{0};
  Job job;
  Phase phases[kMaxPhases];
};

class Workers : public Pool {
 public:
  explicit Workers(int n) : count_(n), slots_(kSlots) {
    for (Slot& s : slots_)
      for (Phase& p : s.phases) p.ranges = std::vector<Range>(size_t(n));
    for (int i = 1; i < n; ++i) workers_.emplace_back([this, i] { work(i); });
  }

  ~Workers() override {
    stop_.store(true);
    sequence_.fetch_add(1);
    futex_wake_all(sequence_);
    for (std::thread& t : workers_) t.join();
  }

  int threads() const override { return count_; }

  void run(const Job& job) override {
    const uint32_t seq = sequence_.load(std::memory_order_relaxed) + 1;
    Slot& slot = slots_[seq % kSlots];
    prepare(slot, job);
    slot.sequence.store(seq);
    sequence_.store(seq);
    if (sleepers_.load() > 0) futex_wake_all(sequence_);
    take_part(slot, 0);
    slot.sequence.store(0);
  }

 private:
  void prepare(Slot& slot, const Job& job) {
    while (slot.inside.load() != 0) sched_yield();
    slot.job = job;
    for (int p = 0; p < job.phases; ++p) {
      Phase& phase = slot.phases[p];
      phase.units = job.units[p];
      phase.done.store(0, std::memory_order_relaxed);
      for (int t = 0; t < count_; ++t) {
        phase.ranges[size_t(t)].next.store(int(int64_t(phase.units) * t / count_),
                                           std::memory_order_relaxed);
        phase.ranges[size_t(t)].end = int(int64_t(phase.units) * (t + 1) / count_);
      }
    }
  }

  static void drain(Slot& slot, int p, Range& range, int thread) {
    Phase& phase = slot.phases[p];
    int did = 0;
    while (range.next.load(std::memory_order_relaxed) < range.end) {
      const int unit = range.next.fetch_add(1, std::memory_order_relaxed);
      if (unit >= range.end) break;
      slot.job.run(slot.job.context, p, unit, thread);
      ++did;
    }
    if (did) phase.done.fetch_add(did, std::memory_order_acq_rel);
  }

  static bool timed(const Slot& slot, int thread) { return thread == 0 && slot.job.seconds; }

  void take_part(Slot& slot, int thread) {
    for (int p = 0; p < slot.job.phases; ++p) {
      Phase& phase = slot.phases[p];
      const long start = timed(slot, thread) ? now() : 0;
      for (int i = 0; i < count_; ++i)
        drain(slot, p, phase.ranges[size_t((thread + i) % count_)], thread);
      const auto over = [&] { return phase.done.load(std::memory_order_acquire) == phase.units; };
      while (!spin(over))
        for (int i = 0; i < 64 && !over(); ++i) sched_yield();
      if (timed(slot, thread)) slot.job.seconds[p] += 1e-9 * double(now() - start);
    }
  }

  void join_job(uint32_t seq, int thread) {
    Slot& slot = slots_[seq % kSlots];
    slot.inside.fetch_add(1);
    if (slot.sequence.load() == seq) take_part(slot, thread);
    slot.inside.fetch_sub(1);
  }

  void work(int thread) {
    keep_to(cores_);
    uint32_t seen = 0;
    while (!stop_.load()) {
      const auto posted = [&] { return sequence_.load(std::memory_order_acquire) != seen; };
      if (!spin(posted)) {
        sleepers_.fetch_add(1);
        while (!posted()) futex_wait(sequence_, seen);
        sleepers_.fetch_sub(1);
      }
      seen = sequence_.load();
      if (!stop_.load()) join_job(seen, thread);
    }
  }

  const int count_;
  const std::vector<int> cores_ = physical_cores();
  std::vector<Slot> slots_;
  std::vector<std::thread> workers_;
  alignas(64) std::atomic<uint32_t> sequence_{0};
  alignas(64) std::atomic<int> sleepers_{0};
  std::atomic<bool> stop_{false};
};

struct State {
  std::mutex lock;
  std::unique_ptr<Workers> workers;
  int wanted = 0;
};

// Reached through a pointer: a forked child has none of the parent's threads and may have inherited a
// held lock, so it gets a new state and leaves the old one alone.
State* g_state = nullptr;

void after_fork() {
  const int wanted = g_state->wanted;
  g_state = new State;
  g_state->wanted = wanted;
}

State& state() {
  static const bool once = [] {
    g_state = new State;
    pthread_atfork(nullptr, nullptr, after_fork);
    return true;
  }();
  (void)once;
  return *g_state;
}

}  // namespace

int allowed_cores() { return int(physical_cores().size()); }

int threads() {
  const int wanted = state().wanted;
  return wanted > 0 ? wanted : std::min(allowed_cores(), kMaxThreads);
}

void set_threads(int n) {
  PoolLock lock;
  state().wanted = n;
}

Pool& pool() {
  State& s = state();
  const int n = s.workers && s.wanted == 0 ? s.workers->threads() : threads();
  if (!s.workers || s.workers->threads() != n) {
    s.workers.reset();
    s.workers = std::make_unique<Workers>(n);
  }
  return *s.workers;
}

PoolLock::PoolLock() { state().lock.lock(); }
PoolLock::~PoolLock() { state().lock.unlock(); }

}  // namespace kt
