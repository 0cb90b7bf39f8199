// Rounding column by column, over one tile of rows: back substitution, which is the GPTQ column loop written without an
// inverse, and coordinate descent.
#pragma once
#include "rounding.hpp"

namespace tercile::TERCILE_TARGET {

constexpr int kParts = kTileRows / kLanes;
constexpr int kTogether = 4;  // columns that read the errors of earlier ones in one pass

// Registers of a tile's rows that four columns' sums leave room for.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kPass = 4;  // of 32
#else
constexpr int kPass = 2;  // of 16
#endif

// Sums of errors[q] * row[q] for each of some rows, for q from `last` down to `stop`, not included.
TERCILE_INLINE void gather(Lanes (&sums)[kTogether][kParts], const float* errors, const float* const* rows, int last,
                           int stop) {
  for (int at = 0; at < kTileRows; at += kPass * kHeld) {
    Register sum[kTogether][kPass] = {};
    for (int q = last; q > stop; --q) {
      Register e[kPass];
#pragma GCC unroll 4
      for (int i = 0; i < kPass; ++i)
        e[i] = load_register(errors + static_cast<std::ptrdiff_t>(q) * kTileRows + at + i * kHeld);
#pragma GCC unroll 4
      for (int c = 0; c < kTogether; ++c) {
        const float f = rows[c][q];
#pragma GCC unroll 4
        for (int i = 0; i < kPass; ++i) sum[c][i] += e[i] * f;
      }
    }
#pragma GCC unroll 4
    for (int c = 0; c < kTogether; ++c)
#pragma GCC unroll 4
      for (int i = 0; i < kPass; ++i) store_register(reinterpret_cast<float*>(sums[c]) + at + i * kHeld, sum[c][i]);
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
    Lanes sums[kTogether][kParts];
    gather(sums, error, rows, columns - 1, last);
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
    Lanes sums[kTogether][kParts];
    gather(sums, error, rows, columns - 1, -1);
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
