#include "in_flight.h"

#include <exception>
#include <utility>

#include "../core/submit.h"

namespace kt {

void Background::keep(InFlight call) {
  calls_.push_back(std::move(call));
  forget_finished();
}

void Background::wait(uint64_t ticket) {
  std::exception_ptr error;
  {
    nb::gil_scoped_release released;
    error = wait_for(ticket);
  }
  forget_finished();
  if (error) std::rethrow_exception(error);
}

// Letting go of an object can run Python code, which may come back here.
void Background::forget_finished() {
  const uint64_t finished = last_finished();
  while (!calls_.empty() && calls_.front().ticket <= finished) {
    const InFlight done = std::move(calls_.front());
    calls_.pop_front();
  }
}

Background& background() {
  static Background* const shared = new Background;
  return *shared;
}

}  // namespace kt
