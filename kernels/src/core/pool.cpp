#include "pool.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#include "topology.h"
#include "wait.h"

namespace kt {
namespace {

constexpr long kSpin = 40000, kYield = 260000;  // nanoseconds, in turn, before a thread sleeps
std::atomic<long> g_awake_until{0};

// One hardware thread a core: a second one on the same core would only share its units.
void keep_to(const std::vector<int>& cores) {
  cpu_set_t set;
  CPU_ZERO(&set);
  for (int c : cores) CPU_SET(c, &set);
  sched_setaffinity(0, sizeof set, &set);
}

// Threads in the order of their nodes, each node's number of them by its cores.
struct Seats {
  explicit Seats(int threads) : nodes(kt::nodes()), first(nodes.size() + 1) {
    size_t cores = 0, before = 0;
    for (const Node& n : nodes) cores += n.cpus.size();
    for (size_t i = 0; i < nodes.size(); ++i) {
      first[i] = int(size_t(threads) * before / cores);
      before += nodes[i].cpus.size();
    }
    first.back() = threads;
  }

  size_t node_of(int thread) const {
    size_t n = 0;
    while (first[n + 1] <= thread) ++n;
    return n;
  }
  bool taken(size_t node) const { return first[node] < first[node + 1]; }

  std::vector<Node> nodes;
  std::vector<int> first;  // thread of each node
};

struct alignas(64) Range {
  std::atomic<int> next{0};
  int end = 0;
};

struct alignas(64) Phase {
  Word done{0};
  std::atomic<int> asleep{0};
  uint32_t units = 0;
  std::vector<Range> ranges;

  bool over() const { return done.load(std::memory_order_acquire) == units; }
};

// A job's shared state. A late worker may still look at a finished job, so a slot is used again only
// once nobody is inside: with more slots than workers one is always free.
struct Slot {
  alignas(64) std::atomic<uint32_t> sequence{0};
  alignas(64) std::atomic<int> inside{0};
  Job job;
  Phase phases[kMaxPhases];
};

size_t power_of_two_above(int n) {
  size_t p = 8;
  while (p <= size_t(n)) p *= 2;
  return p;
}

class Workers : public Pool {
 public:
  explicit Workers(int n) : count_(n), seats_(n), slots_(power_of_two_above(n)) {
    for (Slot& s : slots_)
      for (Phase& p : s.phases) p.ranges = std::vector<Range>(size_t(n));
    for (int i = 1; i < n; ++i) workers_.emplace_back([this, i] { work(i); });
  }

  ~Workers() override {
    stop_.store(true);
    posted_.fetch_add(1);
    futex_wake_all(posted_);
    for (std::thread& t : workers_) t.join();
  }

  int threads() const override { return count_; }

  void run(const Job& job) override {
    const uint32_t post = next_post();
    Slot& slot = slot_of(post);
    prepare(slot, job);
    slot.sequence.store(post);
    posted_.store(post);
    if (sleepers_.load() > 0) futex_wake_all(posted_);
    take_part(slot, 0);
    slot.sequence.store(0);
  }

 private:
  Slot& slot_of(uint32_t post) { return slots_[post % slots_.size()]; }

  // A new number whose remainder is a free slot, the same few as long as no worker is put aside in them.
  // 0 is none.
  uint32_t next_post() {
    const uint32_t slots = uint32_t(slots_.size());
    uint32_t post = (posted_.load(std::memory_order_relaxed) / slots + 1) * slots;
    if (post == 0) post = slots;
    while (slot_of(post).inside.load() != 0) post = post % slots + 1 < slots ? post + 1 : post + 1 - slots;
    return post;
  }

  void prepare(Slot& slot, const Job& job) {
    slot.job = job;
    for (int p = 0; p < job.phases; ++p) {
      Phase& phase = slot.phases[p];
      phase.units = uint32_t(job.units[p]);
      phase.done.store(0, std::memory_order_relaxed);
      const Split* split = job.splits[p];
      if (split && size_t(split->nodes) == seats_.nodes.size() && split->nodes > 1) {
        divide_by_node(phase, *split);
      } else {
        divide(phase, 0, job.units[p], 0, count_);
      }
    }
  }

  // Units evenly over threads.
  static void divide(Phase& phase, int begin, int end, int first, int last) {
    const int64_t units = end - begin, threads = last - first;
    for (int t = 0; t < threads; ++t) {
      Range& range = phase.ranges[size_t(first + t)];
      range.next.store(begin + int(units * t / threads), std::memory_order_relaxed);
      range.end = begin + int(units * (t + 1) / threads);
    }
  }

  // What belongs to a node without threads goes to the one before it.
  void divide_by_node(Phase& phase, const Split& split) const {
    int begin = 0;
    for (size_t n = 0; n < seats_.nodes.size(); ++n) {
      if (!seats_.taken(n)) continue;
      size_t next = n + 1;
      while (next < seats_.nodes.size() && !seats_.taken(next)) ++next;
      const int end = next < seats_.nodes.size() ? split.first[next] : int(phase.units);
      divide(phase, begin, end, seats_.first[n], seats_.first[next]);
      begin = end;
    }
  }

  static void drain(Slot& slot, int p, Range& range, int thread) {
    Phase& phase = slot.phases[p];
    uint32_t did = 0;
    while (range.next.load(std::memory_order_relaxed) < range.end) {
      const int unit = range.next.fetch_add(1, std::memory_order_relaxed);
      if (unit >= range.end) break;
      slot.job.run(slot.job.context, p, unit, thread);
      ++did;
    }
    if (did && phase.done.fetch_add(did) + did == phase.units && phase.asleep.load() > 0) futex_wake_all(phase.done);
  }

  // The thread's own range, those of its node, the others.
  void drain_all(Slot& slot, int p, int thread, size_t node) {
    std::vector<Range>& ranges = slot.phases[p].ranges;
    const int first = seats_.first[node], last = seats_.first[node + 1], own = last - first;
    for (int i = 0; i < own; ++i) drain(slot, p, ranges[size_t(first + (thread - first + i) % own)], thread);
    for (int i = 0; i < count_ - own; ++i) drain(slot, p, ranges[size_t((last + i) % count_)], thread);
  }

  // Asleep at last, so that the core is free for a worker that was put aside on another one.
  static void wait_for(Phase& phase) {
    const auto over = [&] { return phase.over(); };
    if (spin(kSpin, over)) return;
    for (const long end = now() + kYield; now() < end; sched_yield())
      if (over()) return;
    phase.asleep.fetch_add(1);
    for (uint32_t seen; (seen = phase.done.load()) != phase.units;) futex_wait(phase.done, seen);
    phase.asleep.fetch_sub(1);
  }

  static bool timed(const Slot& slot, int thread) { return thread == 0 && slot.job.seconds; }

  void take_part(Slot& slot, int thread) {
    const size_t node = seats_.node_of(thread);
    for (int p = 0; p < slot.job.phases; ++p) {
      const long start = timed(slot, thread) ? now() : 0;
      drain_all(slot, p, thread, node);
      wait_for(slot.phases[p]);
      if (timed(slot, thread)) slot.job.seconds[p] += 1e-9 * double(now() - start);
    }
  }

  void join_job(uint32_t post, int thread) {
    Slot& slot = slot_of(post);
    slot.inside.fetch_add(1);
    if (slot.sequence.load() == post) take_part(slot, thread);
    slot.inside.fetch_sub(1);
  }

  void work(int thread) {
    keep_to(seats_.nodes[seats_.node_of(thread)].cpus);
    uint32_t seen = 0;
    while (!stop_.load()) {
      const auto posted = [&] { return posted_.load(std::memory_order_acquire) != seen; };
      if (!spin(kSpin, posted) && !give_way(g_awake_until, posted)) {
        sleepers_.fetch_add(1);
        while (!posted()) futex_wait(posted_, seen);
        sleepers_.fetch_sub(1);
      }
      seen = posted_.load();
      if (!stop_.load()) join_job(seen, thread);
    }
  }

  const int count_;
  const Seats seats_;
  std::vector<Slot> slots_;
  std::vector<std::thread> workers_;
  alignas(64) Word posted_{0};
  alignas(64) std::atomic<int> sleepers_{0};
  std::atomic<bool> stop_{false};
};

struct State {
  std::mutex lock;
  std::unique_ptr<Workers> workers;
  std::atomic<int> wanted{0}, made{0};  // threads; made: 0 when they are to be counted anew
};

// Reached through a pointer: a forked child has none of the parent's threads and may have inherited a
// held lock, so it gets a new state and leaves the old one alone.
State* g_state = nullptr;

void after_fork() {
  const int wanted = g_state->wanted.load();
  g_state = new State;
  g_state->wanted.store(wanted);
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

void stay_awake(long nanoseconds) { g_awake_until.store(now() + nanoseconds, std::memory_order_relaxed); }

int allowed_cores() { return int(physical_cores().size()); }

int threads() {
  const int wanted = state().wanted;
  return wanted > 0 ? wanted : std::min(allowed_cores(), kMaxThreads);
}

void set_threads(int n) {
  PoolLock lock;
  state().wanted = n;
  state().made = 0;
}

int pool_threads() {
  const int made = state().made.load();
  return made && state().wanted == 0 ? made : threads();
}

Pool& pool() {
  State& s = state();
  const int n = pool_threads();
  if (!s.workers || s.workers->threads() != n) {
    s.workers.reset();
    s.workers = std::make_unique<Workers>(n);
  }
  s.made = n;
  return *s.workers;
}

PoolLock::PoolLock() { state().lock.lock(); }
PoolLock::~PoolLock() { state().lock.unlock(); }

}  // namespace kt
