// Rounding column by column, over one tile of rows: back substitution, which is the GPTQ column loop written without an
// inverse, and coordinate descent.
#pragma once
#include "rounding.hpp"

namespace tercile::TERCILE_TARGET {

constexpr int kParts = kTileRows / kLanes;
constexpr int kTogether = 4;  // columns that read the errors of earlier ones in one pass

// Adds errors[q] * factor_row[q] to each of `count` sums, for q from `last` down to `stop`, not included.
template <int count>
TERCILE_INLINE void gather(Lanes (&sums)[kTogether][kParts], const float* errors, const float* const* rows, int last,
                           int stop) {
  for (int q = last; q > stop; --q) {
    Lanes e[kParts];
#pragma GCC unroll 8
    for (int part = 0; part < kParts; ++part) e[part] = load(errors + static_cast<std::ptrdiff_t>(q) * kTileRows + part * kLanes);
#pragma GCC unroll 8
    for (int c = 0; c < count; ++c) {
      const float f = rows[c][q];
#pragma GCC unroll 8
      for (int part = 0; part < kParts; ++part) sums[c][part] += e[part] * f;
    }
  }
}

// Rounds a column at w - kept + sums * pivot_inverse, where kept is the column's error that sums hold already.
template <bool uniform, bool again>
static inline void round_column(const float* w, const Lanes (&sums)[kParts], float pivot_inverse, const float* scale,
                                const float* offset, const Levels& g, float* error, std::uint8_t* index) {
  for (int part = 0; part < kParts; ++part) {
    const Lanes weight = load(w + part * kLanes), s = load(scale + part * kLanes), o = load(offset + part * kLanes);
    Lanes target = weight + sums[part] * pivot_inverse;
    if constexpr (again) target -= load(error + part * kLanes);
    // A block of zeros has scale 0: everything in it is `offset`, whatever the level.
    const Lanes x = s != all(0.0f) ? (target - o) / s : all(0.0f);
    IntLanes i;
    const Lanes level = nearest_level<uniform>(x, g, i);
    store(error + part * kLanes, weight - (s * level + o));
    for (int lane = 0; lane < kLanes; ++lane) index[part * kLanes + lane] = static_cast<std::uint8_t>(i[lane]);
  }
}

template <bool uniform>
static inline void solve(const float* w, int columns, const float* factor, const float* scale, const float* offset,
                         const int* group_of, const Levels& g, float* error, std::uint8_t* index) {
  const auto row = [factor, columns](int p) { return factor + static_cast<std::ptrdiff_t>(p) * columns; };
  for (int last = columns - 1; last >= 0; last -= kTogether) {
    const int count = last + 1 < kTogether ? last + 1 : kTogether;
    const float* rows[kTogether];
    for (int c = 0; c < kTogether; ++c) rows[c] = row(last - c > 0 ? last - c : 0);
    Lanes sums[kTogether][kParts] = {};
    gather<kTogether>(sums, error, rows, columns - 1, last);
    for (int c = 0; c < count; ++c) {
      const std::ptrdiff_t p = last - c, at = p * kTileRows, group = group_of[p] * static_cast<std::ptrdiff_t>(kTileRows);
      for (int q = last; q > p; --q)
        for (int part = 0; part < kParts; ++part)
          sums[c][part] += load(error + static_cast<std::ptrdiff_t>(q) * kTileRows + part * kLanes) * rows[c][q];
      round_column<uniform, false>(w + at, sums[c], 1.0f / rows[c][p], scale + group, offset + group, g, error + at, index + at);
    }
  }
}

// Moves a column, free of the grid, to where the error is least while the others stay.
static inline void relax_column(const Lanes (&sums)[kParts], float pivot_inverse, float* error) {
  for (int part = 0; part < kParts; ++part)
    store(error + part * kLanes, load(error + part * kLanes) - sums[part] * pivot_inverse);
}

template <bool uniform, bool relaxed>
static inline void descend(const float* w, int columns, const float* hessian, const float* scale, const float* offset,
                           const int* group_of, const Levels& g, float* error, std::uint8_t* index) {
  const auto row = [hessian, columns](int p) { return hessian + static_cast<std::ptrdiff_t>(p) * columns; };
  for (int last = columns - 1; last >= 0; last -= kTogether) {
    const int count = last + 1 < kTogether ? last + 1 : kTogether;
    const float* rows[kTogether];
    for (int c = 0; c < kTogether; ++c) rows[c] = row(last - c > 0 ? last - c : 0);
    Lanes sums[kTogether][kParts] = {};
    gather<kTogether>(sums, error, rows, columns - 1, -1);
    for (int c = 0; c < count; ++c) {
      const std::ptrdiff_t p = last - c, at = p * kTileRows, group = group_of[p] * static_cast<std::ptrdiff_t>(kTileRows);
      Lanes before[kParts];
      for (int part = 0; part < kParts; ++part) before[part] = load(error + at + part * kLanes);
      if constexpr (relaxed)
        relax_column(sums[c], 1.0f / rows[c][p], error + at);
      else
        round_column<uniform, true>(w + at, sums[c], 1.0f / rows[c][p], scale + group, offset + group, g, error + at,
                                    index + at);
      for (int later = c + 1; later < count; ++later)
        for (int part = 0; part < kParts; ++part)
          sums[later][part] += (load(error + at + part * kLanes) - before[part]) * rows[later][p];
    }
  }
}

static void descend_tile(const float* w, int columns, const float* hessian, const float* scale, const float* offset,
                         const int* group_of, const Levels& g, bool round, float* error, std::uint8_t* index) {
  if (!round)
    descend<false, true>(w, columns, hessian, scale, offset, group_of, g, error, index);
  else if (g.uniform)
    descend<true, false>(w, columns, hessian, scale, offset, group_of, g, error, index);
  else
    descend<false, false>(w, columns, hessian, scale, offset, group_of, g, error, index);
}

static void solve_tile(const float* w, int columns, const float* factor, const float* scale, const float* offset,
                       const int* group_of, const Levels& g, float* error, std::uint8_t* index) {
  if (g.uniform)
    solve<true>(w, columns, factor, scale, offset, group_of, g, error, index);
  else
    solve<false>(w, columns, factor, scale, offset, group_of, g, error, index);
}

}  // namespace tercile::TERCILE_TARGET
