// Nearest level of a scalar grid, for grids with even steps (arithmetic) and for any other (a search).
#pragma once
#include "lanes.hpp"

namespace tercile::TERCILE_TARGET {

// Adding and taking off 1.5 * 2^23 rounds a float of magnitude below 2^22 to the nearest integer, ties to even, on
// every instruction set alike, and vectorises where nearbyint would be a call.
constexpr float kRound = 12582912.0f;

// Above this many levels a binary search of each lane beats comparing all lanes with every midpoint.
constexpr int kScan = 64;

static inline float clamp_index(float position, float top) {
  // Written so that a NaN becomes 0, never an index out of range.
  position = position > 0.0f ? position : 0.0f;
  return position < top ? position : top;
}

TERCILE_INLINE Lanes round_index(Lanes position, float top) {
  position = position > all(0.0f) ? position : all(0.0f);
  position = position < all(top) ? position : all(top);
  return (position + kRound) - kRound;
}

static inline int search(float x, const float* midpoints, int count) {
  // Number of midpoints below x: binary search over `count - 1` midpoints with no branches.
  int low = 0, span = count - 1;
  while (span > 0) {
    const int half = (span + 1) >> 1;
    low += midpoints[low + half - 1] < x ? half : 0;
    span -= half;
  }
  return low;
}

// Level nearest to each lane, and its index.
template <bool uniform>
TERCILE_INLINE Lanes nearest_level(Lanes x, const Levels& g, IntLanes& index) {
  if constexpr (uniform) {
    const Lanes position = round_index((x - g.first) * (1.0f / g.step), static_cast<float>(g.count - 1));
    index = __builtin_convertvector(position, IntLanes);
    return g.first + g.step * position;
  }
  Lanes level = all(g.levels[0]);
  index = IntLanes{};
  if (g.count <= kScan) {
    for (int i = 1; i < g.count; ++i) {
      const IntLanes above = all(g.midpoints[i - 1]) < x;
      level = above ? all(g.levels[i]) : level;
      index -= above;  // true is -1
    }
  } else {
    for (int lane = 0; lane < kLanes; ++lane) {
      index[lane] = search(x[lane], g.midpoints, g.count);
      level[lane] = g.levels[index[lane]];
    }
  }
  return level;
}

static void nearest(const float* x, std::size_t n, const Levels& g, std::uint8_t* out) {
  if (g.uniform) {
    const float first = g.first, inverse = 1.0f / g.step, top = static_cast<float>(g.count - 1);
    for (std::size_t i = 0; i < n; ++i)
      out[i] = static_cast<std::uint8_t>(static_cast<int>((clamp_index((x[i] - first) * inverse, top) + kRound) - kRound));
  } else {
    for (std::size_t i = 0; i < n; ++i) out[i] = static_cast<std::uint8_t>(search(x[i], g.midpoints, g.count));
  }
}

}  // namespace tercile::TERCILE_TARGET
