// Memory nodes, for Python.
#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "../core/home.h"
#include "../core/weights.h"

namespace nb = nanobind;

namespace kt {
namespace {

using Nodes = std::vector<std::pair<int, std::vector<int>>>;

Nodes plain(const std::vector<Node>& nodes) {
  Nodes all;
  for (const Node& n : nodes) all.emplace_back(n.id, n.cpus);
  return all;
}

std::vector<int> plain(const Split& s) { return {s.first, s.first + s.nodes + 1}; }

}  // namespace

void bind_nodes(nb::module_& m) {
  m.def("nodes", [] { return plain(nodes()); });
  m.def("read_nodes", [](const std::string& sysfs, const std::vector<int>& cores, const std::vector<int>& memory) {
    return plain(read_nodes(sysfs, cores, memory));
  });
  m.def("use_sysfs", &use_sysfs);
  m.def("refused_memory", &refused_memory);
  // Steps of 64 rows that each node has of gate and up, and of down.
  m.def("home", [](int hidden, int intermediate) {
    const Coding int8 = {find_format("int8"), 32};
    const Home home = home_of(Layout(Shape{1, hidden, intermediate}, int8, int8));
    return std::make_pair(plain(home.up), plain(home.down));
  });
}

}  // namespace kt
