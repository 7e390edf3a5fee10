// CUDA's driver, opened when it is first needed: nothing here is linked with it.
#pragma once
#include <cstddef>
#include <cstdint>
#include <stdexcept>

namespace kt {

struct CudaError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

using CudaStream = void*;
using CudaContext = void*;
using CudaModule = void*;
using CudaFunction = void*;
using CudaAddress = unsigned long long;

// One of cuStreamBatchMemOp's operations, as cuda.h lays it out.
struct CudaMemoryOp {
  int operation;
  CudaAddress address;
  uint64_t value;
  unsigned flags;
  CudaAddress alias;
  uint64_t unused;
};
static_assert(sizeof(CudaMemoryOp) == 48, "CUstreamBatchMemOpParams has six words");

CudaMemoryOp wait_equal(CudaAddress word, uint32_t value);
CudaMemoryOp write_word(CudaAddress word, uint32_t value);  // after all writes before it

// The driver's functions by their names without the prefix. Old drivers have no memory_ops; those for kernels of
// our own are null where they are missing.
struct Cuda {
  int (*init)(unsigned);
  int (*device_get)(int*, int);
  int (*device_get_count)(int*);
  int (*device_get_attribute)(int*, int attribute, int device);
  int (*primary_retain)(CudaContext*, int device);
  int (*context_push)(CudaContext);
  int (*context_pop)(CudaContext*);
  int (*context_device)(int*);
  int (*context_synchronize)();
  int (*stream_context)(CudaStream, CudaContext*);
  int (*host_register)(void*, size_t, unsigned flags);
  int (*host_unregister)(void*);
  int (*host_address)(CudaAddress*, void*, unsigned flags);
  int (*copy)(CudaAddress to, CudaAddress from, size_t, CudaStream);
  int (*host_function)(CudaStream, void (*)(void*), void*);
  int (*memory_ops)(CudaStream, unsigned count, CudaMemoryOp*, unsigned flags);
  int (*module_load)(CudaModule*, const void* image);
  int (*module_function)(CudaFunction*, CudaModule, const char* name);
  int (*function_load)(CudaFunction);
  int (*launch)(CudaFunction, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned shared, CudaStream,
                void** parameters, void** extra);
  int (*pointer_attribute)(void*, int attribute, CudaAddress);
  int (*capture_mode)(int*);
  int (*error_name)(int, const char**);
  int (*error_text)(int, const char**);

  void check(int code, const char* function) const;  // throws CudaError naming both
};

// Throws CudaError: no libcuda.so.1, a function missing, no driver behind it.
const Cuda& cuda();

}  // namespace kt
