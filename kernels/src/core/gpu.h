// Experts called from a CUDA stream.
#pragma once
#include <memory>
#include <string>

#include "cuda.h"
#include "host_call.h"
#include "memory.h"

namespace kt {

// One GPU and its primary context. All functions throw CudaError.
class Gpu {
 public:
  explicit Gpu(int device);

  int device() const { return device_; }
  bool has_memory_ops() const { return memory_ops_; }

  // Makes the GPU's context current while it lives. Calls that a capture forbids to others are allowed.
  class Use {
   public:
    explicit Use(const Gpu& gpu);
    ~Use();
    Use(const Use&) = delete;

   private:
    int mode_;
  };

  void check_stream(CudaStream stream) const;             // belongs to this GPU
  void check_address(CudaAddress address, const char* name) const;  // can be reached by this GPU
  void copy(CudaAddress to, CudaAddress from, size_t bytes, CudaStream stream) const;

 private:
  int device_;
  CudaContext context_ = nullptr;
  bool memory_ops_ = false;
};

// Page-locked memory of this process: the driver never unmaps it, so threads may look at it while the
// process ends.
class Pinned {
 public:
  Pinned(const Gpu& gpu, size_t bytes);
  ~Pinned();  // waits for the GPU
  Pinned(const Pinned&) = delete;

  char* data() const { return region_.data(); }
  size_t size() const { return region_.size(); }

 private:
  Gpu gpu_;
  Region region_;
};

struct GpuInputs {  // on the GPU
  CudaAddress x, ids, weights;
};

// A call bound to page-locked arrays, run whenever a stream (or a replay of its capture) comes by.
class GpuCall {
 public:
  // Without `mailbox` through functions that the driver calls.
  GpuCall(const Gpu& gpu, HostCall& call, bool mailbox);
  ~GpuCall();
  GpuCall(const GpuCall&) = delete;

  // Copies the inputs to the call's arrays and starts it; finish() brings its output to `out`.
  // A null address, or the array's own, is not copied.
  void start(CudaStream stream, const GpuInputs& from);
  void finish(CudaStream stream, CudaAddress out);
  void both(CudaStream stream, const GpuInputs& from, CudaAddress out);

 private:
  void copy_inputs(CudaStream stream, const GpuInputs& from);
  void copy_output(CudaStream stream, CudaAddress out);
  void memory_ops(CudaStream stream, CudaMemoryOp* ops, unsigned count);
  void host_function(CudaStream stream, void (*function)(void*));

  Gpu gpu_;
  HostCall& call_;
  int mailbox_ = -1;
  size_t x_bytes_, ids_bytes_, weights_bytes_;
  CudaAddress request_ = 0, answer_ = 0;
};

}  // namespace kt
