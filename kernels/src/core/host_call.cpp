#include "host_call.h"

#include <cstring>
#include <exception>
#include <utility>

#include "pool.h"
#include "submit.h"

namespace kt {

HostCall::HostCall(const Weights& w, const Call& call, const Kernels& kernels)
    : weights_(w), call_(call), kernels_(kernels) {}

HostCall::~HostCall() { sync(this); }

void HostCall::run(int tokens) noexcept {
  try {
    Call call = call_;
    call.tokens = tokens;
    PoolLock lock;
    forward(weights_, call, kernels_);
  } catch (const std::exception& error) { failed(error.what(), tokens); } catch (...) {
    failed("the call failed", tokens);
  }
}

// Zeros travel through the layers that follow without harm; NaN would stop a GPU that samples from it.
void HostCall::failed(const char* what, int tokens) noexcept {
  std::memset(call_.out, 0, row_bytes() * size_t(tokens));
  std::lock_guard<std::mutex> hold(lock_);
  if (error_.empty()) error_ = what;
}

size_t HostCall::row_bytes() const {
  return size_t(weights_.layout().shape.hidden) * (call_.dtype == Dtype::f32 ? 4 : 2);
}

void HostCall::submit(void* host_call) {
  HostCall& call = *static_cast<HostCall*>(host_call);
  call.ticket_.store(kt::submit([&call] { call.run(call.call_.tokens); }));
}

void HostCall::sync(void* host_call) {
  HostCall& call = *static_cast<HostCall*>(host_call);
  if (const uint64_t ticket = call.ticket_.load()) (void)wait_for(ticket);  // run() throws nothing
}

std::string HostCall::take_error() {
  std::lock_guard<std::mutex> hold(lock_);
  return std::exchange(error_, std::string());
}

}  // namespace kt
