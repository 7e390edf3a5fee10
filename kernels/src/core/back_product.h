// Products of the backward pass: blocks of rows times panels that are bf16, or become it for a step.
#pragma once
#include "back_state.h"
#include "panels.h"

namespace kt {

// The panels of one matrix of an expert.
Panels matrix_of(const Back& s, int expert, Projection projection);

// 64 columns from `column` on, turned, as bf16 in dst; the depth from k0 on is rows of the matrix.
Panels turned(const Back& s, const Panels& matrix, int column, int k0, int depth, char* dst);
// The panels as bf16, from depth k0 on: in dst, or where they stand.
Panels widened(const Back& s, const Panels& panels, int k0, int depth, char* dst);

// One step: adds (or sets, when `first`) sums [block][16][panels * 16] of some blocks. With tiles the
// sums lie elsewhere until finish_product.
struct StepArgs {
  const Rows* a;
  int first_block, blocks;
  int panels;
  float* c;
  Panels w = {};
  int k0 = 0, depth = 0;
  bool first = true;
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
