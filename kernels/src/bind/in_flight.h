// What calls in the background read and write, kept until they are done, whatever becomes of its owners.
#pragma once
#include <cstdint>
#include <deque>
#include <optional>

#include "arrays.h"

namespace kt {

struct InFlight {
  uint64_t ticket;
  nb::object experts;
  ConstArray x, ids, weights;
  std::optional<ConstArray> mask;
  Array out;
};

// All functions hold the GIL.
class Background {
 public:
  void keep(InFlight call);
  // Waits without the GIL, and throws what the call threw.
  void wait(uint64_t ticket);

 private:
  void forget_finished();

  std::deque<InFlight> calls_;  // in the order of their tickets
};

// Never destroyed: what is at work when the process ends stays where it is.
Background& background();

}  // namespace kt
