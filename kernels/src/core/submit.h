// Calls that run while the caller does something else, in order, on a thread of their own.
#pragma once
#include <cstdint>
#include <functional>

namespace kt {

uint64_t submit(std::function<void()> task);  // a ticket for wait_for
void wait_for(uint64_t ticket);               // rethrows what the task threw

}  // namespace kt
