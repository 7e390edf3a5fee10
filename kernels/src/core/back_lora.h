// The low-rank part of the backward pass: scale · B · A beside each of gate, up and down.
#pragma once
#include "back_state.h"
#include "memory.h"

namespace kt {

struct LoraBuffers {
  Scratch a[3], b[3], x, dout, low, h, dgate, dup, threads;
};

// One call's low-rank matrices and what is kept between its phases. Rows are padded with zeros to the
// layer's padded sizes, B stands turned: [touched expert][rank][padded].
struct BackLora {
  const Lora& call;
  int rank, widest;
  float *a[3] = {}, *b[3] = {};
  float *x = nullptr, *dout = nullptr;                   // [token][hidden]
  float* low = nullptr;                                  // [pair][kLows][rank]
  float *h = nullptr, *dgate = nullptr, *dup = nullptr;  // [pair][intermediate]
  float* scratch = nullptr;                              // [thread][widest row]
  std::vector<int> touched_of = {};                      // of each block
};

enum Low { kGateLow, kUpLow, kDoutLow, kGateInner, kUpInner, kHLow, kLows };

BackLora make_lora(const Back& s, const Lora& call, LoraBuffers& buffers, int threads);

// Units: lora_copies, blocks (low, inner, h_low), lora_grads; the others lie within a slice.
int lora_copies(const Back& s);
void lora_copy(const Back& s, int unit);
void lora_low(const Back& s, int block);
void lora_add_gate_up(const Back& s, int block, int row, int column, float* gate_up);
void lora_add_dh(const Back& s, int block, int row, int column, float* dh);
void lora_inner(const Back& s, int block);
void lora_h_low(const Back& s, int block);
void lora_add_down(const Back& s, int block, int row, int column, float* y);
void lora_add_dx(const Back& s, int block, int row, int column, float* dx);
int lora_grads(const Back& s);
void lora_grad(const Back& s, int unit, int thread);

}  // namespace kt
