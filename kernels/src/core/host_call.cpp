#include "host_call.h"

#include <exception>
#include <utility>

#include "pool.h"
#include "submit.h"

namespace kt {

HostCall::HostCall(const Weights& w, const Call& call, const Kernels& kernels)
    : weights_(w), call_(call), kernels_(kernels) {}

HostCall::~HostCall() { sync(this); }

void HostCall::run() {
  try {
    PoolLock lock;
    forward(weights_, call_, kernels_);
  } catch (const std::exception& error) {
    std::lock_guard<std::mutex> hold(lock_);
    if (error_.empty()) error_ = error.what();
  }
}

void HostCall::submit(void* host_call) {
  HostCall& call = *static_cast<HostCall*>(host_call);
  call.ticket_.store(kt::submit([&call] { call.run(); }));
}

void HostCall::sync(void* host_call) {
  HostCall& call = *static_cast<HostCall*>(host_call);
  if (const uint64_t ticket = call.ticket_.load()) wait_for(ticket);
}

std::string HostCall::take_error() {
  std::lock_guard<std::mutex> hold(lock_);
  return std::exchange(error_, std::string());
}

}  // namespace kt
