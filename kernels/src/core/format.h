// A weight format: what a panel and its scales hold, and so how many bytes they take.
#pragma once
#include <cstddef>
#include <string>
#include <vector>

#include "../isa/abi.h"

namespace kt {

enum class GroupScale : int { none, f16, e8m0, e4m3 };

// The scales of a panel: 16 f32 when `row`, then for each group 16 scales and, with `minimum`, 16 f16 that
// are added to its weights. weight = row · scale · value + minimum
struct Format {
  const char* name;
  Product product;
  int bits;                 // of a weight: 16, 8, 6 or 4
  const signed char* grid;  // values of the codes of 6 or 4 bits
  bool row;
  GroupScale scale;
  bool minimum;
  int least, most;  // k of a group: a power of two between these

  bool ints() const { return product != Product::bf16; }
  bool grouped() const { return scale != GroupScale::none; }
  size_t panel_bytes(int k) const { return size_t(k) * 2 * size_t(bits); }
  size_t head_bytes() const { return row ? 64 : 0; }
  size_t scale_width() const { return scale == GroupScale::f16 ? 2 : grouped() ? 1 : 0; }
  size_t group_bytes() const { return 16 * (scale_width() + (minimum ? 2 : 0)); }
  size_t scale_bytes(int k, int k_of_group) const {
    return head_bytes() + (grouped() ? size_t(k / k_of_group) * group_bytes() : 0);
  }
};

// How a matrix is held.
struct Coding {
  const Format* format = nullptr;
  int group = 0;  // k that share a scale
};

const Format* find_format(const std::string& name);  // null when unknown
std::vector<std::string> format_names();
std::vector<int> format_groups(const Format& f);

// One 16-row panel back to f32: out is [16][k].
void unpack_panel(Coding c, const char* data, const char* scale, int k, float* out);

// Some rows of a matrix in codes: bytes of int8, or of 0..15 or 0..63 for formats of 4 or 6 bits, and
// scales as they are stored. `minima` and `row_scales` are null where the format has none.
struct CodeRows {
  const unsigned char* codes;  // [rows][k]
  const char* scales;          // [rows][groups] of scale_width() bytes
  const char* minima;          // [rows][groups] f16
  const float* row_scales;     // [rows]
  int rows, k, groups;
};

// At most 16 rows into a panel of depth k. False when a code does not fit: -128 has no positive twin,
// which products of magnitudes need.
bool place_codes(Coding c, const CodeRows& from, int k, char* data, char* scale);

float f16_to_f32(uint16_t h);
float bf16_to_f32(uint16_t h);

}  // namespace kt
