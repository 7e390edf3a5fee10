#include "gpu.h"

#include <mutex>

#include "mailbox.h"

namespace kt {
namespace {

constexpr int kMemoryType = 2, kOrdinal = 9;                 // CU_POINTER_ATTRIBUTE_...
constexpr int kOnDevice = 2;                                 // CU_MEMORYTYPE_DEVICE
constexpr int kMemoryOpsV1 = 92, kMemoryOps64 = 122;         // CU_DEVICE_ATTRIBUTE_CAN_USE_...
constexpr unsigned kPortableMapped = 1 | 2;                  // CU_MEMHOSTREGISTER_...
constexpr int kRelaxed = 2;                                  // CU_STREAM_CAPTURE_MODE_RELAXED

CudaAddress address_of(const void* p) { return reinterpret_cast<CudaAddress>(p); }

bool attribute(int wanted, int device) {
  int value = 0;
  return cuda().device_get_attribute(&value, wanted, device) == 0 && value != 0;
}

// The words are locked once for all contexts and stay so.
MailboxWords& locked_words(const Gpu& gpu) {
  static std::mutex lock;
  static MailboxWords* locked = nullptr;
  std::lock_guard<std::mutex> hold(lock);
  MailboxWords& words = mailbox_words();
  if (locked == &words) return words;
  const Gpu::Use use(gpu);
  cuda().check(cuda().host_register(&words, sizeof words, kPortableMapped), "cuMemHostRegister");
  locked = &words;
  return words;
}

CudaAddress gpu_address(void* p) {
  CudaAddress address = 0;
  cuda().check(cuda().host_address(&address, p, 0), "cuMemHostGetDevicePointer");
  return address;
}

}  // namespace

Gpu::Gpu(int device) : device_(device) {
  const Cuda& c = cuda();
  int count = 0, handle = 0;
  c.check(c.device_get_count(&count), "cuDeviceGetCount");
  if (device < 0 || device >= count)
    throw CudaError("GPU " + std::to_string(device) + " does not exist: there are " + std::to_string(count));
  c.check(c.device_get(&handle, device), "cuDeviceGet");
  c.check(c.primary_retain(&context_, handle), "cuDevicePrimaryCtxRetain");
  memory_ops_ = c.memory_ops && (attribute(kMemoryOps64, handle) || attribute(kMemoryOpsV1, handle));
}

Gpu::Use::Use(const Gpu& gpu) : mode_(kRelaxed) {
  cuda().check(cuda().context_push(gpu.context_), "cuCtxPushCurrent");
  cuda().capture_mode(&mode_);
}

Gpu::Use::~Use() {
  CudaContext popped;
  cuda().capture_mode(&mode_);
  cuda().context_pop(&popped);
}

void Gpu::check_stream(CudaStream stream) const {
  CudaContext context = nullptr;
  int device = -1;
  const Cuda& c = cuda();
  c.check(c.stream_context(stream, &context), "cuStreamGetCtx");
  if (context == context_) return;
  c.check(c.context_push(context), "cuCtxPushCurrent");
  const int code = c.context_device(&device);
  c.context_pop(&context);
  c.check(code, "cuCtxGetDevice");
  if (device != device_)
    throw CudaError("the stream belongs to GPU " + std::to_string(device) + ", the link to GPU " +
                    std::to_string(device_));
}

void Gpu::check_address(CudaAddress address, const char* name) const {
  const Cuda& c = cuda();
  unsigned type = 0;
  int ordinal = -1;
  if (c.pointer_attribute(&type, kMemoryType, address) != 0)
    throw CudaError(std::string(name) + " is not an address that the GPU can reach");
  if (type != kOnDevice) return;
  c.check(c.pointer_attribute(&ordinal, kOrdinal, address), "cuPointerGetAttribute");
  if (ordinal != device_)
    throw CudaError(std::string(name) + " is on GPU " + std::to_string(ordinal) + ", the link on GPU " +
                    std::to_string(device_));
}

void Gpu::copy(CudaAddress to, CudaAddress from, size_t bytes, CudaStream stream) const {
  if (to == from || bytes == 0) return;
  cuda().check(cuda().copy(to, from, bytes, stream), "cuMemcpyAsync");
}

Pinned::Pinned(const Gpu& gpu, size_t bytes) : gpu_(gpu), region_(bytes) {
  const Gpu::Use use(gpu_);
  cuda().check(cuda().host_register(region_.data(), region_.size(), kPortableMapped), "cuMemHostRegister");
}

Pinned::~Pinned() {
  try {
    const Gpu::Use use(gpu_);
    cuda().context_synchronize();
    cuda().host_unregister(region_.data());
  } catch (const CudaError&) {
    // The driver has ended before this process: nothing is locked any more.
  }
}

GpuCall::GpuCall(const Gpu& gpu, HostCall& call, bool mailbox) : gpu_(gpu), call_(call) {
  const Call& c = call.bound();
  const size_t pairs = size_t(c.tokens) * size_t(c.top_k);
  x_bytes_ = call.row_bytes() * size_t(c.tokens);
  ids_bytes_ = pairs * (c.ids.wide ? 8 : 4);
  weights_bytes_ = pairs * 4;
  if (!mailbox) return;
  MailboxWords& words = locked_words(gpu_);
  const Gpu::Use use(gpu_);
  mailbox_ = add_mailbox(call);
  request_ = gpu_address(&words.request[mailbox_]);
  answer_ = gpu_address(&words.answer[mailbox_]);
}

GpuCall::~GpuCall() {
  try {
    const Gpu::Use use(gpu_);
    cuda().context_synchronize();
  } catch (const CudaError&) {
    // The driver has ended: nothing asks any more.
  }
  if (mailbox_ >= 0) remove_mailbox(mailbox_);
}

void GpuCall::copy_inputs(CudaStream stream, const GpuInputs& from) {
  const Call& c = call_.bound();
  gpu_.check_stream(stream);
  const struct { CudaAddress from; const void* to; size_t bytes; const char* name; } parts[] = {
      {from.x, c.x, x_bytes_, "x"},
      {from.ids, c.ids.data, ids_bytes_, "ids"},
      {from.weights, c.weights, weights_bytes_, "weights"}};
  for (const auto& p : parts)
    if (p.from) gpu_.check_address(p.from, p.name);
  for (const auto& p : parts)
    if (p.from) gpu_.copy(address_of(p.to), p.from, p.bytes, stream);
}

void GpuCall::copy_output(CudaStream stream, CudaAddress out) {
  if (out) gpu_.copy(out, address_of(call_.bound().out), x_bytes_, stream);
}

void GpuCall::memory_ops(CudaStream stream, CudaMemoryOp* ops, unsigned count) {
  cuda().check(cuda().memory_ops(stream, count, ops, 0), "cuStreamBatchMemOp");
}

void GpuCall::host_function(CudaStream stream, void (*function)(void*)) {
  cuda().check(cuda().host_function(stream, function, &call_), "cuLaunchHostFunc");
}

void GpuCall::start(CudaStream stream, const GpuInputs& from) {
  const Gpu::Use use(gpu_);
  copy_inputs(stream, from);
  if (mailbox_ < 0) return host_function(stream, &HostCall::submit);
  CudaMemoryOp ops[] = {write_word(answer_, 0, false), write_word(request_, 1, true)};
  memory_ops(stream, ops, 2);
  wake_mailboxes();
}

void GpuCall::finish(CudaStream stream, CudaAddress out) {
  const Gpu::Use use(gpu_);
  gpu_.check_stream(stream);
  if (out) gpu_.check_address(out, "out");
  if (mailbox_ < 0) {
    host_function(stream, &HostCall::sync);
  } else {
    CudaMemoryOp op = wait_equal(answer_, 1);
    memory_ops(stream, &op, 1);
  }
  copy_output(stream, out);
}

void GpuCall::both(CudaStream stream, const GpuInputs& from, CudaAddress out) {
  const Gpu::Use use(gpu_);
  if (out) gpu_.check_address(out, "out");
  copy_inputs(stream, from);
  if (mailbox_ < 0) {
    host_function(stream, &HostCall::call);
  } else {
    CudaMemoryOp ops[] = {write_word(answer_, 0, false), write_word(request_, 1, true), wait_equal(answer_, 1)};
    memory_ops(stream, ops, 3);
    wake_mailboxes();
  }
  copy_output(stream, out);
}

}  // namespace kt
