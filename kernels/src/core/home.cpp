#include "home.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <thread>

#include "weights.h"

namespace kt {
namespace {

constexpr int kPreferred = 1;  // MPOL_PREFERRED
constexpr size_t kPage = 4096, kHugePage = size_t(2) << 20;
constexpr size_t kMostThreads = 8;  // of a node: enough to fill memory at its speed
std::atomic<int> g_refused{0};

struct Part {
  size_t at, bytes;
};

Split split_by_cores(const std::vector<Node>& nodes, int steps) {
  Split split;
  split.nodes = int(nodes.size());
  size_t cores = 0, before = 0;
  for (const Node& n : nodes) cores += n.cpus.size();
  for (size_t n = 0; n < nodes.size(); ++n) {
    before += nodes[n].cpus.size();
    split.first[n + 1] = int(size_t(steps) * before / cores);
  }
  return split;
}

// What one node has of one expert: panels of gate and up, of down, and the scales of both.
std::vector<Part> parts_of(const Home& home, const Layout& l, size_t node) {
  const int up = home.up.first[node] * kUpStep, down = home.down.first[node] * kDownStep;
  const int ups = home.up.first[node + 1] * kUpStep - up;
  const int downs = home.down.first[node + 1] * kDownStep - down;
  return {{l.up.panel_at(up), l.up.panel * size_t(ups)},
          {l.down.panel_at(down), l.down.panel * size_t(downs)},
          {l.up.scale_at(up), l.up.scale * size_t(ups)},
          {l.down.scale_at(down), l.down.scale * size_t(downs)}};
}

// A page belongs to the part that holds its first byte.
void touch(char* begin, size_t bytes) {
  const uintptr_t end = reinterpret_cast<uintptr_t>(begin) + bytes;
  for (uintptr_t p = (reinterpret_cast<uintptr_t>(begin) + kPage - 1) / kPage * kPage; p < end; p += kPage)
    *reinterpret_cast<volatile char*>(p) = 0;
}

void go_to(const Node& node) {
  cpu_set_t set;
  CPU_ZERO(&set);
  for (const int cpu : node.cpus) CPU_SET(cpu, &set);
  sched_setaffinity(0, sizeof set, &set);
  unsigned long mask[16] = {};
  if (node.id < 1024) mask[size_t(node.id) / 64] = 1ul << (node.id % 64);
  if (syscall(SYS_set_mempolicy, kPreferred, mask, 1024) != 0) g_refused.store(errno);
}

template <class Do>
void on_every_node(const Home& home, int experts, Do act) {
  std::vector<std::thread> threads;
  for (size_t n = 0; n < home.nodes.size(); ++n) {
    const int count = int(std::min(kMostThreads, home.nodes[n].cpus.size()));
    for (int t = 0; t < count; ++t)
      threads.emplace_back([&home, &act, n, t, count, experts] {
        go_to(home.nodes[n]);
        for (int e = t; e < experts; e += count) act(e, n);
      });
  }
  for (std::thread& t : threads) t.join();
}

// Parts smaller than some huge pages would share them with other nodes.
bool huge_pages_fit(const Home& home, const Layout& l) {
  size_t least = SIZE_MAX;
  for (size_t n = 0; n < home.nodes.size(); ++n)
    for (const Part& p : parts_of(home, l, n))
      if (p.bytes > std::max(l.up.scale_bytes(), l.down.scale_bytes())) least = std::min(least, p.bytes);
  return least >= 4 * kHugePage;
}

}  // namespace

Home home_of(const Layout& l) {
  Home home;
  home.nodes = nodes();
  if (home.several()) {
    home.up = split_by_cores(home.nodes, l.intermediate / 64);
    home.down = split_by_cores(home.nodes, l.hidden / 64);
  }
  return home;
}

void settle(const Home& home, const Layout& l, char* data, const char* source) {
  if (!huge_pages_fit(home, l)) madvise(data, l.bytes(), MADV_NOHUGEPAGE);
  on_every_node(home, l.shape.experts, [&](int e, size_t n) {
    for (const Part& p : parts_of(home, l, n)) touch(data + l.expert_bytes * size_t(e) + p.at, p.bytes);
  });
  if (!source) return;
  on_every_node(home, l.shape.experts, [&](int e, size_t n) {
    const size_t expert = l.expert_bytes * size_t(e);
    for (const Part& p : parts_of(home, l, n)) std::memcpy(data + expert + p.at, source + expert + p.at, p.bytes);
  });
}

bool has_room(size_t bytes) {
  std::ifstream file("/proc/meminfo");
  for (std::string line; std::getline(file, line);)
    if (line.rfind("MemAvailable:", 0) == 0)
      return std::strtoull(line.c_str() + 13, nullptr, 10) * 1024 > bytes + bytes / 8;
  return false;
}

std::string refused_memory() { return g_refused.load() ? std::strerror(g_refused.load()) : ""; }

}  // namespace kt
