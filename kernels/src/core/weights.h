// One layer's packed experts: where every panel lies, and how panels are made from plain matrices.
#pragma once
#include <string>

#include "format.h"
#include "home.h"
#include "memory.h"

namespace kt {

struct Shape {
  int experts = 0, hidden = 0, intermediate = 0;
};

// Per expert: gate and up panels in turn (g0 u0 g1 u1 ...), down panels, then their scales.
struct Layout {
  Shape shape;
  const Format* format = nullptr;
  int group = 0;
  int hidden = 0, intermediate = 0;  // padded
  size_t up_panel = 0, down_panel = 0, up_scale = 0, down_scale = 0;
  size_t down_at = 0, up_scale_at = 0, down_scale_at = 0, expert_bytes = 0;

  Layout() = default;
  Layout(Shape s, const Format* f, int group);
  int up_panels() const { return intermediate / 8; }
  int down_panels() const { return hidden / 16; }
  size_t bytes() const { return expert_bytes * size_t(shape.experts); }
};

struct Source {  // a row-major matrix
  const char* data;
  Dtype dtype;
};

enum class Projection : int { gate, up, down };

class Weights {
 public:
  Weights(Shape s, const Format* f, int group);
  Weights(Layout layout, Region mapped, size_t data_at);

  // Throws std::invalid_argument when a value is not finite. Uses the pool: hold a PoolLock.
  void set_expert(int expert, Source gate, Source up, Source down, const Kernels& kernels);
  // One matrix from codes, whose groups are the layout's: rows and k are its own. Throws as above when
  // a code does not fit.
  void set_codes(int expert, Projection matrix, const CodeRows& codes);
  void copy_expert(int source);  // into all others
  // out: gate [I, H], up [I, H], down [H, I], as the kernels see the stored values.
  void unpack(int expert, float* gate, float* up, float* down) const;

  void fault_in() const { if (mapped_) region_.fault_in(); }

  int rows(Projection p) const { return p == Projection::down ? layout_.shape.hidden : layout_.shape.intermediate; }
  int depth(Projection p) const { return p == Projection::down ? layout_.shape.intermediate : layout_.shape.hidden; }
  const Layout& layout() const { return layout_; }
  const Home& home() const { return home_; }
  const char* expert(int e) const { return data_ + layout_.expert_bytes * size_t(e); }
  const char* data() const { return data_; }

 private:
  Layout layout_;
  Home home_;
  Region region_;
  char* data_;
  bool mapped_ = false;
};

}  // namespace kt
