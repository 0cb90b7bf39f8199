// One step of the Viterbi search of a bit-shift trellis: the new state is the old one shifted up by the bits of the new
// code. The 2^bits states that lead to a group of 2^bits neighbours differ in their highest bits only, so their costs
// are compared once for the whole group, and a step costs the same however many bits it takes.
#pragma once
#include "lanes.hpp"

namespace tercile::TERCILE_TARGET {

// Lane i is lane (16 * part + i) >> bits of x.
template <int bits>
TERCILE_INLINE Lanes repeat(Lanes x, int part) {
#if defined(__GNUC__) && !defined(__clang__)
  IntLanes from;
  for (int lane = 0; lane < kLanes; ++lane) from[lane] = (part * kLanes + lane) >> bits;
  return __builtin_shuffle(x, from);
#else
  Lanes y;
  for (int lane = 0; lane < kLanes; ++lane) y[lane] = x[(part * kLanes + lane) >> bits];
  return y;
#endif
}

template <int bits>
static void step(int memory, const float* before, const float* values, float target, float weight, float drop,
                 float* after, std::uint8_t* from) {
  constexpr int kBranches = 1 << bits;
  const int groups = 1 << (memory - bits);
  for (int g = 0; g < groups; g += kLanes) {
    Lanes best = load(before + g);
    IntLanes chosen{};
#pragma GCC unroll 32
    for (int c = 1; c < kBranches; ++c) {
      const Lanes other = load(before + static_cast<std::ptrdiff_t>(c) * groups + g);
      const IntLanes better = other < best;
      best = better ? other : best;
      chosen = better ? IntLanes{} + c : chosen;
    }
    for (int lane = 0; lane < kLanes; ++lane) from[g + lane] = static_cast<std::uint8_t>(chosen[lane]);
    best -= drop;
#pragma GCC unroll 32
    for (int part = 0; part < kBranches; ++part) {
      const std::ptrdiff_t at = static_cast<std::ptrdiff_t>(g) * kBranches + part * kLanes;
      const Lanes error = load(values + at) - target;
      store(after + at, repeat<bits>(best, part) + error * error * weight);
    }
  }
}

static void trellis_step(int memory, int bits, const float* before, const float* values, float target, float weight,
                         float drop, float* after, std::uint8_t* from) {
  switch (bits) {
    case 1: return step<1>(memory, before, values, target, weight, drop, after, from);
    case 2: return step<2>(memory, before, values, target, weight, drop, after, from);
    case 3: return step<3>(memory, before, values, target, weight, drop, after, from);
    case 4: return step<4>(memory, before, values, target, weight, drop, after, from);
    default: return step<5>(memory, before, values, target, weight, drop, after, from);
  }
}

}  // namespace tercile::TERCILE_TARGET
