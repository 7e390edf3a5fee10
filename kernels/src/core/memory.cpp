#include "memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <new>
#include <utility>

#include "errors.h"

namespace kt {
namespace {
constexpr size_t kHugePage = size_t(2) << 20;
constexpr uintptr_t kPage = 4096;

#ifndef MADV_POPULATE_READ  // Linux 5.14
#define MADV_POPULATE_READ 22
#endif

}  // namespace

Region::Region(size_t bytes) {
  if (bytes == 0) return;
  bytes_ = bytes >= kHugePage ? (bytes + kHugePage - 1) / kHugePage * kHugePage : bytes;
  void* p = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) throw std::bad_alloc();
  if (bytes_ >= kHugePage) madvise(p, bytes_, MADV_HUGEPAGE);
  data_ = static_cast<char*>(p);
}

Region::Region(const std::string& path, size_t file_bytes) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) throw FormatError(path + ": " + std::strerror(errno));
  void* p = mmap(nullptr, file_bytes, PROT_READ, MAP_PRIVATE, fd, 0);
  close(fd);
  if (p == MAP_FAILED) throw FormatError(path + ": cannot be mapped: " + std::strerror(errno));
  madvise(p, file_bytes, MADV_HUGEPAGE);  // where the page cache has them; refused elsewhere
  data_ = static_cast<char*>(p);
  bytes_ = file_bytes;
}

Region::Region(Region&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

Region& Region::operator=(Region&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

void read_ahead(const char* p, size_t bytes) {
  const uintptr_t from = reinterpret_cast<uintptr_t>(p) / kPage * kPage;
  void* const page = reinterpret_cast<void*>(from);
  const size_t length = reinterpret_cast<uintptr_t>(p) + bytes - from;
  if (madvise(page, length, MADV_POPULATE_READ) == 0) return;
  if (errno == EFAULT || errno == EIO || errno == EHWPOISON)
    throw FormatError(std::string("a mapped file cannot be read: ") + std::strerror(errno));
  madvise(page, length, MADV_WILLNEED);
}

Region::~Region() {
  if (data_) munmap(data_, bytes_);
}

}  // namespace kt
