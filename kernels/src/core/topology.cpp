#include "topology.h"

#include <algorithm>
#include <climits>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <map>
#include <mutex>
#include <sstream>

namespace kt {
namespace {

std::mutex g_lock;
std::string* g_sysfs = nullptr;

std::string sysfs() {
  std::lock_guard<std::mutex> hold(g_lock);
  return g_sysfs && !g_sysfs->empty() ? *g_sysfs : "/sys";
}

std::string text_of(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

// The first CPU of `cpu`'s core; the CPU itself where sysfs does not say.
int first_sibling(const std::string& root, int cpu) {
  const std::vector<int> siblings =
      parse_list(text_of(root + "/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/thread_siblings_list"));
  return siblings.empty() ? cpu : siblings.front();
}

bool has(const std::vector<int>& list, int n) { return std::find(list.begin(), list.end(), n) != list.end(); }

// Of the online nodes in turn: the one that has memory and the least distance.
int nearest(const std::string& folder, const std::vector<int>& online, const std::vector<int>& memory) {
  const std::string distances = text_of(folder + "/distance");
  const char* at = distances.c_str();
  long least = LONG_MAX;
  int best = memory.front();
  for (const int node : online) {
    char* end = nullptr;
    const long distance = std::strtol(at, &end, 10);
    if (end == at) break;
    at = end;
    if (has(memory, node) && distance < least) best = node, least = distance;
  }
  return best;
}

std::vector<int> with_memory(const std::string& folder, const std::vector<int>& online,
                             const std::vector<int>& allowed) {
  std::vector<int> listed = parse_list(text_of(folder + "/has_memory"));
  if (listed.empty()) listed = online;
  std::vector<int> usable;
  for (const int node : listed)
    if (allowed.empty() || has(allowed, node)) usable.push_back(node);
  return usable;
}

std::vector<int> allowed_memory() {
  std::istringstream status(text_of("/proc/self/status"));
  for (std::string line; std::getline(status, line);)
    if (line.rfind("Mems_allowed_list:", 0) == 0) return parse_list(line.substr(18));
  return {};
}

}  // namespace

std::vector<int> parse_list(const std::string& text) {
  std::vector<int> all;
  std::istringstream parts(text);
  for (std::string part; std::getline(parts, part, ',');) {
    char* end = nullptr;
    const long first = std::strtol(part.c_str(), &end, 10);
    if (end == part.c_str()) continue;
    const long last = *end == '-' ? std::strtol(end + 1, nullptr, 10) : first;
    for (long n = first; n <= last && n < CPU_SETSIZE; ++n) all.push_back(int(n));
  }
  return all;
}

std::vector<int> physical_cores() {
  cpu_set_t allowed;
  std::vector<int> cores;
  std::vector<bool> seen(CPU_SETSIZE, false);
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return {0};
  const std::string root = sysfs();
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed)) continue;
    const int core = first_sibling(root, cpu);
    if (core < 0 || core >= CPU_SETSIZE || seen[size_t(core)]) continue;
    seen[size_t(core)] = true;
    cores.push_back(cpu);
  }
  return cores.empty() ? std::vector<int>{0} : cores;
}

std::vector<Node> read_nodes(const std::string& root, const std::vector<int>& cores, const std::vector<int>& allowed) {
  const std::string folder = root + "/devices/system/node";
  const std::vector<int> online = parse_list(text_of(folder + "/online"));
  const std::vector<int> memory = with_memory(folder, online, allowed);
  if (memory.size() < 2) return {{memory.empty() ? 0 : memory.front(), cores}};
  std::map<int, std::vector<int>> found;
  std::vector<int> left = cores;
  for (const int node : online) {
    const std::string own = folder + "/node" + std::to_string(node);
    const int home = has(memory, node) ? node : nearest(own, online, memory);
    for (const int cpu : parse_list(text_of(own + "/cpulist"))) {
      const auto at = std::find(left.begin(), left.end(), cpu);
      if (at == left.end()) continue;
      left.erase(at);
      found[home].push_back(cpu);
    }
  }
  if (found.empty()) return {{memory.front(), cores}};
  std::vector<Node> nodes;
  for (const auto& entry : found) {
    if (nodes.size() < size_t(kMaxNodes)) nodes.push_back({entry.first, entry.second});
    else nodes.back().cpus.insert(nodes.back().cpus.end(), entry.second.begin(), entry.second.end());
  }
  nodes.front().cpus.insert(nodes.front().cpus.end(), left.begin(), left.end());
  return nodes;
}

std::vector<Node> nodes() {
  const std::string root = sysfs();
  return read_nodes(root, physical_cores(), root == "/sys" ? allowed_memory() : std::vector<int>{});
}

void use_sysfs(const std::string& root) {
  std::lock_guard<std::mutex> hold(g_lock);
  if (!g_sysfs) g_sysfs = new std::string;
  *g_sysfs = root;
}

}  // namespace kt
