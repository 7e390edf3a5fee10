#include "format.h"

#include <cmath>
#include <cstring>

namespace kt {
namespace {

struct Grid6 {
  signed char of[64] = {};
  constexpr explicit Grid6(int first) {
    for (int i = 0; i < 64; ++i) of[i] = static_cast<signed char>(first + i);
  }
};
constexpr Grid6 kInt6Grid(-32), kUint6Grid(0);

const Format kFormats[] = {
    {"bf16", Product::bf16, 16, nullptr, false, GroupScale::none, false, 32, 128},
    {"int8", Product::i8, 8, nullptr, true, GroupScale::none, false, 32, 128},
    {"int4", Product::i4, 4, kInt4Grid, false, GroupScale::f16, false, 16, 128},
    {"q8_0", Product::q8_0, 8, nullptr, false, GroupScale::f16, false, 32, 128},
    {"q4_1", Product::q4_1, 4, kUint4Grid, false, GroupScale::f16, true, 16, 128},
    {"mxfp4", Product::mxfp4, 4, kE2m1Grid, false, GroupScale::e8m0, false, 32, 32},
    {"nvfp4", Product::nvfp4, 4, kE2m1Grid, true, GroupScale::e4m3, false, 16, 16},
    {"iq4_nl", Product::iq4_nl, 4, kIq4Grid, false, GroupScale::f16, false, 32, 128},
    {"q6_0", Product::q6_0, 6, kInt6Grid.of, false, GroupScale::f16, false, 16, 128},
    {"q6_1", Product::q6_1, 6, kUint6Grid.of, false, GroupScale::f16, true, 16, 128},
};
static_assert(sizeof kFormats / sizeof *kFormats == kProducts, "a format for every product");

float read_f16(const char* at) {
  uint16_t h;
  std::memcpy(&h, at, 2);
  return f16_to_f32(h);
}

// 16 k of 16 rows are two lines of low halves, as those of 4 bits, then one line of the upper two bits:
// byte k % 4 of a row has them of k, k + 4, k + 8 and k + 12, from the lowest upwards.
constexpr int kLinesOf6 = 192;

int code6_at(const unsigned char* bytes, int row, int k) {
  const unsigned char* at = bytes + k / 16 * kLinesOf6 + row * 4 + k % 4;
  const unsigned char pair = at[k / 8 % 2 * 64];
  return (k / 4 % 2 ? pair >> 4 : pair & 15) | (at[128] >> (k / 4 % 4 * 2) & 3) << 4;
}

float value_at(const Format& f, const char* data, int row, int k) {
  const auto* bytes = reinterpret_cast<const unsigned char*>(data);
  if (f.bits == 16) {
    uint16_t h;
    std::memcpy(&h, bytes + k / 2 * 64 + row * 4 + k % 2 * 2, 2);
    return bf16_to_f32(h);
  }
  if (f.bits == 8) return float(static_cast<signed char>(bytes[k / 4 * 64 + row * 4 + k % 4]));
  if (f.bits == 6) return float(f.grid[code6_at(bytes, row, k)]);
  const unsigned char pair = bytes[k / 8 * 64 + row * 4 + k % 4];
  return float(f.grid[k / 4 % 2 ? pair >> 4 : pair & 15]);
}

float from_e8m0(unsigned char byte) { return byte ? std::ldexp(1.0f, byte - 127) : 0.0f; }

float group_scale(const Format& f, const char* at, int row) {
  const auto* bytes = reinterpret_cast<const unsigned char*>(at);
  switch (f.scale) {
    case GroupScale::f16:
      return read_f16(at + row * 2);
    case GroupScale::e8m0:
      return from_e8m0(bytes[row]);
    case GroupScale::e4m3:
      return f16_to_f32(uint16_t(bytes[row] << 7));
    default:
      return 1.0f;
  }
}

float weight_at(const Format& f, const char* data, const char* scale, int row, int k, int group) {
  const float value = value_at(f, data, row, k);
  const char* at = scale + f.head_bytes() + (f.grouped() ? size_t(k / group) * f.group_bytes() : 0);
  const float row_scale = f.row ? reinterpret_cast<const float*>(scale)[row] : 1.0f;
  const float low = f.minimum ? read_f16(at + 16 * f.scale_width() + row * 2) : 0.0f;
  return value * (group_scale(f, at, row) * row_scale) + low;
}

// Codes k..k+3 of a row as they lie in a line, zeros beyond the row's end.
uint32_t four(const unsigned char* codes, int k, int end) {
  uint32_t word = 0;
  if (k + 4 <= end) std::memcpy(&word, codes + k, 4);
  else if (k < end) std::memcpy(&word, codes + k, size_t(end - k));
  return word;
}

void place_row6(const unsigned char* codes, int n, int row, char* data) {
  for (int k = 0; k < n; k += 16, data += kLinesOf6) {
    uint32_t low[4], high = 0;
    for (int i = 0; i < 4; ++i) {
      const uint32_t word = four(codes, k + 4 * i, n);
      low[i] = word & 0x0f0f0f0f;
      high |= (word >> 4 & 0x03030303) << (2 * i);
    }
    const uint32_t lines[3] = {low[0] | low[1] << 4, low[2] | low[3] << 4, high};
    for (int i = 0; i < 3; ++i) std::memcpy(data + i * 64 + row * 4, lines + i, 4);
  }
}

void place_row(const Format& f, const CodeRows& from, int row, char* data) {
  const unsigned char* codes = from.codes + size_t(row) * size_t(from.k);
  if (f.bits == 6) return place_row6(codes, from.k, row, data);
  const int step = 32 / f.bits;  // k of a line
  for (int k = 0; k < from.k; k += step) {
    uint32_t line = four(codes, k, from.k);
    if (f.bits == 4) line |= four(codes, k + 4, from.k) << 4;
    std::memcpy(data + size_t(k / step) * 64 + row * 4, &line, 4);
  }
}

void place_scales(const Format& f, const CodeRows& from, int row, char* scale) {
  const size_t width = f.scale_width();
  if (f.row) std::memcpy(scale + row * 4, from.row_scales + row, 4);
  for (int g = 0; g < from.groups; ++g) {
    const size_t source = size_t(row) * size_t(from.groups) + size_t(g);
    char* at = scale + f.head_bytes() + size_t(g) * f.group_bytes();
    std::memcpy(at + size_t(row) * width, from.scales + source * width, width);
    if (f.minimum) std::memcpy(at + 16 * width + row * 2, from.minima + source * 2, 2);
  }
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

std::vector<int> format_groups(const Format& f) {
  std::vector<int> groups;
  for (int g = f.least; g <= f.most; g *= 2) groups.push_back(g);
  return groups;
}

void unpack_panel(Coding c, const char* data, const char* scale, int k, float* out) {
  for (int row = 0; row < 16; ++row)
    for (int i = 0; i < k; ++i) out[size_t(row) * k + i] = weight_at(*c.format, data, scale, row, i, c.group);
}

bool place_codes(Coding c, const CodeRows& from, int k, char* data, char* scale) {
  const Format& f = *c.format;
  std::memset(data, 0, f.panel_bytes(k));  // the edges only ever meet zeros
  std::memset(scale, 0, f.scale_bytes(k, c.group));
  for (size_t i = 0; i < size_t(from.rows) * size_t(from.k); ++i)
    if (f.bits < 8 ? from.codes[i] >> f.bits : from.codes[i] == 0x80) return false;
  for (int row = 0; row < from.rows; ++row) {
    place_row(f, from, row, data);
    place_scales(f, from, row, scale);
  }
  return true;
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
