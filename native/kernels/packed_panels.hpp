// Dense products of float panels: as many rows of activations at once as the registers hold sums for.
#pragma once
#include "../runtime/packed.hpp"
#include "lanes.hpp"

namespace tercile::TERCILE_TARGET {

#if defined(__AVX512F__)
constexpr int kPanelLanes = 2, kMostTokens = 12;  // 24 registers of sums
#elif defined(__AVX2__)
constexpr int kPanelLanes = 1, kMostTokens = 6;  // 12 of 16
#elif defined(__aarch64__)
constexpr int kPanelLanes = 1, kMostTokens = 5;  // 20 of 32
#else
constexpr int kPanelLanes = 1, kMostTokens = 2;  // 8 of 16
#endif
constexpr int kPanelRows = kPanelLanes * kLanes;

[[maybe_unused]] static void panel_floats(const float* rows, std::size_t step, std::size_t columns, float* panel) {
  // A square of 16 at a time keeps both sides in the nearest cache.
  for (std::size_t c = 0; c < columns; c += kLanes)
    for (int r = 0; r < kPanelRows; ++r)
      for (std::size_t i = c; i < columns && i < c + kLanes; ++i) panel[i * kPanelRows + r] = rows[r * step + i];
}

template <int tokens>
static void multiply_tokens(const float* x, std::size_t x_step, const float* panel, std::size_t columns, bool add,
                            float* y, std::size_t y_step) {
  constexpr int across = kPanelRows / kHeld;
  Register sum[tokens][across];
#pragma GCC unroll 16
  for (int t = 0; t < tokens; ++t)
#pragma GCC unroll 4
    for (int l = 0; l < across; ++l) sum[t][l] = add ? load_register(y + t * y_step + l * kHeld) : Register{};
  for (std::size_t c = 0; c < columns; ++c) {
    Register w[across];
#pragma GCC unroll 4
    for (int l = 0; l < across; ++l) w[l] = load_register(panel + c * kPanelRows + l * kHeld);
#pragma GCC unroll 16
    for (int t = 0; t < tokens; ++t) {
      const float value = x[t * x_step + c];
#pragma GCC unroll 4
      for (int l = 0; l < across; ++l) sum[t][l] += w[l] * value;
    }
  }
#pragma GCC unroll 16
  for (int t = 0; t < tokens; ++t)
#pragma GCC unroll 4
    for (int l = 0; l < across; ++l) store_register(y + t * y_step + l * kHeld, sum[t][l]);
}

template <int tokens>
static void multiply_some(int some, const float* x, std::size_t x_step, const float* panel, std::size_t columns, bool add,
                          float* y, std::size_t y_step) {
  if (some == tokens) return multiply_tokens<tokens>(x, x_step, panel, columns, add, y, y_step);
  if constexpr (tokens > 1) multiply_some<tokens - 1>(some, x, x_step, panel, columns, add, y, y_step);
}

// Calls body(first token, how many) for m tokens in pieces of nearly equal size, none above `most`.
template <typename Body>
TERCILE_INLINE void each_piece(std::size_t m, std::size_t most, Body body) {
  const std::size_t pieces = (m + most - 1) / most;
  for (std::size_t p = 0, t = 0; p < pieces; ++p) {
    const std::size_t some = (m - t + pieces - p - 1) / (pieces - p);
    body(t, static_cast<int>(some));
    t += some;
  }
}

static void multiply_floats(const float* x, std::size_t x_step, std::size_t m, const float* panel, std::size_t columns,
                            bool add, float* y, std::size_t y_step) {
  each_piece(m, kMostTokens, [&](std::size_t t, int some) {
    multiply_some<kMostTokens>(some, x + t * x_step, x_step, panel, columns, add, y + t * y_step, y_step);
  });
}

}  // namespace tercile::TERCILE_TARGET
