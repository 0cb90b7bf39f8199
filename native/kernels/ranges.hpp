// Squared error of candidate scales for one block of values: what the MSE range search evaluates.
#pragma once
#include "rounding.hpp"

namespace tercile::TERCILE_TARGET {

static void range_errors(const float* x, const float* weight, std::size_t n, const float* scale, const float* offset,
                         int candidates, const Levels& g, float* error) {
  for (int c = 0; c < candidates; ++c) {
    const float s = scale[c], o = offset[c], inverse = s != 0.0f ? 1.0f / s : 0.0f;
    float sum = 0.0f;
    if (g.uniform) {
      const float first = g.first, step = g.step, step_inverse = 1.0f / step, top = static_cast<float>(g.count - 1);
#pragma omp simd reduction(+ : sum)
      for (std::size_t i = 0; i < n; ++i) {
        const float position = (clamp_index(((x[i] - o) * inverse - first) * step_inverse, top) + kRound) - kRound;
        const float d = x[i] - (s * (first + step * position) + o);
        sum += d * d * (weight ? weight[i] : 1.0f);
      }
    } else {
      for (std::size_t i = 0; i < n; ++i) {
        const float d = x[i] - (s * g.levels[search((x[i] - o) * inverse, g.midpoints, g.count)] + o);
        sum += d * d * (weight ? weight[i] : 1.0f);
      }
    }
    error[c] = sum;
  }
}

}  // namespace tercile::TERCILE_TARGET
