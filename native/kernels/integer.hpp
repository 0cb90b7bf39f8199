// Products of small integers, added up in int32, and their way back to eight bits: no floating point anywhere.
#pragma once
#include "../kernels.hpp"

namespace tercile::TERCILE_TARGET {

// Two rows against four: what the registers hold. The compiler knows the pattern as one multiply-and-add of pairs.
static inline __attribute__((always_inline)) void products_2x4(const std::int16_t* x, std::size_t x_step,
                                                               const std::int16_t* w, std::size_t w_step, std::size_t k,
                                                               std::int32_t* out) {
  const std::int16_t* y = x + x_step;
  const std::int16_t *w1 = w + w_step, *w2 = w1 + w_step, *w3 = w2 + w_step;
  std::int32_t a0 = 0, a1 = 0, a2 = 0, a3 = 0, b0 = 0, b1 = 0, b2 = 0, b3 = 0;
  for (std::size_t i = 0; i < k; ++i) {
    a0 += std::int32_t(w[i]) * std::int32_t(x[i]);
    a1 += std::int32_t(w1[i]) * std::int32_t(x[i]);
    a2 += std::int32_t(w2[i]) * std::int32_t(x[i]);
    a3 += std::int32_t(w3[i]) * std::int32_t(x[i]);
    b0 += std::int32_t(w[i]) * std::int32_t(y[i]);
    b1 += std::int32_t(w1[i]) * std::int32_t(y[i]);
    b2 += std::int32_t(w2[i]) * std::int32_t(y[i]);
    b3 += std::int32_t(w3[i]) * std::int32_t(y[i]);
  }
  out[0] = a0, out[1] = a1, out[2] = a2, out[3] = a3;
  out[4] = b0, out[5] = b1, out[6] = b2, out[7] = b3;
}

static void integer_products(const std::int16_t* x, const std::int16_t* w, std::size_t m, std::size_t n, std::size_t k,
                             std::int32_t* out) {
  for (std::size_t i = 0; i < m; i += 2) {
    const std::size_t x_step = i + 1 < m ? k : 0;  // a row without a partner is taken twice
    for (std::size_t j = 0; j < n; j += 4) {
      std::int32_t tile[8];
      if (j + 4 <= n) {
        products_2x4(x + i * k, x_step, w + j * k, k, k, tile);
      } else {
        for (std::size_t c = j; c < n; ++c) {
          std::int32_t one[8];
          products_2x4(x + i * k, x_step, w + c * k, 0, k, one);
          tile[c - j] = one[0];
          tile[4 + c - j] = one[4];
        }
      }
      for (std::size_t c = j; c < (j + 4 < n ? j + 4 : n); ++c) {
        out[i * n + c] = tile[c - j];
        if (x_step) out[(i + 1) * n + c] = tile[4 + c - j];
      }
    }
  }
}

static void requantize(const std::int32_t* sums, std::size_t m, std::size_t n, const std::int32_t* bias,
                       const std::int32_t* multiplier, const std::int32_t* shift, std::int32_t zero, std::int32_t low,
                       std::int32_t high, std::uint8_t* out) {
  for (std::size_t i = 0; i < m; ++i) {
    for (std::size_t j = 0; j < n; ++j) {
      const std::int64_t product = (std::int64_t(sums[i * n + j]) + bias[j]) * multiplier[j];
      const std::int64_t value = zero + ((product + (std::int64_t(1) << (shift[j] - 1))) >> shift[j]);
      out[i * n + j] = std::uint8_t(value < low ? low : value > high ? high : value);
    }
  }
}

static void integer_sum(const std::uint8_t* a, const std::uint8_t* b, std::size_t n, std::int32_t a_zero,
                        std::int32_t b_zero, std::int32_t a_multiplier, std::int32_t b_multiplier, std::int32_t shift,
                        std::int32_t zero, std::int32_t low, std::int32_t high, std::uint8_t* out) {
  const std::int32_t half = std::int32_t(1) << (shift - 1);
  for (std::size_t i = 0; i < n; ++i) {
    const std::int32_t value =
        zero + (((a[i] - a_zero) * a_multiplier + (b[i] - b_zero) * b_multiplier + half) >> shift);
    out[i] = std::uint8_t(value < low ? low : value > high ? high : value);
  }
}

}  // namespace tercile::TERCILE_TARGET
