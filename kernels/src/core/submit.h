// Calls that run while the caller does something else, in order, on a thread of their own.
#pragma once
#include <cstdint>
#include <exception>
#include <functional>

namespace kt {

// A ticket for wait_for: tickets are numbered in order, and a call ends only after those before it.
uint64_t submit(std::function<void()> task);
// What the task threw, or null; its ticket is spent. A call that was under way when the process forked
// never ends in the child, and gives an error there.
std::exception_ptr wait_for(uint64_t ticket);
uint64_t last_finished();  // every ticket up to this one is done

}  // namespace kt
