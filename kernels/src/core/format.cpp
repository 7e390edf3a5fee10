#include "format.h"

#include <cmath>
#include <cstring>

namespace kt {
namespace {

const Format kFormats[] = {
    {"bf16", Product::bf16, 1, 2, false, false, &Kernels::pack_bf16},
    {"int8", Product::i8, 1, 1, false, true, &Kernels::pack_i8},
    {"int4", Product::i4, 2, 1, true, true, &Kernels::pack_i4},
};

float value_at(const Format& f, const char* data, int row, int k) {
  const auto* bytes = reinterpret_cast<const unsigned char*>(data);
  if (f.product == Product::bf16) {
    uint16_t h;
    std::memcpy(&h, bytes + k / 2 * 64 + row * 4 + k % 2 * 2, 2);
    return bf16_to_f32(h);
  }
  if (f.product == Product::i8)
    return float(static_cast<signed char>(bytes[k / 4 * 64 + row * 4 + k % 4]));
  const unsigned char pair = bytes[k / 8 * 64 + row * 4 + k % 4];
  return float((k / 4 % 2 ? pair >> 4 : pair & 15) - 8);
}

float scale_at(const Format& f, const char* scale, int row, int k, int group) {
  if (!f.scaled) return 1.0f;
  if (!f.grouped) return reinterpret_cast<const float*>(scale)[row];
  return f16_to_f32(reinterpret_cast<const uint16_t*>(scale)[k / group * 16 + row]);
}

}  // namespace

const Format* find_format(const std::string& name) {
  for (const Format& f : kFormats)
    if (name == f.name) return &f;
  return nullptr;
}

std::vector<std::string> format_names() {
  std::vector<std::string> names;
  for (const Format& f : kFormats) names.emplace_back(f.name);
  return names;
}

void unpack_panel(const Format& f, const char* data, const char* scale, int k, int group,
                  float* out) {
  for (int row = 0; row < 16; ++row)
    for (int i = 0; i < k; ++i)
      out[size_t(row) * k + i] = value_at(f, data, row, i) * scale_at(f, scale, row, i, group);
}

float bf16_to_f32(uint16_t h) {
  const uint32_t bits = uint32_t(h) << 16;
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

float f16_to_f32(uint16_t h) {
  const int exponent = h >> 10 & 31, mantissa = h & 1023;
  const float sign = h & 0x8000 ? -1.0f : 1.0f;
  if (exponent == 31) return mantissa ? NAN : sign * INFINITY;
  if (exponent == 0) return sign * std::ldexp(float(mantissa), -24);
  return sign * std::ldexp(float(mantissa + 1024), exponent - 25);
}

}  // namespace kt
