#include "weights.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <stdexcept>
#include <vector>

#include "pool.h"

namespace kt {
namespace {

int pad(int n, int to) { return (n + to - 1) / to * to; }
size_t align64(size_t n) { return (n + 63) / 64 * 64; }

struct Packing {
  const Layout* layout;
  const Kernels* kernels;
  Source source[3];
  char* expert;
  std::vector<std::vector<char>>* copies;  // one a thread
  std::atomic<int> bad{0};                 // 0: none, otherwise 1 + matrix
};

size_t element_bytes(Dtype t) { return t == Dtype::f32 ? 4 : 2; }

struct Rows {
  const char* data;
  size_t stride;
};

// 16 rows of a [n, k] matrix: where they are, or in a copy that is padded with zeros.
Rows sixteen_rows(Source s, int first, int n, int k, int padded, std::vector<char>& copy) {
  const size_t bytes = element_bytes(s.dtype), row = size_t(k) * bytes, stride = size_t(padded) * bytes;
  const char* from = s.data + row * size_t(first);
  if (first + 16 <= n && k == padded) return {from, row};
  copy.assign(stride * 16, 0);
  for (int r = 0; r < std::min(16, n - first); ++r)
    std::memcpy(copy.data() + stride * size_t(r), from + row * size_t(r), row);
  return {copy.data(), stride};
}

void pack_unit(void* context, int, int unit, int thread) {
  Packing& p = *static_cast<Packing*>(context);
  const Layout& l = *p.layout;
  const bool is_down = unit >= l.up.panels;
  const Projection matrix = is_down ? Projection::down : Projection(unit % 2);
  const Source source = p.source[int(matrix)];
  if (!source.data) return;
  const Stack& stack = l.stack(matrix);
  const int n = is_down ? unit - l.up.panels : unit / 2, panel = l.panel(matrix, n);
  const Rows rows = sixteen_rows(source, n * 16, l.rows(matrix), l.depth(matrix), stack.k, (*p.copies)[size_t(thread)]);
  const PackArgs args = {.rows = rows.data,
                         .stride = rows.stride,
                         .dtype = source.dtype,
                         .k = stack.k,
                         .group = stack.coding.group,
                         .dst = p.expert + stack.panel_at(panel),
                         .scale = p.expert + stack.scale_at(panel)};
  if (!p.kernels->pack[stack.product()](&args)) p.bad.store(1 + int(matrix));
}

struct Placing {
  const Layout* layout;
  Projection matrix;
  CodeRows codes;
  char* expert;
  std::atomic<bool> bad{false};
};

// 16 rows of the codes into their panel.
void place_unit(void* context, int, int unit, int) {
  Placing& p = *static_cast<Placing*>(context);
  const Stack& stack = p.layout->stack(p.matrix);
  const int panel = p.layout->panel(p.matrix, unit);
  const size_t first = size_t(unit) * 16;
  CodeRows part = p.codes;
  part.rows = std::max(0, std::min(16, p.codes.rows - unit * 16));
  if (part.rows) {
    part.codes += first * size_t(part.k);
    part.scales += first * size_t(part.groups) * stack.format().scale_width();
    if (part.minima) part.minima += first * size_t(part.groups) * 2;
    if (part.row_scales) part.row_scales += first;
  }
  if (!place_codes(stack.coding, part, stack.k, p.expert + stack.panel_at(panel), p.expert + stack.scale_at(panel)))
    p.bad.store(true);
}

Stack stack_of(Coding c, int k, int panels) {
  return {.coding = c,
          .k = k,
          .panels = panels,
          .panel = c.format->panel_bytes(k),
          .scale = c.format->scale_bytes(k, c.group)};
}

}  // namespace

Layout::Layout(Shape s, Coding for_up, Coding for_down)
    : shape(s),
      hidden(pad(s.hidden, std::max(64, for_up.group))),
      intermediate(pad(s.intermediate, std::max(64, for_down.group))),
      up(stack_of(for_up, hidden, intermediate / 8)),
      down(stack_of(for_down, intermediate, hidden / 16)) {
  down.first_panel = align64(up.panel_bytes());
  up.first_scale = align64(down.first_panel + down.panel_bytes());
  down.first_scale = align64(up.first_scale + up.scale_bytes());
  expert_bytes = align64(down.first_scale + down.scale_bytes());
}

Weights::Weights(Shape s, Coding up, Coding down)
    : layout_(s, up, down), home_(home_of(layout_)), region_(layout_.bytes()), data_(region_.data()) {
  if (home_.several()) settle(home_, layout_, data_, nullptr);
}

Weights::Weights(Layout layout, Region mapped, size_t data_at)
    : layout_(layout),
      home_(home_of(layout_)),
      region_(std::move(mapped)),
      data_(region_.data() + data_at),
      mapped_(true) {
  if (!home_.several() || !has_room(layout_.bytes())) return;
  Region settled(layout_.bytes());
  settle(home_, layout_, settled.data(), data_);
  region_ = std::move(settled);
  data_ = region_.data();
}

void Weights::set_expert(int expert, Source gate, Source up, Source down, const Kernels& kernels) {
  if (mapped_) throw std::invalid_argument("experts loaded from a file cannot be changed");
  Pool& workers = pool();
  std::vector<std::vector<char>> copies(size_t(workers.threads()));
  Packing p = {.layout = &layout_,
               .kernels = &kernels,
               .source = {gate, up, down},
               .expert = data_ + layout_.expert_bytes * size_t(expert),
               .copies = &copies};
  workers.run({pack_unit, &p, 1, {layout_.up.panels + layout_.down.panels}});
  static const char* const names[] = {"gate", "up", "down"};
  if (p.bad.load())
    throw std::invalid_argument(std::string(names[p.bad.load() - 1]) + " weights of expert " + std::to_string(expert) +
                                " hold NaN or infinity");
}

void Weights::set_codes(int expert, Projection matrix, const CodeRows& codes) {
  if (mapped_) throw std::invalid_argument("experts loaded from a file cannot be changed");
  Placing p = {&layout_, matrix, codes, data_ + layout_.expert_bytes * size_t(expert), {}};
  const Stack& stack = layout_.stack(matrix);
  pool().run({place_unit, &p, 1, {stack.panels / layout_.step(matrix)}});
  const int bits = stack.format().bits;
  if (p.bad.load())
    throw std::invalid_argument(bits < 8 ? "a code is wider than " + std::to_string(bits) + " bits" : "a code is -128");
}

void Weights::copy_expert(int source) {
  if (mapped_) throw std::invalid_argument("experts loaded from a file cannot be changed");
  for (int e = 0; e < layout_.shape.experts; ++e)
    if (e != source) std::memcpy(data_ + layout_.expert_bytes * size_t(e), expert(source), layout_.expert_bytes);
}

void Weights::unpack(int expert, float* gate, float* up, float* down) const {
  float* const out[] = {gate, up, down};
  std::vector<float> rows(size_t(std::max(layout_.hidden, layout_.intermediate)) * 16);
  for (const Projection matrix : {Projection::gate, Projection::up, Projection::down}) {
    const Stack& stack = layout_.stack(matrix);
    const size_t depth = size_t(layout_.depth(matrix));
    for (int first = 0; first < layout_.rows(matrix); first += 16) {
      const int panel = layout_.panel(matrix, first / 16);
      unpack_panel(stack.coding, this->expert(expert) + stack.panel_at(panel),
                   this->expert(expert) + stack.scale_at(panel), stack.k, rows.data());
      for (int r = 0; r < 16 && first + r < layout_.rows(matrix); ++r)
        std::memcpy(out[int(matrix)] + size_t(first + r) * depth, rows.data() + size_t(r) * stack.k, depth * 4);
    }
  }
}

}  // namespace kt
