#include "cpu.hpp"

#include <algorithm>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <thread>
#if defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace tercile {
namespace {

// A set that differs from another one in its products with packed matrices alone, see runtime/packed.hpp.
Kernels renamed(Kernels set, const char* name) {
  set.name = name;
  return set;
}

#if defined(__aarch64__)
bool has_dot_products() {
#if defined(__APPLE__)
  return true;  // the first of Apple's processors for computers had them
#elif defined(__linux__)
  return getauxval(AT_HWCAP) & HWCAP_ASIMDDP;
#else
  return false;
#endif
}
#endif

}  // namespace

std::vector<const Kernels*> available_kernels() {
  std::vector<const Kernels*> sets{&kernels_plain};
#if defined(__x86_64__) || defined(_M_X64)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2")) {
    sets.push_back(&kernels_avx2);
    static const Kernels avxvnni = renamed(kernels_avx2, "avxvnni");
    if (__builtin_cpu_supports("avxvnni")) sets.push_back(&avxvnni);
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
      sets.push_back(&kernels_avx512);
  }
#elif defined(__aarch64__)
  static const Kernels neon = renamed(kernels_plain, "neon"), dotprod = renamed(kernels_plain, "dotprod");
  sets.push_back(&neon);
  if (has_dot_products()) sets.push_back(&dotprod);
#endif
  return sets;
}

const Kernels& kernels() {
  static const Kernels& chosen = []() -> const Kernels& {
    const auto sets = available_kernels();
    const char* wanted = std::getenv("TERCILE_KERNELS");
    if (!wanted || !*wanted) return *sets.back();
    std::string known;
    for (const Kernels* set : sets) {
      if (std::string(set->name) == wanted) return *set;
      known += std::string(known.empty() ? "" : ", ") + set->name;
    }
    throw std::runtime_error("TERCILE_KERNELS is '" + std::string(wanted) + "', but this processor runs " + known +
                             "; unset it to use the fastest");
  }();
  return chosen;
}

int threads() {
  const char* wanted = std::getenv("TERCILE_THREADS");
  if (wanted && *wanted) {
    const int n = std::atoi(wanted);
    if (n < 1)
      throw std::runtime_error("TERCILE_THREADS is '" + std::string(wanted) +
                               "'; set it to a whole number of at least 1, or unset it");
    return n;
  }
  const char* text = std::getenv("OMP_NUM_THREADS");
  const int n = text ? std::atoi(text) : 0;
  return n > 0 ? n : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

}  // namespace tercile
