// The units of a phase whose panels belong to memory nodes: expert by expert, on several nodes node by
// node first, so that each node's units lie together.
#pragma once
#include <algorithm>

#include "pool.h"

namespace kt {

struct ExpertUnits {
  int touched = 1;  // experts
  int each = 0;     // units of one
  Split split;

  int count() const { return touched * each; }
};

struct ExpertUnit {
  int touched, at;  // which expert, which of its units
};

// `steps` of `step_panels` panels belong to the nodes; a unit belongs to the node of its first panel.
inline ExpertUnits units_of(const Split& steps, int step_panels, int panels, int unit_panels, int touched) {
  ExpertUnits u;
  u.touched = touched;
  u.each = (panels + unit_panels - 1) / unit_panels;
  u.split.nodes = steps.nodes;
  for (int n = 1; n < steps.nodes; ++n)
    u.split.first[n] = touched * std::min(u.each, (steps.first[n] * step_panels + unit_panels - 1) / unit_panels);
  u.split.first[steps.nodes] = u.count();
  return u;
}

inline ExpertUnit unit_at(const ExpertUnits& u, int unit) {
  int node = 0;
  while (unit >= u.split.first[node + 1]) ++node;
  const int begin = u.split.first[node] / u.touched, width = u.split.first[node + 1] / u.touched - begin;
  const int at = unit - u.split.first[node];
  return {at / width, begin + at % width};
}

}  // namespace kt
