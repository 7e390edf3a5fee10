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

enum class Projection : int { gate, up, down };

// An expert's panels of equal depth and form: those of gate and up in turn (g0 u0 g1 u1 ...), or of down.
struct Stack {
  Coding coding;
  int k = 0;  // padded
  int panels = 0;
  size_t panel = 0, scale = 0;              // bytes of one
  size_t first_panel = 0, first_scale = 0;  // where in an expert

  const Format& format() const { return *coding.format; }
  int product() const { return int(coding.format->product); }
  size_t panel_at(int n) const { return first_panel + panel * size_t(n); }
  size_t scale_at(int n) const { return first_scale + scale * size_t(n); }
  size_t panel_bytes() const { return panel * size_t(panels); }
  size_t scale_bytes() const { return scale * size_t(panels); }
};

// Per expert: panels of gate and up, panels of down, then the scales of both.
struct Layout {
  Shape shape;
  int hidden = 0, intermediate = 0;  // padded
  Stack up, down;
  size_t expert_bytes = 0;

  Layout() = default;
  Layout(Shape s, Coding up, Coding down);
  const Stack& stack(Projection p) const { return p == Projection::down ? down : up; }
  // Where in its stack the n-th panel of a matrix is, and from one to the next.
  int panel(Projection p, int n) const { return p == Projection::down ? n : n * 2 + int(p); }
  int step(Projection p) const { return p == Projection::down ? 1 : 2; }
  int rows(Projection p) const { return p == Projection::down ? shape.hidden : shape.intermediate; }
  int depth(Projection p) const { return p == Projection::down ? shape.intermediate : shape.hidden; }
  // Tells the pairs of formats apart.
  int products() const { return up.product() * kProducts + down.product(); }
  size_t bytes() const { return expert_bytes * size_t(shape.experts); }
};

struct Source {      // a row-major matrix
  const char* data;  // null: stays as it is
  Dtype dtype;
};

class Weights {
 public:
  Weights(Shape s, Coding up, Coding down);
  Weights(Layout layout, Region mapped, size_t data_at);

  // Throws std::invalid_argument when a value is not finite. Uses the pool: hold a PoolLock.
  void set_expert(int expert, Source gate, Source up, Source down, const Kernels& kernels);
  // One matrix from codes, whose groups are its stack's: rows and k are its own. Throws as above when
  // a code does not fit.
  void set_codes(int expert, Projection matrix, const CodeRows& codes);
  void copy_expert(int source);  // into all others
  // out: gate [I, H], up [I, H], down [H, I], as the kernels see the stored values.
  void unpack(int expert, float* gate, float* up, float* down) const;

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
