// What trying has found, for Python.
#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/vector.h>

#include <array>

#include "../core/cut.h"
#include "../core/switch.h"

namespace nb = nanobind;

namespace kt {
namespace {

// product, hidden, intermediate, threads, crowding, depth, panels, blocks, fetch; seconds
using CutRow = std::pair<std::array<int, 9>, double>;

std::vector<CutRow> cut_rows() {
  std::vector<CutRow> rows;
  for (const CutRecord& r : cut_records())
    rows.push_back({{r.product, r.hidden, r.intermediate, r.threads, r.crowding, r.cut.depth, r.cut.panels,
                     r.cut.blocks, r.cut.fetch},
                    r.best});
  return rows;
}

void adopt_cut_rows(const std::vector<CutRow>& rows) {
  std::vector<CutRecord> records;
  for (const auto& [n, best] : rows)
    records.push_back({n[0], n[1], n[2], n[3], n[4], {n[5], n[6], n[7], n[8] != 0}, best});
  adopt_cuts(records);
}

}  // namespace

void bind_tuning(nb::module_& m) {
  m.def("set_tile_from", &set_tile_from);
  m.def("pin_cut", [](int depth, int panels, int blocks, bool fetch) {
    const Cut cut = {depth, panels, blocks, fetch};
    pin_cut(depth ? &cut : nullptr);
  });
  m.def("last_cut", [] {
    const Cut c = last_cut();
    return std::vector<int>{c.depth, c.panels, c.blocks, c.fetch};
  });
  m.def("cut_records", &cut_rows);
  m.def("adopt_cuts", &adopt_cut_rows);
  m.def("newly_settled_cuts", &newly_settled_cuts);
  m.def("tried_a_cut", &tried_a_cut);
  m.def("keep_switch", &keep_switch);
  m.def("switches", &switches);
}

}  // namespace kt
