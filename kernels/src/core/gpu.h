// Experts called from a CUDA stream.
#pragma once
#include <map>
#include <memory>
#include <string>

#include "cuda.h"
#include "gpu_code.h"
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

  bool check_stream(CudaStream stream) const;  // belongs to this GPU; true if to its primary context
  bool check_address(CudaAddress address, const char* name) const;  // within this GPU's reach; true if on it
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

// A call bound to page-locked arrays, run whenever a stream (or a replay of its capture) comes by. The
// arrays hold the call's number of tokens at most; a stream asks for the first few of them.
class GpuCall {
 public:
  // Without `mailbox` through functions that the driver calls.
  GpuCall(const Gpu& gpu, HostCall& call, bool mailbox);
  ~GpuCall();  // waits for the GPU and for what runs
  GpuCall(const GpuCall&) = delete;

  // Copies the inputs to the call's arrays and starts it; finish() brings its output to `out`.
  // An address of 0, or the array's own, is not copied.
  void start(CudaStream stream, int tokens, const GpuInputs& from);
  void finish(CudaStream stream, int tokens, CudaAddress out);
  void both(CudaStream stream, int tokens, const GpuInputs& from, CudaAddress out);

 private:
  struct Launch;  // what the driver's functions are given, for one number of tokens

  struct Part {  // one array's way between the GPU and the call's own
    CudaAddress gpu, host;
    size_t bytes;
    bool by_kernel;
  };
  struct Parts {
    Part x, ids, weights;
  };

  const GpuCode* code_for(CudaStream stream) const;  // null: by copies alone
  Part part(const GpuCode* code, CudaAddress gpu, const void* host, size_t bytes, size_t piece, const char* name) const;
  Parts inputs(const GpuCode* code, int tokens, const GpuInputs& from) const;
  Part output(const GpuCode* code, int tokens, CudaAddress out) const;
  Post begin(CudaStream stream, int tokens, Parts parts);
  void ask(const GpuCode* code, CudaStream stream, const Post& post, bool wait);
  void bring(const GpuCode* code, CudaStream stream, const Part& out);
  void memory_ops(CudaStream stream, CudaMemoryOp* ops, unsigned count);
  void host_function(CudaStream stream, void (*function)(void*), int tokens);

  Gpu gpu_;
  HostCall& call_;
  int mailbox_ = -1;
  const GpuCode* code_ = nullptr;         // for streams of the primary context
  CudaAddress answer_ = 0, request_ = 0;  // the mailbox's words
  int unfinished_ = 0;                    // tokens of a start without a finish
  std::map<int, std::unique_ptr<Launch>> launches_;
};

}  // namespace kt
