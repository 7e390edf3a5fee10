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
  Source gate, up, down;
  char* expert;
  std::vector<std::vector<float>>* rows;  // one [16][k] buffer a thread
  std::atomic<int> bad{0};                // 0: none, otherwise 1 + matrix
};

size_t element_bytes(Dtype t) { return t == Dtype::f32 ? 4 : 2; }

// 16 rows of a [n, k] matrix as f32, zero beyond its edges.
void gather(const Kernels& kernels, Source s, int first, int n, int k, int padded, float* rows) {
  for (int r = 0; r < 16; ++r) {
    float* dst = rows + size_t(r) * padded;
    const int row = first + r;
    if (row < n) kernels.load_row(s.data + size_t(row) * k * element_bytes(s.dtype), s.dtype, k,
                                  padded, dst);
    else std::fill(dst, dst + padded, 0.0f);
  }
}

void pack_unit(void* context, int, int unit, int thread) {
  Packing& p = *static_cast<Packing*>(context);
  const Layout& l = *p.layout;
  float* rows = (*p.rows)[size_t(thread)].data();
  const bool is_down = unit >= l.up_panels();
  const int panel = is_down ? unit - l.up_panels() : unit;
  const int matrix = is_down ? 2 : panel % 2;
  const Source source = is_down ? p.down : matrix ? p.up : p.gate;
  const int k = is_down ? l.intermediate : l.hidden;
  gather(*p.kernels, source, (is_down ? panel : panel / 2) * 16,
         is_down ? l.shape.hidden : l.shape.intermediate,
         is_down ? l.shape.intermediate : l.shape.hidden, k, rows);
  const size_t data = is_down ? l.down_at + l.down_panel * size_t(panel) : l.up_panel * size_t(panel);
  const size_t scale = is_down ? l.down_scale_at + l.down_scale * size_t(panel)
                               : l.up_scale_at + l.up_scale * size_t(panel);
  const PackArgs args = {rows, k, l.group, p.expert + data, p.expert + scale};
  if (!p.kernels->pack[int(l.format->product)](&args)) p.bad.store(1 + matrix);
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
  const Layout& l = *p.layout;
  const bool is_down = p.matrix == Projection::down;
  const size_t panel = size_t(is_down ? unit : unit * 2 + int(p.matrix)), first = size_t(unit) * 16;
  const size_t data = is_down ? l.down_at + l.down_panel * panel : l.up_panel * panel;
  const size_t scale = is_down ? l.down_scale_at + l.down_scale * panel : l.up_scale_at + l.up_scale * panel;
  CodeRows part = p.codes;
  part.rows = std::max(0, std::min(16, p.codes.rows - unit * 16));
  if (part.rows) {
    part.codes += first * size_t(part.k);
    part.scales += first * size_t(part.groups) * l.format->scale_width();
    if (part.minima) part.minima += first * size_t(part.groups) * 2;
    if (part.row_scales) part.row_scales += first;
  }
  if (!place_codes(*l.format, part, is_down ? l.intermediate : l.hidden, l.group, p.expert + data,
                   p.expert + scale))
    p.bad.store(true);
}

}  // namespace

Layout::Layout(Shape s, const Format* f, int g) : shape(s), format(f), group(g) {
  const int step = std::max(64, g);
  hidden = pad(s.hidden, step);
  intermediate = pad(s.intermediate, step);
  up_panel = f->panel_bytes(hidden);
  down_panel = f->panel_bytes(intermediate);
  up_scale = f->scale_bytes(hidden, g);
  down_scale = f->scale_bytes(intermediate, g);
  down_at = align64(up_panel * size_t(up_panels()));
  up_scale_at = align64(down_at + down_panel * size_t(down_panels()));
  down_scale_at = align64(up_scale_at + up_scale * size_t(up_panels()));
  expert_bytes = align64(down_scale_at + down_scale * size_t(down_panels()));
}

Weights::Weights(Shape s, const Format* f, int group)
    : layout_(s, f, group), home_(home_of(layout_)), region_(layout_.bytes()), data_(region_.data()) {
  if (home_.several()) settle(home_, layout_, data_, nullptr);
}

Weights::Weights(Layout layout, Region mapped, size_t data_at)
    : layout_(layout), home_(home_of(layout_)), region_(std::move(mapped)), data_(region_.data() + data_at),
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
  std::vector<std::vector<float>> rows(
      size_t(workers.threads()),
      std::vector<float>(size_t(std::max(layout_.hidden, layout_.intermediate)) * 16));
  Packing p = {&layout_, &kernels, gate, up, down, data_ + layout_.expert_bytes * size_t(expert),
               &rows, {}};
  workers.run({pack_unit, &p, 1, {layout_.up_panels() + layout_.down_panels()}});
  static const char* const names[] = {"gate", "up", "down"};
  if (p.bad.load())
    throw std::invalid_argument(std::string(names[p.bad.load() - 1]) + " weights of expert " +
                                std::to_string(expert) + " hold NaN or infinity");
}

void Weights::set_codes(int expert, Projection matrix, const CodeRows& codes) {
  if (mapped_) throw std::invalid_argument("experts loaded from a file cannot be changed");
  Placing p = {&layout_, matrix, codes, data_ + layout_.expert_bytes * size_t(expert), {}};
  const bool is_down = matrix == Projection::down;
  pool().run({place_unit, &p, 1, {is_down ? layout_.down_panels() : layout_.up_panels() / 2}});
  if (p.bad.load()) throw std::invalid_argument(layout_.format->bits == 4 ? "a code is wider than 4 bits"
                                                                          : "a code is -128");
}

void Weights::copy_expert(int source) {
  if (mapped_) throw std::invalid_argument("experts loaded from a file cannot be changed");
  for (int e = 0; e < layout_.shape.experts; ++e)
    if (e != source)
      std::memcpy(data_ + layout_.expert_bytes * size_t(e), expert(source), layout_.expert_bytes);
}

void Weights::unpack(int expert, float* gate, float* up, float* down) const {
  const Layout& l = layout_;
  const char* base = this->expert(expert);
  std::vector<float> rows(size_t(std::max(l.hidden, l.intermediate)) * 16);
  const auto copy = [&](const char* data, const char* scale, int k, int used, int first, int n,
                        float* out) {
    unpack_panel(*l.format, data, scale, k, l.group, rows.data());
    for (int r = 0; r < 16 && first + r < n; ++r)
      std::memcpy(out + size_t(first + r) * used, rows.data() + size_t(r) * k, size_t(used) * 4);
  };
  for (int p = 0; p < l.up_panels(); ++p)
    copy(base + l.up_panel * size_t(p), base + l.up_scale_at + l.up_scale * size_t(p), l.hidden,
         l.shape.hidden, p / 2 * 16, l.shape.intermediate, p % 2 ? up : gate);
  for (int p = 0; p < l.down_panels(); ++p)
    copy(base + l.down_at + l.down_panel * size_t(p),
         base + l.down_scale_at + l.down_scale * size_t(p), l.intermediate, l.shape.intermediate,
         p * 16, l.shape.hidden, down);
}

}  // namespace kt
