// The GPTQ column loop (Frantar et al. 2023, Algorithm 1, inner loop) over one tile of rows.
#pragma once
#include "rounding.hpp"

namespace tercile::TERCILE_TARGET {

// Rounds one column of a tile: w is replaced by the error (w - q) / pivot, index by the level chosen.
template <bool uniform>
static inline void round_column(const float* w, int rows, const float* scale, const float* offset, float pivot_inverse,
                                const Levels& g, float* error, std::uint8_t* index) {
  const float first = g.first, step = g.step, step_inverse = uniform ? 1.0f / g.step : 0.0f;
  const float top = static_cast<float>(g.count - 1);
  for (int r = 0; r < rows; ++r) {
    // A block of zeros has scale 0: everything in it is `offset`, whatever the level.
    const float inverse = scale[r] != 0.0f ? 1.0f / scale[r] : 0.0f;
    const float x = (w[r] - offset[r]) * inverse;
    float level;
    int i;
    if constexpr (uniform) {
      const float position = (clamp_index((x - first) * step_inverse, top) + kRound) - kRound;
      i = static_cast<int>(position);
      level = first + step * position;
    } else {
      i = search(x, g.midpoints, g.count);
      level = g.levels[i];
    }
    index[r] = static_cast<std::uint8_t>(i);
    error[r] = (w[r] - (scale[r] * level + offset[r])) * pivot_inverse;
  }
}

static void solve_tile(float* w, int columns, int rows, const float* factor, int factor_stride, const float* scale,
                       const float* offset, const int* group_of, const Levels& g, float* error, std::uint8_t* index) {
  for (int j = 0; j < columns; ++j) {
    const float* row = factor + static_cast<std::ptrdiff_t>(j) * factor_stride;
    const float* s = scale + static_cast<std::ptrdiff_t>(group_of[j]) * rows;
    const float* o = offset + static_cast<std::ptrdiff_t>(group_of[j]) * rows;
    float* e = error + static_cast<std::ptrdiff_t>(j) * rows;
    float* column = w + static_cast<std::ptrdiff_t>(j) * rows;
    if (g.uniform)
      round_column<true>(column, rows, s, o, 1.0f / row[j], g, e, index + static_cast<std::ptrdiff_t>(j) * rows);
    else
      round_column<false>(column, rows, s, o, 1.0f / row[j], g, e, index + static_cast<std::ptrdiff_t>(j) * rows);
    for (int k = j + 1; k < columns; ++k) {
      const float f = row[k];
      float* to = w + static_cast<std::ptrdiff_t>(k) * rows;
#pragma omp simd
      for (int r = 0; r < rows; ++r) to[r] -= f * e[r];
    }
  }
}

}  // namespace tercile::TERCILE_TARGET
