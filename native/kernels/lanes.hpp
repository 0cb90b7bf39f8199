// Sixteen floats side by side. The compiler turns the type into what the instruction set has (one AVX-512 register, two
// of AVX2, four of SSE), and every lane is computed alone, in the order that is written: all kernel sets give the same
// bits.
#pragma once
#include "../kernels.hpp"

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wpsabi"  // lanes never cross a call: everything here is inlined
#endif

namespace tercile::TERCILE_TARGET {

constexpr int kLanes = 16;
typedef float Lanes __attribute__((vector_size(4 * kLanes)));
typedef std::int32_t IntLanes __attribute__((vector_size(4 * kLanes)));

#define TERCILE_INLINE static inline __attribute__((always_inline))

TERCILE_INLINE Lanes load(const float* from) {
  Lanes lanes;
  __builtin_memcpy(&lanes, from, sizeof lanes);
  return lanes;
}

TERCILE_INLINE void store(float* to, Lanes lanes) { __builtin_memcpy(to, &lanes, sizeof lanes); }

TERCILE_INLINE Lanes all(float value) { return Lanes{} + value; }

}  // namespace tercile::TERCILE_TARGET
