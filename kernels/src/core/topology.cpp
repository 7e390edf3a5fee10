#include "topology.h"

#include <cstdio>

namespace kt {
namespace {

// The first CPU of `cpu`'s core; the CPU itself where sysfs does not say.
int first_sibling(int cpu) {
  char path[96];
  std::snprintf(path, sizeof path,
                "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu);
  int first = cpu;
  if (FILE* f = std::fopen(path, "r")) {
    if (std::fscanf(f, "%d", &first) != 1) first = cpu;
    std::fclose(f);
  }
  return first;
}

}  // namespace

std::vector<int> physical_cores() {
  cpu_set_t allowed;
  std::vector<int> cores;
  std::vector<bool> seen(CPU_SETSIZE, false);
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return {0};
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed)) continue;
    const int core = first_sibling(cpu);
    if (core < 0 || core >= CPU_SETSIZE || seen[size_t(core)]) continue;
    seen[size_t(core)] = true;
    cores.push_back(cpu);
  }
  return cores.empty() ? std::vector<int>{0} : cores;
}

}  // namespace kt
