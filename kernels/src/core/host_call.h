// A call bound to its arrays, to be started and awaited through C functions of one pointer.
#pragma once
#include <atomic>
#include <mutex>
#include <string>

#include "forward.h"

namespace kt {

class HostCall {
 public:
  HostCall(const Weights& w, const Call& call, const Kernels& kernels);
  ~HostCall();  // waits for what was started

  // For cudaLaunchHostFunc and its like: no exception leaves them, no lock of Python's is taken.
  static void submit(void* host_call);
  static void sync(void* host_call);

  // The first tokens of the arrays. A call that fails leaves zeros and its message.
  void run(int tokens) noexcept;
  std::string take_error();  // of the first call that failed since, or empty

  const Call& bound() const { return call_; }
  size_t row_bytes() const;  // of x and out

 private:
  void failed(const char* what, int tokens) noexcept;

  const Weights& weights_;
  const Call call_;
  const Kernels& kernels_;
  std::atomic<uint64_t> ticket_{0};
  std::mutex lock_;
  std::string error_;
};

}  // namespace kt
