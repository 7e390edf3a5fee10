// Which cores this process may use, and which of them share a memory node.
#pragma once
#include <sched.h>

#include <string>
#include <vector>

namespace kt {

constexpr int kMaxNodes = 16;

struct Node {
  int id;
  std::vector<int> cpus;  // one logical CPU for each core
};

// One logical CPU for each physical core this process may use, from affinity and sysfs.
std::vector<int> physical_cores();

// The nodes that have memory and some of these cores, at least one. Cores of a node without memory
// count to the nearest one that has some. `memory`: nodes this process may take it from; empty: all.
std::vector<Node> read_nodes(const std::string& sysfs, const std::vector<int>& cores, const std::vector<int>& memory);
std::vector<Node> nodes();  // of this process

void use_sysfs(const std::string& root);  // another tree than /sys, for tests; empty: /sys

std::vector<int> parse_list(const std::string& text);  // "0-3,8" as in sysfs

}  // namespace kt
