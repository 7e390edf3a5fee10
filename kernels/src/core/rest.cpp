#include "rest.h"

#include <sys/resource.h>

#include <algorithm>

namespace kt {
namespace {

constexpr long kShortestRest = 16000000, kLongestRest = 1000000000;  // ns

}  // namespace

bool Watch::look() {
  rusage usage;
  if (getrusage(RUSAGE_THREAD, &usage) != 0) return false;
  const bool more = usage.ru_nivcsw - switches_ > yields_;
  switches_ = usage.ru_nivcsw;
  yields_ = 0;
  return more;
}

long Watch::next_rest(long at) {
  const bool again = rest_ && at - rested_until_ < 4 * rest_;
  rest_ = again ? std::min(2 * rest_, kLongestRest) : kShortestRest;
  rested_until_ = at + rest_;
  return rest_;
}

void Rests::after_work(Watch& watch, bool interrupted) {
  if (!interrupted && !asked_.load(std::memory_order_relaxed)) return;
  if (resting_.fetch_add(1) < most_ && (interrupted || asked_.exchange(false))) {
    const uint32_t seen = ending_.load();
    futex_wait_for(ending_, seen, watch.next_rest(now()));
  }
  resting_.fetch_sub(1);
}

}  // namespace kt
