// What is done to activations and sums before and after products.
#pragma once
#include "../runtime/packed.hpp"
#include "lanes.hpp"

namespace tercile::TERCILE_TARGET {

[[maybe_unused]] static float dot_lanes(const float* a, const float* b, std::size_t n) {
  Register sum[kRegisters] = {};
  std::size_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
#pragma GCC unroll 4
    for (int l = 0; l < kRegisters; ++l) sum[l] += load_register(a + i + l * kHeld) * load_register(b + i + l * kHeld);
  float total = 0.0f;
  for (int lane = 0; lane < kLanes; ++lane) total += sum[lane / kHeld][lane % kHeld];
  for (; i < n; ++i) total += a[i] * b[i];
  return total;
}

[[maybe_unused]] static float round_row(const float* x, std::size_t columns, float scale, std::int8_t* out) {
  float largest = 0.0f;
  int strange = 0;
#pragma omp simd reduction(max : largest) reduction(| : strange)
  for (std::size_t c = 0; c < columns; ++c) {
    const float size = __builtin_fabsf(x[c]);
    strange |= !(size <= 3.402823466e38f);
    largest = largest > size ? largest : size;
  }
  if (scale == 0.0f) scale = largest / 127.0f;
  // Below float32's normal numbers 1 / scale may overflow: such rows are taken for zeros.
  const float inverse = scale >= 1e-37f ? 1.0f / scale : 0.0f;
#pragma omp simd
  for (std::size_t c = 0; c < columns; ++c) {
    float value = x[c] * inverse;
    value = value < 127.0f ? (value > -127.0f ? value : -127.0f) : 127.0f;
    // Adding and taking away 1.5 * 2^23 leaves the nearest whole number, halves to even.
    out[c] = static_cast<std::int8_t>(static_cast<std::int32_t>((value + 12582912.0f) - 12582912.0f));
  }
  return strange ? __builtin_nanf("") : inverse == 0.0f ? 0.0f : scale;  // NaN and infinity show in the product
}

[[maybe_unused]] static std::int32_t sum_bytes(const std::int8_t* x, std::size_t n) {
  std::int32_t sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::size_t i = 0; i < n; ++i) sum += x[i];
  return sum;
}

[[maybe_unused]] static void affine(float* value, std::size_t n, float scale, float offset) {
#pragma omp simd
  for (std::size_t i = 0; i < n; ++i) value[i] = value[i] * scale + offset;
}

[[maybe_unused]] static void finish(const float* sum, std::size_t sum_step, std::size_t m, std::size_t rows,
                                    const float* scale, const float* bias, bool add, float* y, std::size_t y_step) {
  for (std::size_t t = 0; t < m; ++t) {
    const float* from = sum + t * sum_step;
    float* to = y + t * y_step;
    const float by = scale ? scale[t] : 1.0f;
    if (add && bias) {
#pragma omp simd
      for (std::size_t r = 0; r < rows; ++r) to[r] += from[r] * by + bias[r];
    } else if (add) {
#pragma omp simd
      for (std::size_t r = 0; r < rows; ++r) to[r] += from[r] * by;
    } else if (bias) {
#pragma omp simd
      for (std::size_t r = 0; r < rows; ++r) to[r] = from[r] * by + bias[r];
    } else {
#pragma omp simd
      for (std::size_t r = 0; r < rows; ++r) to[r] = from[r] * by;
    }
  }
}

[[maybe_unused]] static std::int32_t read_words(const std::uint8_t* from, std::size_t bytes) {
  IntLanes sum[4] = {};
  for (std::size_t at = 0; at < bytes; at += sizeof sum)
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      IntLanes words;
      __builtin_memcpy(&words, from + at + sizeof words * i, sizeof words);
      sum[i] ^= words;
    }
  const IntLanes all = sum[0] ^ sum[1] ^ sum[2] ^ sum[3];
  std::int32_t one = 0;
  for (int lane = 0; lane < kLanes; ++lane) one ^= all[lane];
  return one;
}

}  // namespace tercile::TERCILE_TARGET
