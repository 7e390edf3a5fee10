// What this CPU and this kernel allow, and which variant of the kernels that gives.
// Compiled for plain x86-64: nothing here may need more than the baseline.
#pragma once
#include <string>
#include <vector>

#include "../isa/abi.h"

namespace kt {

struct Variant {
  const char* name;
  const Kernels* (*table)();
  std::string lacks;  // empty: this variant runs here
  bool shim;          // emulated, for tests: chosen by its full name only
};

struct Cpu {
  std::vector<std::string> features;
  bool amx_permission = false;
  std::string amx_reason;
  std::vector<Variant> variants;  // slowest first
};

const Cpu& cpu();

// `avx2`, `avx512` (the best of its variants), `amx`, or a variant's full name; empty means the best.
// Throws IsaError naming what the CPU lacks.
const Kernels* choose_kernels(const std::string& wanted);

}  // namespace kt
