// How threads wait for each other: spinning first, then asleep on a futex.
#pragma once
#include <immintrin.h>
#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <climits>
#include <cstdint>
#include <ctime>

namespace kt {

using Word = std::atomic<uint32_t>;

inline long now() {  // nanoseconds
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000L + t.tv_nsec;
}

// Spins on `ready` for some nanoseconds; true once it holds.
template <class Ready>
bool spin(long nanoseconds, Ready ready) {
  const long end = now() + nanoseconds;
  do {
    for (int i = 0; i < 32; ++i) {
      if (ready()) return true;
      _mm_pause();
    }
  } while (now() < end);
  return false;
}

// Gives the core away between looks, until the end has come; true once `ready` holds.
template <class Ready>
bool give_way(const std::atomic<long>& end, Ready ready) {
  for (; now() < end.load(std::memory_order_relaxed); sched_yield())
    if (ready()) return true;
  return false;
}

inline void futex_wait(Word& word, uint32_t seen) {
  syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, seen, nullptr, nullptr, 0);
}
inline void futex_wait_for(Word& word, uint32_t seen, long nanoseconds) {
  const timespec t = {nanoseconds / 1000000000L, nanoseconds % 1000000000L};
  syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, seen, &t, nullptr, 0);
}
inline void futex_wake_all(Word& word) { syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0); }

}  // namespace kt
