// Neighbouring panels of one packed matrix: what every product reads, whatever the matrix belongs to.
#pragma once
#include <cstddef>

#include "weights.h"

namespace kt {

struct Panels {
  Coding coding;
  int k = 0;  // padded depth
  const char* data = nullptr;
  size_t stride = 0;  // bytes from panel to panel
  const char* scale = nullptr;
  size_t scale_stride = 0;
  int count = 0;
  bool more = false;  // others of the same matrix follow

  int product() const { return int(coding.format->product); }
  // Whether tiles multiply them only once they are int8 with one scale a row.
  bool expanded() const { return coding.format->grouped(); }

  Panels part(int first, int n) const {
    Panels p = *this;
    p.data += stride * size_t(first);
    p.scale += scale_stride * size_t(first);
    p.count = n;
    p.more = more || first + n < count;
    return p;
  }

  // Every `step`-th one from `first` on.
  Panels every(int step, int first) const {
    Panels p = part(first, (count - first + step - 1) / step);
    p.stride *= size_t(step);
    p.scale_stride *= size_t(step);
    return p;
  }
};

// All panels of a stack; `base` is where its expert lies.
inline Panels panels_of(const Stack& s, const char* base) {
  return {.coding = s.coding,
          .k = s.k,
          .data = base + s.first_panel,
          .stride = s.panel,
          .scale = base + s.first_scale,
          .scale_stride = s.scale,
          .count = s.panels};
}

}  // namespace kt
