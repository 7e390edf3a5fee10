#include "cpu.h"

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "errors.h"

namespace kt {
namespace {

struct Leaf {
  unsigned a = 0, b = 0, c = 0, d = 0;
};

Leaf cpuid(unsigned leaf, unsigned sub) {
  Leaf r;
  if (!__get_cpuid_count(leaf, sub, &r.a, &r.b, &r.c, &r.d)) return Leaf();
  return r;
}

unsigned long long enabled_state() {  // XCR0: register sets the operating system saves
  if (!(cpuid(1, 0).c >> 27 & 1)) return 0;
  unsigned low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return static_cast<unsigned long long>(high) << 32 | low;
}

constexpr unsigned long long kAvxState = 0x6, kAvx512State = 0xe6, kAmxState = 0x60000;

// Linux hands out the 8 KB of tile state per process, on request.
bool request_tiles(std::string& reason) {
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  if (syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0) return true;
  reason = std::string("the kernel refused the tile state: ") + std::strerror(errno);
  return false;
}

bool tiles_allowed(const Leaf& l7, unsigned long long state, std::string& reason) {
  if (!(l7.d >> 24 & 1)) reason = "the CPU has no AMX tiles";
  else if ((state & kAmxState) != kAmxState) reason = "the operating system does not save the tiles";
  else if (cpuid(0x1d, 0).a < 1 || cpuid(0x1d, 1).c < 16) reason = "the CPU has no tile palette 1";
  else if (cpuid(0xd, 18).a != 8192) reason = "the tile state is not 8192 bytes";
  else return request_tiles(reason);
  return false;
}

std::string lacking(const Cpu& c, std::initializer_list<const char*> needed) {
  std::string out;
  for (const char* f : needed)
    if (std::find(c.features.begin(), c.features.end(), f) == c.features.end())
      out += (out.empty() ? "" : ", ") + std::string(f);
  return out;
}

void add_features(Cpu& c, unsigned long long state) {
  const Leaf l1 = cpuid(1, 0), l7 = cpuid(7, 0), l71 = cpuid(7, 1);
  const bool avx = (state & kAvxState) == kAvxState, zmm = (state & kAvx512State) == kAvx512State;
  const auto add = [&](bool has, const char* name) {
    if (has) c.features.push_back(name);
  };
  add(avx && l7.b >> 5 & 1, "avx2");
  add(avx && l1.c >> 12 & 1, "fma");
  add(avx && l1.c >> 29 & 1, "f16c");
  add(avx && l71.a >> 4 & 1, "avx_vnni");
  add(zmm && l7.b >> 16 & 1, "avx512f");
  add(zmm && l7.b >> 17 & 1, "avx512dq");
  add(zmm && l7.b >> 30 & 1, "avx512bw");
  add(zmm && l7.b >> 31 & 1, "avx512vl");
  add(zmm && l7.c >> 11 & 1, "avx512_vnni");
  add(zmm && l71.a >> 5 & 1, "avx512_bf16");
  c.amx_permission = tiles_allowed(l7, state, c.amx_reason);
  add(c.amx_permission, "amx_tile");
  add(c.amx_permission && l7.d >> 25 & 1, "amx_int8");
  add(c.amx_permission && l7.d >> 22 & 1, "amx_bf16");
}

std::string join(const std::string& a, const std::string& b) { return a.empty() ? b : b.empty() ? a : a + ", " + b; }

Cpu detect() {
  Cpu c;
  add_features(c, enabled_state());
  const std::string avx2 = lacking(c, {"avx2", "fma", "f16c"});
  const std::string base = join(avx2, lacking(c, {"avx512f", "avx512bw", "avx512dq", "avx512vl"}));
  const std::string vnni = join(base, lacking(c, {"avx512_vnni"}));
  const std::string bf16 = join(vnni, lacking(c, {"avx512_bf16"}));
  const std::string amx = join(bf16, lacking(c, {"amx_tile", "amx_int8", "amx_bf16"}));
  c.variants = {
#ifdef KT_SHIMS
      {"avx512_base_shim", kernels_avx512_base_shim, avx2, true},
      {"avx512_vnni_shim", kernels_avx512_vnni_shim, avx2, true},
      {"avx512_bf16_shim", kernels_avx512_bf16_shim, avx2, true},
      {"amx_shim", kernels_amx_shim, avx2, true},
#endif
      {"avx2", kernels_avx2, avx2, false},
      {"avx512_base", kernels_avx512_base, base, false},
      {"avx512_vnni", kernels_avx512_vnni, vnni, false},
      {"avx512_bf16", kernels_avx512_bf16, bf16, false},
      {"amx", kernels_amx, amx, false}};
  return c;
}

[[noreturn]] void refuse(const std::string& wanted, const std::string& lacks) {
  std::string why = wanted.empty() ? "the expert kernels need AVX2: this CPU lacks "
                                   : "this CPU cannot run KT_ISA=" + wanted + ": it lacks ";
  why += lacks;
  if (wanted == "amx" && !cpu().amx_reason.empty()) why += " (" + cpu().amx_reason + ")";
  throw IsaError(why);
}

bool matches(const std::string& wanted, const Variant& v) {
  const std::string name = v.name;
  if (wanted == name) return true;
  return !v.shim && (wanted.empty() || (wanted == "avx512" && name.rfind("avx512_", 0) == 0));
}

}  // namespace

const Cpu& cpu() {
  static const Cpu detected = detect();
  return detected;
}

const Kernels* choose_kernels(const std::string& wanted) {
  const Variant* best = nullptr;
  std::string lacks;
  for (const Variant& v : cpu().variants) {
    if (!matches(wanted, v)) continue;
    if (v.lacks.empty()) best = &v;
    else if (lacks.empty()) lacks = v.lacks;
  }
  if (best) return best->table();
  if (!lacks.empty()) refuse(wanted, lacks);
  throw IsaError("KT_ISA=" + wanted + " is unknown: use avx2, avx512 or amx");
}

}  // namespace kt
