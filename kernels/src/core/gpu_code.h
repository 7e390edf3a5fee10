// Kernels of our own for the GPU, as text that its driver compiles.
//
// In a graph a kernel takes 1 to 2 µs where a copy takes 3 to 10, so what is small goes there and back in
// two of them. Large arrays keep to copies, whose rate is higher.
#pragma once
#include "cuda.h"

namespace kt {

// Copies, and a request after them. The kernel's only parameter, as it stands here.
struct Post {
  CudaAddress x_to, x_from, ids_to, ids_from, weights_to, weights_from;
  CudaAddress words;                  // of the mailbox: answer and request, written as one
  uint32_t x_pieces;                  // of 16 bytes
  uint32_t ids_words, weights_words;  // of 4 bytes
  uint32_t tokens;
};
static_assert(sizeof(Post) == 72, "kt_post reads it by offsets");

struct Fetch {
  CudaAddress to, from;
  uint32_t pieces, unused;
};
static_assert(sizeof(Fetch) == 24, "kt_fetch reads it by offsets");

constexpr size_t kPiece = 16, kKernelBytes = 512 * 1024;  // what the kernels copy at most

class GpuCode {
 public:
  // In the GPU's current context. Null where the driver does not take it.
  static const GpuCode* of(int device);

  void post(CudaStream stream, const Post& post) const;
  void fetch(CudaStream stream, const Fetch& fetch) const;

 private:
  CudaFunction post_ = nullptr, fetch_ = nullptr;
};

}  // namespace kt
