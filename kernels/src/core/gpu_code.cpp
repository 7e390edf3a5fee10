#include "gpu_code.h"

#include <algorithm>
#include <map>
#include <memory>
#include <mutex>

namespace kt {
namespace {

constexpr unsigned kWarp = 32, kPostThreads = 1024, kFetchThreads = 256;

// kt_post is one block, as all copies have to be over before the request. Both words of the mailbox are one
// store, so nothing has to be in order where nothing is copied. Memory of the host is read past the caches.
constexpr const char* kText = R"(
.version 6.0
.target sm_60
.address_size 64

.visible .entry kt_post(.param .align 8 .b8 post[72])
{
  .reg .pred %over, %narrow, %ids, %copied;
  .reg .u32 %i, %k, %step, %pieces, %id_words, %weight_words, %end, %a, %b, %c, %d;
  .reg .u64 %to, %from, %at, %both, %x_to, %x_from, %i_to, %i_from, %w_to, %w_from;

  ld.param.u64 %x_to, [post];
  ld.param.u64 %x_from, [post+8];
  ld.param.u64 %i_to, [post+16];
  ld.param.u64 %i_from, [post+24];
  ld.param.u64 %w_to, [post+32];
  ld.param.u64 %w_from, [post+40];
  ld.param.u32 %pieces, [post+56];
  ld.param.u32 %id_words, [post+60];
  ld.param.u32 %weight_words, [post+64];
  add.u32 %end, %pieces, %id_words;
  add.u32 %end, %end, %weight_words;
  mov.u32 %i, %tid.x;
  mov.u32 %step, %ntid.x;

NEXT:
  setp.ge.u32 %over, %i, %end;
  @%over bra DONE;
  setp.ge.u32 %narrow, %i, %pieces;
  @%narrow bra WORD;
  mul.wide.u32 %at, %i, 16;
  add.u64 %from, %x_from, %at;
  add.u64 %to, %x_to, %at;
  ld.v4.u32 {%a, %b, %c, %d}, [%from];
  st.v4.u32 [%to], {%a, %b, %c, %d};
  add.u32 %i, %i, %step;
  bra NEXT;

WORD:
  sub.u32 %k, %i, %pieces;
  setp.lt.u32 %ids, %k, %id_words;
  selp.u64 %from, %i_from, %w_from, %ids;
  selp.u64 %to, %i_to, %w_to, %ids;
  @!%ids sub.u32 %k, %k, %id_words;
  mul.wide.u32 %at, %k, 4;
  add.u64 %from, %from, %at;
  add.u64 %to, %to, %at;
  ld.u32 %a, [%from];
  st.u32 [%to], %a;
  add.u32 %i, %i, %step;
  bra NEXT;

DONE:
  bar.sync 0;
  mov.u32 %i, %tid.x;
  setp.ne.u32 %over, %i, 0;
  @%over ret;
  setp.ne.u32 %copied, %end, 0;
  @%copied membar.sys;
  ld.param.u64 %to, [post+48];
  ld.param.u32 %a, [post+68];
  mov.u32 %b, 0;
  mov.b64 %both, {%b, %a};
  st.volatile.u64 [%to], %both;
  ret;
}

.visible .entry kt_fetch(.param .align 8 .b8 fetch[24])
{
  .reg .pred %over;
  .reg .u32 %i, %n, %a, %b, %c, %d;
  .reg .u64 %to, %from, %at;

  mov.u32 %i, %ctaid.x;
  mov.u32 %n, %ntid.x;
  mov.u32 %a, %tid.x;
  mad.lo.u32 %i, %i, %n, %a;
  ld.param.u32 %n, [fetch+16];
  setp.ge.u32 %over, %i, %n;
  @%over ret;
  ld.param.u64 %to, [fetch];
  ld.param.u64 %from, [fetch+8];
  mul.wide.u32 %at, %i, 16;
  add.u64 %to, %to, %at;
  add.u64 %from, %from, %at;
  ld.cv.v4.u32 {%a, %b, %c, %d}, [%from];
  st.v4.u32 [%to], {%a, %b, %c, %d};
  ret;
}
)";

// Fully loaded, so that a capture may be the first to launch it.
bool find(CudaModule module, const char* name, CudaFunction& function) {
  const Cuda& c = cuda();
  return c.module_function(&function, module, name) == 0 && (!c.function_load || c.function_load(function) == 0);
}

void launch(CudaStream stream, CudaFunction function, unsigned blocks, unsigned threads, const void* parameter) {
  void* parameters[] = {const_cast<void*>(parameter)};
  cuda().check(cuda().launch(function, blocks, 1, 1, threads, 1, 1, 0, stream, parameters, nullptr), "cuLaunchKernel");
}

}  // namespace

const GpuCode* GpuCode::of(int device) {
  static std::mutex lock;
  static std::map<int, std::unique_ptr<GpuCode>> loaded;
  std::lock_guard<std::mutex> hold(lock);
  const auto found = loaded.find(device);
  if (found != loaded.end()) return found->second.get();
  const Cuda& c = cuda();
  CudaModule module = nullptr;
  std::unique_ptr<GpuCode> code(new GpuCode);
  const bool usable = c.module_load && c.module_function && c.launch && c.module_load(&module, kText) == 0 &&
                      find(module, "kt_post", code->post_) && find(module, "kt_fetch", code->fetch_);
  if (!usable) code.reset();
  return (loaded[device] = std::move(code)).get();
}

void GpuCode::post(CudaStream stream, const Post& post) const {
  const unsigned units = post.x_pieces + post.ids_words + post.weights_words;
  const unsigned warps = std::max(1u, (units + kWarp - 1) / kWarp);
  launch(stream, post_, 1, std::min(kPostThreads, warps * kWarp), &post);
}

void GpuCode::fetch(CudaStream stream, const Fetch& fetch) const {
  launch(stream, fetch_, (fetch.pieces + kFetchThreads - 1) / kFetchThreads, kFetchThreads, &fetch);
}

}  // namespace kt
