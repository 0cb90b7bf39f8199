// One row times a Hadamard matrix: pieces of 2^a neighbours by a fast Walsh-Hadamard transform, and a small matrix across
// the pieces. Sums are taken in one order, lane by lane, so that all kernel sets give the same bits.
#pragma once
#include "lanes.hpp"

namespace tercile::TERCILE_TARGET {

// Neighbours `half` apart within lanes: x + its partner in the lower one, partner - x in the upper one.
template <int half>
TERCILE_INLINE Lanes butterfly(Lanes x) {
  constexpr IntLanes lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  constexpr IntLanes partner = lane ^ half, sign = (lane & half) != 0 ? IntLanes{} + INT32_MIN : IntLanes{};
  return __builtin_shuffle(x, partner) + reinterpret_cast<Lanes>(reinterpret_cast<IntLanes>(x) ^ sign);
}

// Where lanes are butterflies' wings, two steps at a time share what they read and write.
static void walsh(float* x, std::size_t n, float unit) {
  std::size_t half = 1;
  if (n >= kLanes) {
    for (std::size_t i = 0; i < n; i += kLanes)
      store(x + i, butterfly<8>(butterfly<4>(butterfly<2>(butterfly<1>(load(x + i))))));
    half = kLanes;
  }
  for (; half >= kLanes && 2 * half < n; half *= 4)
    for (std::size_t at = 0; at < n; at += 4 * half)
      for (std::size_t i = at; i < at + half; i += kLanes) {
        const Lanes a = load(x + i), b = load(x + i + half), c = load(x + i + 2 * half), d = load(x + i + 3 * half);
        const Lanes ab = a + b, a_b = a - b, cd = c + d, c_d = c - d;
        store(x + i, ab + cd);
        store(x + i + half, a_b + c_d);
        store(x + i + 2 * half, ab - cd);
        store(x + i + 3 * half, a_b - c_d);
      }
  for (; half < n; half *= 2)
    for (std::size_t at = 0; at < n; at += 2 * half) {
      std::size_t i = at;
      for (; i + kLanes <= at + half; i += kLanes) {
        const Lanes a = load(x + i), b = load(x + i + half);
        store(x + i, a + b);
        store(x + i + half, a - b);
      }
      for (; i < at + half; ++i) {
        const float a = x[i], b = x[i + half];
        x[i] = a + b;
        x[i + half] = a - b;
      }
    }
  std::size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(x + i, load(x + i) * unit);
  for (; i < n; ++i) x[i] *= unit;
}

// y[c] = sum over d of across[c][d] * x[d], for pieces x[d] of n neighbours; four of c at a time share what they read.
static void mix_pieces(float* x, const float* across, std::size_t pieces, std::size_t n, bool transposed, float* y) {
  const std::size_t down = transposed ? 1 : pieces, right = transposed ? pieces : 1;
  for (std::size_t first = 0; first < pieces; first += 4) {
    const std::size_t some = pieces - first < 4 ? pieces - first : 4;
    const float* f[4];
    for (std::size_t c = 0; c < 4; ++c) f[c] = across + (first + (c < some ? c : 0)) * down;
    std::size_t i = 0;
    for (; i + kHeld <= n; i += kHeld) {
      Register sum[4] = {};
      for (std::size_t d = 0; d < pieces; ++d) {
        const Register value = load_register(x + d * n + i);
#pragma GCC unroll 4
        for (int c = 0; c < 4; ++c) sum[c] += f[c][d * right] * value;
      }
      for (std::size_t c = 0; c < some; ++c) store_register(y + (first + c) * n + i, sum[c]);
    }
    for (; i < n; ++i)
      for (std::size_t c = 0; c < some; ++c) {
        float sum = 0.0f;
        for (std::size_t d = 0; d < pieces; ++d) sum += f[c][d * right] * x[d * n + i];
        y[(first + c) * n + i] = sum;
      }
  }
  __builtin_memcpy(x, y, pieces * n * sizeof(float));
}

static void hadamard_row(float* x, std::size_t pieces, std::size_t n, float unit, const float* across, bool back,
                         float* space) {
  if (back && pieces > 1) mix_pieces(x, across, pieces, n, true, space);
  for (std::size_t c = 0; c < pieces; ++c) walsh(x + c * n, n, unit);
  if (!back && pieces > 1) mix_pieces(x, across, pieces, n, false, space);
}

}  // namespace tercile::TERCILE_TARGET
