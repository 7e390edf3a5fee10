#include "limits.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <thread>
#include <vector>

#include "memory.h"
#include "pool.h"

namespace kt {
namespace {

double now() {
  using namespace std::chrono;
  return duration<double>(steady_clock::now().time_since_epoch()).count();
}

// Runs work(thread) on n threads at once, again and again for `seconds`; the shortest round counts.
template <class Work>
double shortest(int n, double seconds, Work work) {
  std::atomic<int> round{0}, done{0};
  std::vector<std::thread> threads;
  const auto loop = [&](int t) {
    for (int seen = 0;;) {
      int r;
      while ((r = round.load(std::memory_order_acquire)) == seen) std::this_thread::yield();
      if (r < 0) return;
      seen = r;
      work(t);
      done.fetch_add(1, std::memory_order_acq_rel);
    }
  };
  for (int t = 1; t < n; ++t) threads.emplace_back(loop, t);
  double best = 1e30;
  const double end = now() + seconds;
  for (int r = 1; r <= 3 || now() < end; ++r) {
    done.store(0);
    const double start = now();
    round.store(r, std::memory_order_release);
    work(0);
    while (done.load(std::memory_order_acquire) != n - 1) std::this_thread::yield();
    best = std::min(best, now() - start);
  }
  round.store(-1);
  for (std::thread& t : threads) t.join();
  return best;
}

}  // namespace

double read_bandwidth(const Kernels& kernels, int threads, size_t bytes, double seconds) {
  const Region region(bytes);
  std::memset(region.data(), 1, bytes);
  const size_t part = bytes / size_t(threads) / 4096 * 4096;
  std::vector<uint64_t> sums(size_t(threads) * 8);
  const double t = shortest(
      threads, seconds, [&](int i) { sums[size_t(i) * 8] += kernels.read(region.data() + part * size_t(i), part); });
  return double(part) * threads / t;
}

double peak_rate(const Kernels& kernels, int kind, int threads, double seconds) {
  constexpr long kRounds = 200000;
  const double ops = kernels.peak(kind, kRounds);
  if (ops == 0) return 0;
  return ops * threads / shortest(threads, seconds, [&](int) { kernels.peak(kind, kRounds); });
}

double job_time(int phases, double unit, double seconds) {
  const auto busy = [](void* context, int, int, int) {
    const double end = now() + *static_cast<double*>(context);
    while (now() < end) {}
  };
  Job job;
  job.run = busy;
  job.context = &unit;
  job.phases = phases;
  std::fill(job.units, job.units + phases, pool().threads());
  std::vector<double> times;
  for (const double end = now() + seconds; times.size() < 9 || now() < end;) {
    const double start = now();
    pool().run(job);
    times.push_back(now() - start);
  }
  std::nth_element(times.begin(), times.begin() + long(times.size() / 2), times.end());
  return times[times.size() / 2];
}

}  // namespace kt
