// Sixteen floats side by side. The compiler turns the type into what the instruction set has (one AVX-512 register, two
// of AVX2, four of SSE or NEON), and every lane is computed alone, in the order that is written: all kernel sets give the
// same bits.
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
#define TERCILE_MEMBER __attribute__((always_inline))

TERCILE_INLINE Lanes load(const float* from) {
  Lanes lanes;
  __builtin_memcpy(&lanes, from, sizeof lanes);
  return lanes;
}

TERCILE_INLINE void store(float* to, Lanes lanes) { __builtin_memcpy(to, &lanes, sizeof lanes); }

TERCILE_INLINE Lanes all(float value) { return value - Lanes{}; }  // 0 + value would be computed, for -0 has a sign

// What one register holds of them. Sums that a loop carries are kept in these: GCC would write lanes that take several
// registers to memory and read them again, round after round.
#if defined(__AVX512F__)
constexpr int kHeld = 16;
#elif defined(__AVX__)
constexpr int kHeld = 8;
#else
constexpr int kHeld = 4;
#endif
constexpr int kRegisters = kLanes / kHeld;
typedef float Register __attribute__((vector_size(4 * kHeld)));

TERCILE_INLINE Register load_register(const float* from) {
  Register held;
  __builtin_memcpy(&held, from, sizeof held);
  return held;
}

TERCILE_INLINE void store_register(float* to, Register held) { __builtin_memcpy(to, &held, sizeof held); }

}  // namespace tercile::TERCILE_TARGET
