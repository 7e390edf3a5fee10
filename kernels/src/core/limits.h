// What this machine can do at most, measured: the yardstick for the kernels.
#pragma once
#include <cstddef>

#include "../isa/abi.h"

namespace kt {

double read_bandwidth(const Kernels& kernels, int threads, size_t bytes, double seconds);  // bytes/s
// kind as in Kernels::peak; operations per second, 0 when the ISA has no such instruction.
double peak_rate(const Kernels& kernels, int kind, int threads, double seconds);
// Median time of a job of the pool whose phases have one unit a thread, each busy for `unit` seconds.
// Hold a PoolLock.
double job_time(int phases, double unit, double seconds);

}  // namespace kt
