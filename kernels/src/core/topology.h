#pragma once
#include <sched.h>

#include <vector>

namespace kt {

// One logical CPU for each physical core this process may use, from affinity and sysfs.
std::vector<int> physical_cores();

}  // namespace kt
