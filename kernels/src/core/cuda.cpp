#include "cuda.h"

#include <dlfcn.h>

#include <mutex>
#include <string>

namespace kt {
namespace {

constexpr int kWaitValue32 = 1, kWriteValue32 = 2, kEqual = 1;

template <class Function>
void find(void* library, const char* name, Function*& function, bool needed = true) {
  function = reinterpret_cast<Function*>(dlsym(library, name));
  if (needed && !function) throw CudaError(std::string("libcuda.so.1 has no ") + name);
}

Cuda functions_of(void* library) {
  Cuda c;
  find(library, "cuInit", c.init);
  find(library, "cuDeviceGet", c.device_get);
  find(library, "cuDeviceGetCount", c.device_get_count);
  find(library, "cuDeviceGetAttribute", c.device_get_attribute);
  find(library, "cuDevicePrimaryCtxRetain", c.primary_retain);
  find(library, "cuCtxPushCurrent_v2", c.context_push);
  find(library, "cuCtxPopCurrent_v2", c.context_pop);
  find(library, "cuCtxGetDevice", c.context_device);
  find(library, "cuCtxSynchronize", c.context_synchronize);
  find(library, "cuStreamGetCtx", c.stream_context);
  find(library, "cuMemHostRegister_v2", c.host_register);
  find(library, "cuMemHostUnregister", c.host_unregister);
  find(library, "cuMemHostGetDevicePointer_v2", c.host_address);
  find(library, "cuMemcpyAsync", c.copy);
  find(library, "cuLaunchHostFunc", c.host_function);
  find(library, "cuStreamBatchMemOp_v2", c.memory_ops, false);
  find(library, "cuModuleLoadData", c.module_load, false);
  find(library, "cuModuleGetFunction", c.module_function, false);
  find(library, "cuFuncLoad", c.function_load, false);
  find(library, "cuLaunchKernel", c.launch, false);
  find(library, "cuPointerGetAttribute", c.pointer_attribute);
  find(library, "cuThreadExchangeStreamCaptureMode", c.capture_mode);
  find(library, "cuGetErrorName", c.error_name);
  find(library, "cuGetErrorString", c.error_text);
  return c;
}

Cuda load() {
  void* library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL);
  if (!library) throw CudaError(std::string("no CUDA driver: ") + dlerror());
  const Cuda c = functions_of(library);
  c.check(c.init(0), "cuInit");
  return c;
}

}  // namespace

void Cuda::check(int code, const char* function) const {
  if (code == 0) return;
  const char *name = nullptr, *text = nullptr;
  error_name(code, &name);
  error_text(code, &text);
  throw CudaError(std::string(function) + ": " + (name ? name : "error") + " (" + std::to_string(code) + ")" +
                  (text ? std::string(", ") + text : ""));
}

CudaMemoryOp wait_equal(CudaAddress word, uint32_t value) { return {kWaitValue32, word, value, kEqual, 0, 0}; }

CudaMemoryOp write_word(CudaAddress word, uint32_t value) { return {kWriteValue32, word, value, 0, 0, 0}; }

const Cuda& cuda() {
  static std::mutex lock;
  static const Cuda* loaded = nullptr;
  std::lock_guard<std::mutex> hold(lock);
  if (!loaded) loaded = new Cuda(load());
  return *loaded;
}

}  // namespace kt
