// Page-aligned memory on huge pages where the system gives them, and mapped files.
#pragma once
#include <cstddef>
#include <string>

namespace kt {

class Region {
 public:
  Region() = default;
  explicit Region(size_t bytes);                       // zeroed
  Region(const std::string& path, size_t file_bytes);  // read-only map of a file
  Region(Region&& other) noexcept;
  Region& operator=(Region&& other) noexcept;
  ~Region();

  char* data() const { return data_; }
  size_t size() const { return bytes_; }

 private:
  char* data_ = nullptr;
  size_t bytes_ = 0;
};

// Brings a part of a mapped file into memory and into the page table. Throws FormatError where it cannot be read,
// as on a damaged disk or when the file was cut short meanwhile: touching it would end the process.
void read_ahead(const char* p, size_t bytes);

// A buffer that only grows; its content is lost when it does.
class Scratch {
 public:
  char* need(size_t bytes) {
    if (region_.size() < bytes) {
      region_ = Region();
      region_ = Region(bytes + bytes / 4);
    }
    return region_.data();
  }
  template <class T>
  T* need_of(size_t n) {
    return reinterpret_cast<T*>(need(n * sizeof(T)));
  }

 private:
  Region region_;
};

}  // namespace kt
