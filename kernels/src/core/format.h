// A weight format: how many bytes a panel takes, which packer makes it and which product reads it.
#pragma once
#include <cstddef>
#include <string>
#include <vector>

#include "../isa/abi.h"

namespace kt {

enum class Product { bf16, i8, i4 };

struct Format {
  const char* name;
  Product product;
  int k_per_byte_num, k_per_byte_den;  // k of one row per byte, as a fraction
  bool grouped;                        // one f16 scale per group, otherwise one f32 scale per row
  bool scaled;
  bool (*Kernels::*pack)(const PackArgs*);

  size_t panel_bytes(int k) const { return size_t(k) * 16 * k_per_byte_den / k_per_byte_num; }
  size_t scale_bytes(int k, int group) const {
    if (!scaled) return 0;
    return grouped ? size_t(k / group) * 32 : 64;
  }
};

const Format* find_format(const std::string& name);  // null when unknown
std::vector<std::string> format_names();

// One 16-row panel back to f32: out is [16][k].
void unpack_panel(const Format& f, const char* data, const char* scale, int k, int group, float* out);

float f16_to_f32(uint16_t h);
float bf16_to_f32(uint16_t h);

}  // namespace kt
