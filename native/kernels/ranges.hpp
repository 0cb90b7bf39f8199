// Squared error of candidate scales for one block of values: what the MSE range search evaluates.
#pragma once
#include "rounding.hpp"

namespace tercile::TERCILE_TARGET {

// Below this a scale has no reciprocal in float32 and counts as 0.
constexpr float kSmallestScale = 1e-37f;

// Candidates lie in the lanes, so each sum runs over the values in their order, whatever the instruction set.
template <bool uniform>
static inline void errors_of_lanes(const float* x, const float* weight, std::size_t n, const float* inverses,
                                   const float* starts, const Levels& g, float* sums) {
  const Lanes inverse = load(inverses), start = load(starts);
  Lanes sum{};
  for (std::size_t i = 0; i < n; ++i) {
    // In units of the scale, so that the error is off by scale^2, which the caller puts back.
    const Lanes position = x[i] * inverse - start;
    Lanes off;
    if constexpr (uniform) {
      off = position - round_index(position, static_cast<float>(g.count - 1));
    } else {
      IntLanes index;
      off = position - nearest_level<false>(position, g, index);
    }
    sum += weight ? off * off * weight[i] : off * off;
  }
  store(sums, sum);
}

static void range_errors(const float* x, const float* weight, std::size_t n, const float* scale, const float* offset,
                         int candidates, const Levels& g, float* error) {
  float largest = 0.0f;
  for (std::size_t i = 0; i < n; ++i) {
    const float magnitude = x[i] < 0.0f ? -x[i] : x[i];
    largest = largest < magnitude ? magnitude : largest;
  }
  const float unit = largest > kSmallestScale ? 1.0f / largest : 1.0f;
  const float first = g.uniform ? g.first : 0.0f, step = g.uniform ? g.step : 1.0f;
  for (int from = 0; from < candidates; from += kLanes) {
    const int count = candidates - from < kLanes ? candidates - from : kLanes;
    float inverse[kLanes] = {}, start[kLanes] = {}, sums[kLanes];
    for (int c = 0; c < count; ++c) {
      const float s = scale[from + c] * step;
      if (s > kSmallestScale || s < -kSmallestScale) {
        inverse[c] = 1.0f / s;
        start[c] = (offset[from + c] + scale[from + c] * first) * inverse[c];
      }
    }
    if (g.uniform)
      errors_of_lanes<true>(x, weight, n, inverse, start, g, sums);
    else
      errors_of_lanes<false>(x, weight, n, inverse, start, g, sums);
    for (int c = 0; c < count; ++c) {
      if (inverse[c] != 0.0f) {
        const float size = scale[from + c] * step * unit;
        error[from + c] = sums[c] * size * size;
        continue;
      }
      float sum = 0.0f;  // a scale of 0: everything decodes to the offset
      for (std::size_t i = 0; i < n; ++i) {
        const float off = (x[i] - offset[from + c]) * unit;
        sum += weight ? off * off * weight[i] : off * off;
      }
      error[from + c] = sum;
    }
  }
}

}  // namespace tercile::TERCILE_TARGET
