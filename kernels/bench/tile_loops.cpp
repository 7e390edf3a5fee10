// What AMX tile loads and stores cost beside tile products, by how the tiles are used. Operands stay in the
// first-level cache; prints nanoseconds of a thread per product, best and median of nine passes.
//   g++ -O2 -std=c++17 -pthread -mamx-tile -mamx-int8 tile_loops.cpp && ./a.out
#include <immintrin.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <thread>
#include <vector>

namespace {

constexpr long kRounds = 10000;

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t bytes[16] = {};
  uint8_t rows[16] = {};
};

constexpr long kSums = 256 * 1024;  // more than the first-level cache holds

struct alignas(4096) Operands {
  char at[6 * 1024];
  char sums[kSums];
};

double seconds_of(void (*work)(const char*), const char* operands) {
  using namespace std::chrono;
  const auto start = steady_clock::now();
  work(operands);
  return duration<double>(steady_clock::now() - start).count();
}

#define LOAD(t, i) _tile_loadd(t, x + i * 1024, 64)
#define DOT(c, a, b) _tile_dpbssd(c, a, b)
#define LOOP(name, first, ...)           \
  void name(const char* x) {             \
    first;                               \
    for (long i = 0; i < kRounds; ++i) { \
      (void)x;                           \
      __VA_ARGS__;                       \
    }                                    \
  }

// Four sums and four operands in all eight tiles, nothing loaded.
LOOP(products, LOAD(0, 0); LOAD(1, 0); LOAD(2, 0); LOAD(3, 0); LOAD(4, 0); LOAD(5, 1); LOAD(6, 2);
     LOAD(7, 3), DOT(1, 4, 7); DOT(0, 4, 6); DOT(3, 5, 7); DOT(2, 5, 6))
// One sum and two operands.
LOOP(three_tiles, LOAD(0, 0); LOAD(4, 0); LOAD(6, 2), DOT(0, 4, 6); DOT(0, 4, 6); DOT(0, 4, 6); DOT(0, 4, 6))
LOOP(loads, , LOAD(4, 0); LOAD(7, 3); LOAD(6, 2); LOAD(5, 1))
// Two blocks times two panels: four loads, four products.
LOOP(square, , LOAD(4, 0); LOAD(7, 3); DOT(1, 4, 7); LOAD(6, 2); DOT(0, 4, 6); LOAD(5, 1); DOT(3, 5, 7); DOT(2, 5, 6))
// The same, every operand's tile emptied after its last use.
#define EMPTIED  \
  LOAD(4, 0);    \
  LOAD(7, 3);    \
  DOT(1, 4, 7);  \
  LOAD(6, 2);    \
  DOT(0, 4, 6);  \
  _tile_zero(4); \
  LOAD(5, 1);    \
  DOT(3, 5, 7);  \
  _tile_zero(7); \
  DOT(2, 5, 6);  \
  _tile_zero(5); \
  _tile_zero(6)
LOOP(emptied, , EMPTIED)

// After every `steps` steps other sums, which lie in the second-level cache.
template <int steps>
void other_sums(const char* x) {
  for (long i = 0; i < kRounds; i += steps) {
    char* sums = const_cast<char*>(x) + sizeof(Operands::at) + i / steps * 4096 % kSums;
    _tile_loadd(0, sums, 64);
    _tile_loadd(1, sums + 1024, 64);
    _tile_loadd(2, sums + 2048, 64);
    _tile_loadd(3, sums + 3072, 64);
    for (int step = 0; step < steps; ++step) { EMPTIED; }
    _tile_stored(0, sums, 64);
    _tile_stored(1, sums + 1024, 64);
    _tile_stored(2, sums + 2048, 64);
    _tile_stored(3, sums + 3072, 64);
  }
}

struct Case {
  const char* name;
  void (*work)(const char*);
};
constexpr Case kCases[] = {{"products, 8 tiles", products},
                           {"products, 3 tiles", three_tiles},
                           {"loads", loads},
                           {"loads and products", square},
                           {"with emptied tiles", emptied},
                           {"other sums every 8 steps", other_sums<8>},
                           {"other sums every 32 steps", other_sums<32>}};

void take_core(int core) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(core, &set);
  sched_setaffinity(0, sizeof set, &set);
  TileConfig config;
  std::fill(config.bytes, config.bytes + 8, 64);
  std::fill(config.rows, config.rows + 8, 16);
  _tile_loadconfig(&config);
}

// Mean seconds over the threads, all at work at once.
double together(int threads, void (*work)(const char*)) {
  std::atomic<int> ready{0};
  std::vector<double> took(size_t(threads), 0);
  std::vector<std::thread> pool;
  for (int t = 0; t < threads; ++t)
    pool.emplace_back([&, t] {
      static thread_local Operands operands;
      std::fill(operands.at, operands.at + sizeof operands.at, char(t + 1));
      std::fill(operands.sums, operands.sums + kSums, char(0));
      take_core(t);
      work(operands.at);
      ready.fetch_add(1);
      while (ready.load() < threads) _mm_pause();
      took[size_t(t)] = seconds_of(work, operands.at);
      _tile_release();
    });
  for (std::thread& t : pool) t.join();
  double sum = 0;
  for (double s : took) sum += s;
  return sum / threads;
}

}  // namespace

int main() {
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  if (syscall(SYS_arch_prctl, kRequestPermission, kTileData)) {
    std::puts("no AMX here");
    return 1;
  }
  const int cores = int(std::thread::hardware_concurrency());
  std::printf("ns per product, best/median   1 thread    %d threads\n", cores);
  for (const Case& c : kCases) {
    std::printf("%-26s", c.name);
    for (int threads : {1, cores}) {
      std::vector<double> ns;
      for (int pass = 0; pass < 9; ++pass) ns.push_back(together(threads, c.work) / kRounds / 4 * 1e9);
      std::sort(ns.begin(), ns.end());
      std::printf("  %5.1f/%5.1f", ns.front(), ns[ns.size() / 2]);
    }
    std::printf("\n");
  }
}
