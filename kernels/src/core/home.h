// Where the parts of each expert live on a machine with several memory nodes.
//
// Rows of gate and up, and output rows of down, are divided over the nodes by their cores, in steps of
// 64 rows: every product then reads from one node, and nothing has to be added up between nodes. Pages are
// placed by who touches them first: threads that run on the node and also ask the system for its memory
// (set_mempolicy), which a container may refuse. So the addresses stay those of a single node.
#pragma once
#include <cstddef>
#include <string>
#include <vector>

#include "pool.h"

namespace kt {

struct Layout;

constexpr int kUpStep = 8, kDownStep = 4;  // panels of 64 rows; gate and up lie together

struct Home {
  std::vector<Node> nodes;
  Split up, down;  // in steps of 64 rows

  bool several() const { return nodes.size() > 1; }
};

Home home_of(const Layout& layout);

// Puts fresh memory in its place, and copies the experts there from `source` if there is one.
void settle(const Home& home, const Layout& layout, char* data, const char* source);

// Whether there is room to copy a mapped file: memory that the system calls available.
bool has_room(size_t bytes);

// Why memory could not be asked for by node, from the last time; empty if it could, or was not tried.
std::string refused_memory();

}  // namespace kt
