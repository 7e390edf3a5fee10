#include "back_lora.h"

#include <cstring>

namespace kt {
namespace {

size_t element_bytes(Dtype t) { return t == Dtype::f32 ? 4 : 2; }

// Sizes of gate and up (in: hidden), and of down (in: intermediate).
int in_of(const Shape& s, int p) { return p == 2 ? s.intermediate : s.hidden; }
int out_of(const Shape& s, int p) { return p == 2 ? s.hidden : s.intermediate; }
int padded_in(const Layout& l, int p) { return p == 2 ? l.intermediate : l.hidden; }
int padded_out(const Layout& l, int p) { return p == 2 ? l.hidden : l.intermediate; }

const float* a_row(const Back& s, int p, int touched, int j) {
  return s.lora->a[p] + (size_t(touched) * s.lora->rank + j) * padded_in(s.l, p);
}
const float* b_row(const Back& s, int p, int touched, int j) {
  return s.lora->b[p] + (size_t(touched) * s.lora->rank + j) * padded_out(s.l, p);
}
float* low_of(const Back& s, size_t pair, int which) {
  return s.lora->low + (pair * kLows + size_t(which)) * s.lora->rank;
}
size_t token_of(const Back& s, size_t pair) { return size_t(s.routing.token[pair]); }

void copy_matrices(const Back& s, int touched, int p) {
  const BackLora& r = *s.lora;
  const size_t e = size_t(s.routing.touched[size_t(touched)].expert), rank = size_t(r.rank);
  const size_t in = size_t(in_of(s.l.shape, p)), out = size_t(out_of(s.l.shape, p));
  for (size_t j = 0; j < rank; ++j) {
    float* a = const_cast<float*>(a_row(s, p, touched, int(j)));
    std::memcpy(a, r.call.a[p] + (e * rank + j) * in, in * 4);
    std::fill(a + in, a + padded_in(s.l, p), 0.0f);
    float* b = const_cast<float*>(b_row(s, p, touched, int(j)));
    for (size_t i = 0; i < out; ++i) b[i] = r.call.b[p][(e * out + i) * rank + j];
    std::fill(b + out, b + padded_out(s.l, p), 0.0f);
  }
}

void copy_token(const Back& s, int token) {
  const int n = s.l.shape.hidden;
  const size_t at = size_t(s.first_token + token) * n * element_bytes(s.call.dtype);
  const size_t to = size_t(token) * s.l.hidden;
  s.kernels.load_row(s.call.x + at, s.call.dtype, n, s.l.hidden, s.lora->x + to);
  if (s.call.dout) s.kernels.load_row(s.call.dout + at, s.call.dtype, n, s.l.hidden, s.lora->dout + to);
}

// low[which][j] = factor * (row · the j-th row of a matrix)
template <class RowOf>
void project(const Back& s, size_t pair, int which, const float* row, int n, float factor, RowOf row_of) {
  float* low = low_of(s, pair, which);
  for (int j = 0; j < s.lora->rank; ++j) low[j] = factor * s.kernels.dot(row, row_of(j), n);
}

// Rows of one matrix's gradient, summed over an expert's pairs in the thread's scratch.
struct Sum {
  const float* rows;  // [pair or token][n]
  bool by_token;
  int n;
  int which;      // low-rank factor of each pair
  bool weighted;  // and by the routing weight
  float factor;
};

const float* summed(const Back& s, const Touched& e, int j, const Sum& sum, float* acc) {
  std::fill(acc, acc + sum.n, 0.0f);
  for (size_t pair = size_t(e.first); pair < size_t(e.first + e.pairs); ++pair) {
    const size_t row = sum.by_token ? token_of(s, pair) : pair;
    const float weight = sum.weighted ? s.routing.weight[pair] : 1.0f;
    s.kernels.axpy(acc, sum.rows + row * size_t(sum.n), sum.factor * weight * low_of(s, pair, sum.which)[j], sum.n);
  }
  return acc;
}

}  // namespace

BackLora make_lora(const Back& s, const Lora& call, LoraBuffers& b, int threads) {
  const size_t touched = s.routing.touched.size(), pairs = s.routing.token.size();
  const size_t rank = size_t(call.rank), i = size_t(s.l.intermediate);
  BackLora r = {.call = call, .rank = call.rank, .widest = std::max(s.l.hidden, s.l.intermediate)};
  for (int p = 0; p < 3; ++p) {
    r.a[p] = b.a[p].need_of<float>(touched * rank * size_t(padded_in(s.l, p)));
    r.b[p] = b.b[p].need_of<float>(touched * rank * size_t(padded_out(s.l, p)));
  }
  r.x = b.x.need_of<float>(size_t(s.tokens) * s.l.hidden);
  r.low = b.low.need_of<float>(pairs * kLows * rank);
  r.h = b.h.need_of<float>(pairs * i);
  if (s.call.dout) {
    r.dout = b.dout.need_of<float>(size_t(s.tokens) * s.l.hidden);
    r.dgate = b.dgate.need_of<float>(pairs * i);
    r.dup = b.dup.need_of<float>(pairs * i);
  }
  r.scratch = b.threads.need_of<float>(size_t(threads) * r.widest);
  r.touched_of.resize(s.routing.blocks.size());
  for (size_t t = 0; t < touched; ++t)
    for (int k = 0; k < s.routing.touched[t].blocks; ++k)
      r.touched_of[size_t(s.routing.touched[t].first_block + k)] = int(t);
  return r;
}

int lora_copies(const Back& s) { return s.lora ? int(s.routing.touched.size()) * 3 + s.tokens : 0; }

void lora_copy(const Back& s, int unit) {
  const int matrices = int(s.routing.touched.size()) * 3;
  unit < matrices ? copy_matrices(s, unit / 3, unit % 3) : copy_token(s, unit - matrices);
}

void lora_low(const Back& s, int block) {
  const Block& b = s.routing.blocks[size_t(block)];
  const int t = s.lora->touched_of[size_t(block)], n = s.l.hidden;
  for (size_t pair = size_t(b.first); pair < size_t(b.first + b.rows); ++pair) {
    const float* x = s.lora->x + token_of(s, pair) * n;
    project(s, pair, kGateLow, x, n, 1.0f, [&](int j) { return a_row(s, 0, t, j); });
    project(s, pair, kUpLow, x, n, 1.0f, [&](int j) { return a_row(s, 1, t, j); });
    if (!s.call.dout) continue;
    const float* dout = s.lora->dout + token_of(s, pair) * n;
    project(s, pair, kDoutLow, dout, n, 1.0f, [&](int j) { return b_row(s, 2, t, j); });
  }
}

void lora_add_gate_up(const Back& s, int block, int row, int column, float* gate_up) {
  const size_t pair = size_t(s.routing.blocks[size_t(block)].first + row);
  const int t = s.lora->touched_of[size_t(block)];
  const float scale = s.lora->call.scale;
  for (int j = 0; j < s.lora->rank; ++j)
    for (int i = 0; i < kSlice; i += 16) {  // gate and up in turn, 16 of each
      s.kernels.axpy(gate_up + i * 2, b_row(s, 0, t, j) + column + i, scale * low_of(s, pair, kGateLow)[j], 16);
      s.kernels.axpy(gate_up + i * 2 + 16, b_row(s, 1, t, j) + column + i, scale * low_of(s, pair, kUpLow)[j], 16);
    }
}

namespace {

// to += sum over the rank of low[which][j] times a row of a matrix, from a column on.
template <class RowOf>
void add_low(const Back& s, int block, int row, int column, int which, float factor, float* to, RowOf row_of) {
  const float* low = low_of(s, size_t(s.routing.blocks[size_t(block)].first + row), which);
  const int t = s.lora->touched_of[size_t(block)];
  for (int j = 0; j < s.lora->rank; ++j) s.kernels.axpy(to, row_of(t, j) + column, factor * low[j], kSlice);
}

}  // namespace

void lora_add_dh(const Back& s, int block, int row, int column, float* dh) {
  add_low(s, block, row, column, kDoutLow, s.lora->call.scale, dh, [&](int t, int j) { return a_row(s, 2, t, j); });
}

void lora_add_down(const Back& s, int block, int row, int column, float* y) {
  add_low(s, block, row, column, kHLow, s.lora->call.scale, y, [&](int t, int j) { return b_row(s, 2, t, j); });
}

void lora_h_low(const Back& s, int block) {
  const Block& b = s.routing.blocks[size_t(block)];
  const int t = s.lora->touched_of[size_t(block)], n = s.l.intermediate;
  for (size_t pair = size_t(b.first); pair < size_t(b.first + b.rows); ++pair)
    project(s, pair, kHLow, s.lora->h + pair * size_t(n), n, 1.0f, [&](int j) { return a_row(s, 2, t, j); });
}

void lora_inner(const Back& s, int block) {
  const Block& b = s.routing.blocks[size_t(block)];
  const int t = s.lora->touched_of[size_t(block)], n = s.l.intermediate;
  const float scale = s.lora->call.scale;
  for (size_t pair = size_t(b.first); pair < size_t(b.first + b.rows); ++pair) {
    const size_t at = pair * size_t(n);
    project(s, pair, kGateInner, s.lora->dgate + at, n, scale, [&](int j) { return b_row(s, 0, t, j); });
    project(s, pair, kUpInner, s.lora->dup + at, n, scale, [&](int j) { return b_row(s, 1, t, j); });
  }
  lora_h_low(s, block);
}

void lora_add_dx(const Back& s, int block, int row, int column, float* dx) {
  add_low(s, block, row, column, kGateInner, 1.0f, dx, [&](int t, int j) { return a_row(s, 0, t, j); });
  add_low(s, block, row, column, kUpInner, 1.0f, dx, [&](int t, int j) { return a_row(s, 1, t, j); });
}

int lora_grads(const Back& s) { return s.lora ? int(s.routing.touched.size()) * s.lora->rank : 0; }

void lora_grad(const Back& s, int unit, int thread) {
  const BackLora& r = *s.lora;
  const Touched& e = s.routing.touched[size_t(unit / r.rank)];
  const int j = unit % r.rank, hidden = s.l.hidden, inner = s.l.intermediate;
  const float scale = r.call.scale;
  const Sum of_a[3] = {{r.x, true, hidden, kGateInner, false, 1.0f},
                       {r.x, true, hidden, kUpInner, false, 1.0f},
                       {r.h, false, inner, kDoutLow, true, scale}};
  const Sum of_b[3] = {{r.dgate, false, inner, kGateLow, false, scale},
                       {r.dup, false, inner, kUpLow, false, scale},
                       {r.dout, true, hidden, kHLow, true, scale}};
  float* acc = r.scratch + size_t(thread) * r.widest;
  for (int p = 0; p < 3; ++p) {
    const size_t in = size_t(in_of(s.l.shape, p)), out = size_t(out_of(s.l.shape, p));
    const float* da = summed(s, e, j, of_a[p], acc);
    float* to = r.call.da[p] + (size_t(e.expert) * r.rank + j) * in;
    for (size_t i = 0; i < in; ++i) to[i] += da[i];
    const float* db = summed(s, e, j, of_b[p], acc);
    for (size_t i = 0; i < out; ++i) r.call.db[p][(size_t(e.expert) * out + i) * r.rank + j] += db[i];
  }
}

}  // namespace kt
