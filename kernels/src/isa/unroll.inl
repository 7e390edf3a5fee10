// Loops that are gone before the compiler assigns registers: an array indexed by a loop variable would
// stay in memory and be stored in every round.
#pragma once
#include "vec.h"

namespace kt {
namespace {

template <int I>
struct Index {
  constexpr operator int() const { return I; }
};

template <int I, int N, class F>
KT_INLINE void unroll_from(F& f) {
  if constexpr (I < N) {
    f(Index<I>{});
    unroll_from<I + 1, N>(f);
  }
}

template <int N, class F>
KT_INLINE void unroll(F f) {
  unroll_from<0, N>(f);
}

// Unrolled where registers are plenty or `Always` says so, a loop where unrolling makes the compiler spill.
template <int N, bool Always, class F>
KT_INLINE void steps(F f) {
  if constexpr (kManyRegisters || Always) {
    unroll_from<0, N>(f);
  } else {
#pragma GCC unroll 1
    for (int i = 0; i < N; ++i) f(i);
  }
}

#define KT_EACH(i) [&](auto i) __attribute__((always_inline))

}  // namespace
}  // namespace kt
