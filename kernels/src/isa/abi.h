// What the core and the ISA units share: plain structs and one table of functions per ISA.
// No STL and no inline function may appear here: an inline function compiled for AVX-512 becomes a
// weak symbol that the linker may pick for every CPU.
#pragma once
#include <cstddef>
#include <cstdint>

namespace kt {

enum class Dtype : int { f32, f16, bf16 };
enum class Act : int { silu, gelu };

// What a panel holds, and so which functions of a table work on it.
enum class Product : int { bf16, i8, i4, q8_0, q4_1, mxfp4, nvfp4, iq4_nl, q6_0, q6_1 };
constexpr int kProducts = 10;

// What a code of 4 bits stands for. e2m1 is doubled, so that all values are integers.
constexpr signed char kInt4Grid[16] = {-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7};
constexpr signed char kUint4Grid[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
constexpr signed char kE2m1Grid[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
constexpr signed char kIq4Grid[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

// Rows of activations live in blocks of at most 16 rows: [k tile][row][64 bytes], so that one
// pointer with constant displacements serves the vector kernels and a block is an AMX A tile.
// Weights live in panels of 16 rows: [k step][row][4 bytes] (4 int8, 2 bf16 or 8 int4 per row).
struct GemmArgs {
  const char* a;         // a block
  int m;                 // its rows, 1..16
  const float* a_scale;  // int8 activations: [group][16]
  const int32_t* a_sum;  // sum of the quantised values: [group][16]
  int a_group;           // k covered by one activation scale
  int k;                 // padded depth, a multiple of 64
  const char* w;         // first panel
  size_t w_stride;       // bytes from panel to panel
  const char* w_scale;   // of the first panel: see Format in core/format.h
  size_t w_scale_stride;
  int w_group;
  int k0;      // depth of the panel ahead of what w points at
  int panels;  // 2 or a multiple of 4
  float* c;    // [m][panels * 16]
  bool add;    // to what c holds
};

struct QuantArgs {
  const float* x;  // n values
  int n;           // a multiple of group
  int group;
  char* dst;           // first byte of the row inside its block
  size_t tile_stride;  // bytes from k tile to k tile
  int k0;              // position of x[0] in the row
  float* scale;        // [group][16], at the row's column
  int32_t* sum;
};

// A full row of f32 becomes one row of a block, without scales.
struct PutArgs {
  const float* x;
  int n;
  char* dst;
  size_t tile_stride;
  int k0;
};

struct PackArgs {
  const char* rows;  // [16][k], zero where padded
  size_t stride;     // bytes from row to row
  Dtype dtype;
  int k;
  int group;
  char* dst;
  char* scale;
};

// What a later step reads: `lines` of 64 bytes from every panel or block.
struct Ahead {
  const char* at;  // null: nothing
  size_t stride;
  int lines;
};

// Blocks of 16 rows times panels, on tiles. Sums: [panel][block][16 rows][16], int32 or f32.
struct TileArgs {
  const char* a;  // first block: [k tile][16 rows][64 bytes]
  size_t a_stride;
  int blocks;
  int last_rows;  // rows of the last block that hold anything
  const char* w;
  size_t w_stride;
  int panels;  // a multiple of 4
  int depth;   // k tiles
  bool add;    // to what c holds
  char* c;     // aligned to 64
  Ahead w_ahead, a_ahead;
  int run_ahead;  // of panels that are read once, by so many k tiles; 0: not
};

struct ExpandArgs {
  const char* src;        // a panel from k0 on
  const char* src_scale;  // of the whole panel
  int k0, k, group;
  const float* scale;  // of the rows, from row_scales
  char* dst;
};

struct GatherArgs {
  const char* const* source;
  int rows;  // 1..16
  int tiles;
  char* dst;  // aligned to 64
};

struct FinishArgs {  // one block's sums on their way out
  const char* c;     // of the first panel
  size_t c_stride;
  bool ints;     // sums
  bool to_rows;  // of the layer's h, otherwise into a block of tiles
  int rows, panels;
  const float* row_scale;  // null: 1
  const char* w_scale;     // [panel][16] f32, int sums only
  size_t w_scale_stride;
  Act act;
  char* out;
  size_t out_stride;  // bytes from row to row
  Dtype dtype;
};

struct SumArgs {
  const char* const* source;  // padded rows
  int rows, n;
  Dtype from, to;
  void* dst;
};

struct TurnArgs {
  const char* src;  // first panel
  size_t stride;
  const char* scale;
  size_t scale_stride;
  int panels;  // to turn
  int k0, k;   // columns, multiples of 16
  int group;
  char* dst;
};

struct GluBackArgs {
  const float* c;
  const float* dh;
  int pairs;
  Act act;
  float weight;
  float *dgate, *dup, *h;  // h may be null
};

struct Kernels {
  const char* name;
  bool bf16_acts;  // bf16 products take bf16 activations, otherwise f32
  int tile_from;   // tokens per expert from which tiles pay, 0 without tiles
  void (*gemm_bf16)(const GemmArgs*);
  void (*gemm[kProducts])(const GemmArgs*);
  void (*tile_bf16)(const TileArgs*);
  void (*tile_s8)(const TileArgs*);
  // Panels with scales in groups as int8 panels with one scale a row; null for the other products.
  void (*row_scales[kProducts])(const char* src_scale, int k, int group, float* scale);
  void (*expand[kProducts])(const ExpandArgs*);
  void (*gather)(const GatherArgs*);
  void (*finish_glu)(const FinishArgs*);
  void (*finish_rows)(const FinishArgs*);
  void (*sum_rows)(const SumArgs*);
  void (*quantise)(const QuantArgs*);
  void (*put_f32)(const PutArgs*);
  void (*put_bf16)(const PutArgs*);
  void (*load_row)(const void* src, Dtype, int n, int padded, float* dst);
  void (*store_row)(const float* src, Dtype, int n, void* dst);
  void (*glu)(const float* c, int pairs, Act, float* h);
  void (*turn[kProducts])(const TurnArgs*);
  void (*widen[kProducts])(const TurnArgs*);
  float (*glu_back)(const GluBackArgs*);
  void (*axpy)(float* out, const float* x, float w, int n);  // n a multiple of 16
  float (*dot)(const float* x, const float* y, int n);
  bool (*pack[kProducts])(const PackArgs*);  // false for a value that is not finite
  // Peak loops return the operations done; kind: 0 fma, 1 int8 dot, 2 bf16 dot, 3/4 tiles, 5 int4 dot.
  double (*peak)(int kind, long rounds);
  uint64_t (*read)(const char* p, size_t bytes);
  void (*checksums)(const char* p, size_t bytes, uint32_t* sums);  // CRC-32C of every 64 KiB
};

const Kernels* kernels_avx2();
const Kernels* kernels_avx512_base();
const Kernels* kernels_avx512_vnni();
const Kernels* kernels_avx512_bf16();
const Kernels* kernels_amx();
const Kernels* kernels_amx_shim();
const Kernels* kernels_avx512_base_shim();
const Kernels* kernels_avx512_vnni_shim();
const Kernels* kernels_avx512_bf16_shim();

}  // namespace kt
