// The packed formats of integers: what codes stand for, how scales lie, and which dot product takes them.
// Products, expansion and turning are written once over these.
#pragma once
#include "abi.h"
#include "unroll.inl"

namespace kt {
namespace {

// Codes: code<I> is the I-th line of four k of 16 rows, of kTogether k that lie together; `operand` makes
// what the dot product takes of it, `value` what it stands for, `wide` the same times kFactor, which fills
// a byte. In a group with a minimum kMiddle and kTop are the codes for the middle and for the upper end.
struct Bytes {
  using Dot = DotS8;
  static constexpr int kBits = 8, kTogether = 4, kFactor = 1;
  template <int>
  static KT_INLINE Line code(const char* p) {
    return line_load(p);
  }
  static KT_INLINE Line operand(Line code) { return code; }
  static KT_INLINE Line value(Line code) { return code; }
  static KT_INLINE Line wide(Line code) { return code; }
};

// k..k+3 in the low, k+4..k+7 in the high halves of a line's bytes.
template <int I>
KT_INLINE Line nibble_line(const char* p) {
  const Line v = line_load(p + I / 2 * 64);
  return I % 2 ? line_high(v) : line_low(v);
}

template <class Unsigned, bool>
struct UnsignedIf {
  using Dot = Unsigned;
};
template <class Unsigned>
struct UnsignedIf<Unsigned, false> {
  using Dot = DotS8;
};

// Two lines of low halves, then one of the upper two bits of all four. Unsigned where sums over 32 k cannot
// overflow.
template <int Zero>
struct Sixes {
  static constexpr bool kUnsigned = DotU<Zero, 63>::kDepth >= 32;
  using Dot = typename UnsignedIf<DotU<Zero, 63>, kUnsigned>::Dot;
  static constexpr int kBits = 6, kTogether = 16, kFactor = 4, kMiddle = 32, kTop = 63;
  template <int I>
  static KT_INLINE Line code(const char* p) {
    return line_with_pair<I>(nibble_line<I>(p), line_load(p + 128));
  }
  static KT_INLINE Line operand(Line code) { return kUnsigned ? code : value(code); }
  static KT_INLINE Line value(Line code) { return Zero ? line_less(code, Zero) : code; }
  static KT_INLINE Line wide(Line code) { return line_twice(line_twice(line_less(code, kMiddle))); }
};

// The grid, moved down and times a factor.
template <const signed char (&Grid)[16], int Down, int Factor>
struct WideGrid {
  signed char of[16] = {};
  constexpr WideGrid() {
    for (int i = 0; i < 16; ++i) of[i] = static_cast<signed char>((Grid[i] - Down) * Factor);
  }
};

// `Table`: whether a look-up makes the operand of the dot product from a code.
template <class D, const signed char (&Grid)[16], const signed char (&Operand)[16], bool Table, int Factor,
          int Down = 0>
struct Nibbles {
  using Dot = D;
  static constexpr int kBits = 4, kTogether = 8, kFactor = Factor, kMiddle = 8, kTop = 15;
  static constexpr WideGrid<Grid, Down, Factor> kWide = {};
  template <int I>
  static KT_INLINE Line code(const char* p) {
    return nibble_line<I>(p);
  }
  static KT_INLINE Line operand(Line code) {
    if constexpr (Table) return line_of(code, Operand);
    return code;
  }
  static KT_INLINE Line value(Line code) { return line_of(code, Grid); }
  static KT_INLINE Line wide(Line code) { return line_of(code, kWide.of); }
};

constexpr signed char kE2m1Up[16] = {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0};

using Int4 = Nibbles<DotU<8, 15>, kInt4Grid, kInt4Grid, false, 16>;
using Uint4 = Nibbles<DotU<0, 15>, kUint4Grid, kUint4Grid, false, 16, 8>;
using E2m1 = Nibbles<DotU<12, 24>, kE2m1Grid, kE2m1Up, true, 10>;
using Iq4 = Nibbles<DotS8, kIq4Grid, kIq4Grid, true, 1>;

struct F16 {
  static constexpr int kBytes = 32;
  static KT_INLINE Vf load(const char* p) { return vf_from_f16(p); }
};
struct E8m0 {
  static constexpr int kBytes = 16;
  static KT_INLINE Vf load(const char* p) { return vf_from_e8m0(p); }
};
struct E4m3 {
  static constexpr int kBytes = 16;
  static KT_INLINE Vf load(const char* p) { return vf_from_e4m3(p); }
};

// A panel as many rows of activations share it: the operands of the dot product in bytes, and for every span of
// activations the scales in f32, then the minima.
template <class W>
struct UnpackedFrom {
  struct Codes : Bytes {
    using Dot = typename W::Codes::Dot;
  };
  static constexpr bool kGrouped = true, kMinimum = W::kMinimum, kRow = false;
  static constexpr int kSpan = W::kSpan, kBytes = kMinimum ? 128 : 64;
  static KT_INLINE int span(int) { return kSpan; }
  static KT_INLINE const char* at(const char* scale, int k, int) { return scale + k / kSpan * kBytes; }
  static KT_INLINE Vf scale(const char* at) { return vf_load(at); }
  static KT_INLINE Vf minimum(const char* at) { return kMinimum ? vf_load(at + 64) : vf_zero(); }
  static KT_INLINE Vf row(const char*) { return vf_set1(1.0f); }
};

// One f32 a row, no groups.
struct RowScaled {
  using Codes = Bytes;
  using Unpacked = RowScaled;
  static constexpr bool kGrouped = false, kMinimum = false, kRow = false;
  static constexpr int kSpan = 32;
  static KT_INLINE int span(int) { return 0; }
  static KT_INLINE const char* at(const char* scale, int, int) { return scale; }
  static KT_INLINE Vf scale(const char* at) { return vf_load(at); }
  static KT_INLINE Vf minimum(const char*) { return vf_zero(); }
  static KT_INLINE Vf row(const char*) { return vf_set1(1.0f); }
};

// Row: one f32 a row comes first and multiplies all scales. Minimum: 16 f16 behind the 16 scales of a
// group are added to all its weights. Span: k of one activation scale.
template <class C, class S, int Span = 32, bool Minimum = false, bool Row = false>
struct GroupScaled {
  using Codes = C;
  using Narrow = GroupScaled<C, S, 16, Minimum, Row>;  // for groups of 16
  using Unpacked = UnpackedFrom<GroupScaled>;
  static constexpr bool kGrouped = true, kMinimum = Minimum, kRow = Row;
  static constexpr int kSpan = Span;
  static KT_INLINE int span(int group) { return group; }  // k of a scale
  static KT_INLINE const char* at(const char* scale, int k, int group) {
    return scale + (Row ? 64 : 0) + size_t(k / group) * (S::kBytes + (Minimum ? 32 : 0));
  }
  static KT_INLINE Vf scale(const char* at) { return S::load(at); }
  static KT_INLINE Vf minimum(const char* at) { return Minimum ? vf_from_f16(at + S::kBytes) : vf_zero(); }
  static KT_INLINE Vf row(const char* scale) { return Row ? vf_load(scale) : vf_set1(1.0f); }
};

using FormatI8 = RowScaled;
using FormatI4 = GroupScaled<Int4, F16>;
using FormatQ80 = GroupScaled<Bytes, F16>;
using FormatQ41 = GroupScaled<Uint4, F16, 32, true>;
using FormatMxfp4 = GroupScaled<E2m1, E8m0>;
using FormatNvfp4 = GroupScaled<E2m1, E4m3, 16, false, true>;
using FormatIq4 = GroupScaled<Iq4, F16>;
using FormatQ60 = GroupScaled<Sixes<32>, F16>;
using FormatQ61 = GroupScaled<Sixes<0>, F16, 32, true>;

}  // namespace
}  // namespace kt
