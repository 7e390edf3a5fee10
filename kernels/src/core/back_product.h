// Products of the backward pass: blocks of rows times panels that are bf16, or become it for a step.
#pragma once
#include "back_state.h"

namespace kt {

struct Bf16Panels {
  const char* data;
  size_t stride;
};

// Panels of one matrix of an expert, and where its scales are.
struct Matrix {
  Coding coding;
  const char* data;
  size_t stride;
  const char* scale;
  size_t scale_stride;

  int product() const { return int(coding.format->product); }
};

Matrix matrix_of(const Back& s, int expert, Projection projection);

// 64 columns from `column` on, turned; the depth from k0 on is rows of the matrix.
Bf16Panels turned(const Back& s, const Matrix& m, int column, int k0, int depth, char* dst);
// `count` neighbouring panels as bf16.
Bf16Panels widened(const Back& s, const Matrix& m, int first, int count, int k0, int depth, char* dst);

// One step: adds (or sets, when `first`) sums [block][16][panels * 16] of some blocks. With tiles the
// sums lie elsewhere until finish_product.
struct StepArgs {
  const Rows* a;
  int first_block, blocks;
  Bf16Panels w;
  int panels, k0, depth;
  bool first;
  float* c;
};
void product_step(const Back& s, const StepArgs& p, const BackScratch& t);
void finish_product(const Back& s, const StepArgs& p, const BackScratch& t);

// All steps of a product; at(k0, depth) gives the panels. `joint` is a depth that no step crosses.
template <class At>
void product(const Back& s, StepArgs p, int joint, const BackScratch& t, At at) {
  for (p.k0 = 0; p.k0 < p.a->k; p.k0 += p.depth) {
    p.depth = std::min(kStep, joint - p.k0 % joint);
    p.w = at(p.k0, p.depth);
    p.first = p.k0 == 0;
    product_step(s, p, t);
  }
  finish_product(s, p, t);
}

// A slice of gate and up of some blocks, into the scratch's gate_up.
void gate_up_step(const Back& s, int expert, int column, int first, int blocks, const BackScratch& t);

}  // namespace kt
