#include "gpu.h"

#include <atomic>
#include <mutex>

#include "mailbox.h"
#include "submit.h"

namespace kt {
namespace {

constexpr int kMemoryType = 2, kOrdinal = 9;          // CU_POINTER_ATTRIBUTE_...
constexpr int kOnDevice = 2;                          // CU_MEMORYTYPE_DEVICE
constexpr int kMemoryOpsV1 = 92, kMemoryOps64 = 122;  // CU_DEVICE_ATTRIBUTE_CAN_USE_...
constexpr unsigned kPortableMapped = 1 | 2;           // CU_MEMHOSTREGISTER_...
constexpr int kRelaxed = 2;                           // CU_STREAM_CAPTURE_MODE_RELAXED

CudaAddress address_of(const void* p) { return reinterpret_cast<CudaAddress>(p); }

bool attribute(int wanted, int device) {
  int value = 0;
  return cuda().device_get_attribute(&value, wanted, device) == 0 && value != 0;
}

// The words are locked once for all contexts and stay so.
MailboxWords* locked_words(const Gpu& gpu) {
  static std::mutex lock;
  static MailboxWords* locked = nullptr;
  std::lock_guard<std::mutex> hold(lock);
  MailboxWords* words = mailbox_words();
  if (locked == words) return words;
  const Gpu::Use use(gpu);
  cuda().check(cuda().host_register(words, sizeof *words * kMailboxes, kPortableMapped), "cuMemHostRegister");
  locked = words;
  return words;
}

CudaAddress gpu_address(void* p) {
  CudaAddress address = 0;
  cuda().check(cuda().host_address(&address, p, 0), "cuMemHostGetDevicePointer");
  return address;
}

bool reached_as_they_are(const Call& c) {
  for (const void* p : {static_cast<const void*>(c.x), static_cast<const void*>(c.out), c.ids.data,
                        static_cast<const void*>(c.weights)}) {
    CudaAddress address = 0;
    if (cuda().host_address(&address, const_cast<void*>(p), 0) != 0 || address != address_of(p)) return false;
  }
  return true;
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

bool Gpu::check_stream(CudaStream stream) const {
  CudaContext context = nullptr;
  int device = -1;
  const Cuda& c = cuda();
  c.check(c.stream_context(stream, &context), "cuStreamGetCtx");
  if (context == context_) return true;
  c.check(c.context_push(context), "cuCtxPushCurrent");
  const int code = c.context_device(&device);
  c.context_pop(&context);
  c.check(code, "cuCtxGetDevice");
  if (device != device_)
    throw CudaError("the stream belongs to GPU " + std::to_string(device) + ", the link to GPU " +
                    std::to_string(device_));
  return false;
}

bool Gpu::check_address(CudaAddress address, const char* name) const {
  const Cuda& c = cuda();
  unsigned type = 0;
  int ordinal = -1;
  if (c.pointer_attribute(&type, kMemoryType, address) != 0)
    throw CudaError(std::string(name) + " is not an address that the GPU can reach");
  if (type != kOnDevice) return false;
  c.check(c.pointer_attribute(&ordinal, kOrdinal, address), "cuPointerGetAttribute");
  if (ordinal != device_)
    throw CudaError(std::string(name) + " is on GPU " + std::to_string(ordinal) + ", the link on GPU " +
                    std::to_string(device_));
  return true;
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

struct GpuCall::Launch {
  HostCall& call;
  const int tokens;
  std::atomic<uint64_t> ticket{0};

  static void start(void* launch) {
    Launch& l = *static_cast<Launch*>(launch);
    l.ticket.store(submit([&l] { l.call.run(l.tokens); }));
  }
  static void finish(void* launch) {
    if (const uint64_t ticket = static_cast<Launch*>(launch)->ticket.load()) wait_for(ticket);
  }
  static void both(void* launch) {
    const Launch& l = *static_cast<Launch*>(launch);
    l.call.run(l.tokens);
  }
};

GpuCall::GpuCall(const Gpu& gpu, HostCall& call, bool mailbox) : gpu_(gpu), call_(call) {
  if (!mailbox) return;
  MailboxWords* words = locked_words(gpu_);
  const Gpu::Use use(gpu_);
  mailbox_ = add_mailbox(call);
  request_ = gpu_address(&words[mailbox_].request);
  answer_ = gpu_address(&words[mailbox_].answer);
  if (reached_as_they_are(call.bound())) code_ = GpuCode::of(gpu_.device());
}

GpuCall::~GpuCall() {
  try {
    const Gpu::Use use(gpu_);
    cuda().context_synchronize();
  } catch (const CudaError&) {
    // The driver has ended: nothing asks any more.
  }
  for (const auto& entry : launches_) Launch::finish(entry.second.get());
  if (mailbox_ >= 0) remove_mailbox(mailbox_);
}

const GpuCode* GpuCall::code_for(CudaStream stream) const { return gpu_.check_stream(stream) ? code_ : nullptr; }

GpuCall::Part GpuCall::part(const GpuCode* code, CudaAddress gpu, const void* host, size_t bytes, size_t piece,
                            const char* name) const {
  if (gpu == 0 || gpu == address_of(host)) return {gpu, address_of(host), 0, false};
  const bool on_gpu = gpu_.check_address(gpu, name), whole = (gpu | bytes) % piece == 0;
  return {gpu, address_of(host), bytes, code && on_gpu && whole && bytes <= kKernelBytes};
}

GpuCall::Parts GpuCall::inputs(const GpuCode* code, int tokens, const GpuInputs& from) const {
  const Call& c = call_.bound();
  const size_t pairs = size_t(tokens) * size_t(c.top_k);
  return {part(code, from.x, c.x, call_.row_bytes() * size_t(tokens), kPiece, "x"),
          part(code, from.ids, c.ids.data, pairs * (c.ids.wide ? 8 : 4), 4, "ids"),
          part(code, from.weights, c.weights, pairs * 4, 4, "weights")};
}

GpuCall::Part GpuCall::output(const GpuCode* code, int tokens, CudaAddress out) const {
  return part(code, out, call_.bound().out, call_.row_bytes() * size_t(tokens), kPiece, "out");
}

// The arrays are free, and hold what a kernel does not bring with the request.
Post GpuCall::begin(CudaStream stream, int tokens, Parts parts) {
  if (unfinished_) finish(stream, unfinished_, 0);
  for (Part* p : {&parts.x, &parts.ids, &parts.weights}) {
    if (p->by_kernel) continue;
    gpu_.copy(p->host, p->gpu, p->bytes, stream);
    p->bytes = 0;
  }
  return {parts.x.host,
          parts.x.gpu,
          parts.ids.host,
          parts.ids.gpu,
          parts.weights.host,
          parts.weights.gpu,
          answer_,
          uint32_t(parts.x.bytes / kPiece),
          uint32_t(parts.ids.bytes / 4),
          uint32_t(parts.weights.bytes / 4),
          uint32_t(tokens)};
}

void GpuCall::ask(const GpuCode* code, CudaStream stream, const Post& post, bool wait) {
  CudaMemoryOp ops[] = {write_word(answer_, 0), write_word(request_, post.tokens), wait_equal(answer_, 1)};
  const unsigned first = code ? 2 : 0, end = wait ? 3 : 2;
  if (code) code->post(stream, post);
  if (first < end) memory_ops(stream, ops + first, end - first);
  wake_mailboxes();
}

void GpuCall::bring(const GpuCode* code, CudaStream stream, const Part& out) {
  if (!out.by_kernel) return gpu_.copy(out.gpu, out.host, out.bytes, stream);
  code->fetch(stream, {out.gpu, out.host, uint32_t(out.bytes / kPiece), 0});
}

void GpuCall::memory_ops(CudaStream stream, CudaMemoryOp* ops, unsigned count) {
  cuda().check(cuda().memory_ops(stream, count, ops, 0), "cuStreamBatchMemOp");
}

void GpuCall::host_function(CudaStream stream, void (*function)(void*), int tokens) {
  std::unique_ptr<Launch>& launch = launches_[tokens];
  if (!launch) launch.reset(new Launch{call_, tokens});
  cuda().check(cuda().host_function(stream, function, launch.get()), "cuLaunchHostFunc");
}

void GpuCall::start(CudaStream stream, int tokens, const GpuInputs& from) {
  const Gpu::Use use(gpu_);
  const GpuCode* code = code_for(stream);
  const Post post = begin(stream, tokens, inputs(code, tokens, from));
  mailbox_ < 0 ? host_function(stream, &Launch::start, tokens) : ask(code, stream, post, false);
  unfinished_ = tokens;
}

// Waiting for an answer that has been waited for already, or that nobody asked for, takes no time: so a
// replayed capture cannot hang for want of another one's start.
void GpuCall::finish(CudaStream stream, int tokens, CudaAddress out) {
  const Gpu::Use use(gpu_);
  const GpuCode* code = code_for(stream);
  const Part result = output(code, tokens, out);
  CudaMemoryOp answered = wait_equal(answer_, 1);
  mailbox_ < 0 ? host_function(stream, &Launch::finish, tokens) : memory_ops(stream, &answered, 1);
  unfinished_ = 0;
  bring(code, stream, result);
}

void GpuCall::both(CudaStream stream, int tokens, const GpuInputs& from, CudaAddress out) {
  const Gpu::Use use(gpu_);
  const GpuCode* code = code_for(stream);
  const Part result = output(code, tokens, out);
  const Post post = begin(stream, tokens, inputs(code, tokens, from));
  mailbox_ < 0 ? host_function(stream, &Launch::both, tokens) : ask(code, stream, post, true);
  bring(code, stream, result);
}

}  // namespace kt
