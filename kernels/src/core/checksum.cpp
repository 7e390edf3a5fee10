#include "checksum.h"

#include <algorithm>

#include "memory.h"
#include "pool.h"

namespace kt {
namespace {

constexpr size_t kUnit = 16 * kSummed;      // of one thread
constexpr size_t kStep = size_t(64) << 20;  // read from the disk, then summed by all
constexpr size_t kAlone = size_t(4) << 20;  // not worth waking the others for

struct Part {
  const Kernels* kernels;
  const char* data;
  size_t bytes;
  uint32_t* sums;
};

void sum_unit(void* context, int, int unit, int) {
  const Part& p = *static_cast<const Part*>(context);
  const size_t at = size_t(unit) * kUnit;
  p.kernels->checksums(p.data + at, std::min(kUnit, p.bytes - at), p.sums + at / kSummed);
}

void sum_step(Part part) {
  Job job;
  job.run = sum_unit;
  job.context = &part;
  job.phases = 1;
  job.units[0] = int((part.bytes + kUnit - 1) / kUnit);
  PoolLock lock;
  pool().run(job);
}

}  // namespace

void checksums(const Kernels& kernels, const char* data, size_t bytes, uint32_t* sums) {
  for (size_t at = 0; at < bytes; at += kStep) {
    const Part part = {&kernels, data + at, std::min(kStep, bytes - at), sums + at / kSummed};
    read_ahead(part.data, part.bytes);
    if (bytes <= kAlone) kernels.checksums(part.data, part.bytes, part.sums);
    else sum_step(part);
  }
}

}  // namespace kt
