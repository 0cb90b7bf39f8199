// What lies between the products of a transformer block, in lanes of 16.
#pragma once
#include "../runtime/between.hpp"
#include "lanes.hpp"

namespace tercile::TERCILE_TARGET {

TERCILE_INLINE float sum_of_lanes(Lanes x) {
  float half[8];
  for (int i = 0; i < 8; ++i) half[i] = x[i] + x[i + 8];
  return ((half[0] + half[4]) + (half[2] + half[6])) + ((half[1] + half[5]) + (half[3] + half[7]));
}

// Lanes from memory that ends after `some` of them; the others are `rest`.
TERCILE_INLINE Lanes load_some(const float* from, std::size_t some, float rest) {
  Lanes lanes = all(rest);
  __builtin_memcpy(&lanes, from, some * sizeof(float));
  return lanes;
}

// exp(x) to 2 units in the last place; what would leave float32's normal numbers is held at its ends.
TERCILE_INLINE Lanes exponential(Lanes x) {
  x = x < 88.0f ? x : all(88.0f);
  x = x > -87.0f ? x : all(-87.0f);
  // x = n ln 2 + r: adding and taking away 1.5 * 2^23 leaves the nearest whole number.
  const Lanes shifted = x * 1.44269504f + 12582912.0f, n = shifted - 12582912.0f;
  const Lanes r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Lanes p = all(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const IntLanes power = (reinterpret_cast<IntLanes>(shifted) - 0x4b400000 + 127) << 23;
  return p * reinterpret_cast<Lanes>(power);
}

// Error function by a ratio of polynomials (the one of Eigen), to some units in the last place.
TERCILE_INLINE Lanes error_function(Lanes x) {
  x = x < 4.0f ? x : all(4.0f);
  x = x > -4.0f ? x : all(-4.0f);
  const Lanes s = x * x;
  Lanes p = all(-2.72614225801306e-10f);
  p = p * s + 2.77068142495902e-08f;
  p = p * s + -2.10102402082508e-06f;
  p = p * s + -5.69250639462346e-05f;
  p = p * s + -7.34990630326855e-04f;
  p = p * s + -2.95459980854025e-03f;
  p = p * s + -1.60960333262415e-02f;
  Lanes q = all(-1.45660718464996e-05f);
  q = q * s + -2.13374055278905e-04f;
  q = q * s + -1.68282697438203e-03f;
  q = q * s + -7.37332916720468e-03f;
  q = q * s + -1.42647390514189e-02f;
  return x * p / q;
}

// x[i] = function(x[i], other[i]) for n floats.
template <typename Function>
TERCILE_INLINE void in_lanes(float* x, const float* other, std::size_t n, Function function) {
  std::size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(x + i, function(load(x + i), load(other + i)));
  if (i == n) return;
  const Lanes last = function(load_some(x + i, n - i, 0.0f), load_some(other + i, n - i, 0.0f));
  __builtin_memcpy(x + i, &last, (n - i) * sizeof(float));
}

static void gelu(float* x, std::size_t n) {
  in_lanes(x, x, n, [](Lanes value, Lanes) __attribute__((always_inline)) {
    return value * 0.5f * (1.0f + error_function(value * 0.70710678f));
  });
}

static void gate(float* x, const float* up, std::size_t n) {
  in_lanes(x, up, n, [](Lanes value, Lanes other) __attribute__((always_inline)) {
    return value / (1.0f + exponential(-value)) * other;
  });
}

static void layer_norm(const float* x, const float* residual, std::size_t m, std::size_t n, const float* gain,
                       const float* shift, float epsilon, float* out) {
  for (std::size_t t = 0; t < m; ++t, x += n, residual += n, out += n) {
    const auto sum_over = [&](float mean, auto part) __attribute__((always_inline)) {
      Lanes sum{};
      std::size_t i = 0;
      for (; i + kLanes <= n; i += kLanes) sum += part(load(out + i) - mean);
      if (i < n) sum += part(load_some(out + i, n - i, mean) - mean);
      return sum_of_lanes(sum);
    };
#pragma omp simd
    for (std::size_t i = 0; i < n; ++i) out[i] = x[i] + residual[i];
    const float mean = sum_over(0.0f, [](Lanes v) { return v; }) / static_cast<float>(n);
    const float variance = sum_over(mean, [](Lanes v) { return v * v; }) / static_cast<float>(n);
    const float by = 1.0f / __builtin_sqrtf(variance + epsilon);
#pragma omp simd
    for (std::size_t i = 0; i < n; ++i) out[i] = (out[i] - mean) * by * gain[i] + shift[i];
  }
}

static void rms_norm(const float* x, std::size_t m, std::size_t n, const float* gain, float epsilon, float* out) {
  for (std::size_t t = 0; t < m; ++t, x += n, out += n) {
    Lanes squares{};
    std::size_t i = 0;
    for (; i + kLanes <= n; i += kLanes) squares += load(x + i) * load(x + i);
    const Lanes last = load_some(x + i, n - i, 0.0f);
    squares += last * last;
    const float by = 1.0f / __builtin_sqrtf(sum_of_lanes(squares) / static_cast<float>(n) + epsilon);
#pragma omp simd
    for (std::size_t c = 0; c < n; ++c) out[c] = x[c] * by * gain[c];
  }
}

static void turn(float* x, std::size_t heads, std::size_t width, const float* cosine, const float* sine) {
  const std::size_t half = width / 2;
  for (std::size_t h = 0; h < heads; ++h, x += width)
#pragma omp simd
    for (std::size_t i = 0; i < half; ++i) {
      const float first = x[i], second = x[half + i];
      x[i] = first * cosine[i] - second * sine[i];
      x[half + i] = second * cosine[i] + first * sine[i];
    }
}

// Registers that meet four queries at once: all sums and what they read stay in registers.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kAcross = 4;  // of 32
#else
constexpr int kAcross = 2;  // of 16
#endif

// Scores of `some` queries, `wide` registers of keys at a time.
template <int some, int wide>
TERCILE_INLINE void score_registers(const Attention& a, const float* query, std::size_t key, float* scores,
                                    std::size_t step) {
  Register sum[some][wide]{};
  for (std::size_t d = 0; d < a.width; ++d) {
    Register keys[wide];
#pragma GCC unroll 4
    for (int l = 0; l < wide; ++l) keys[l] = load_register(a.turned_keys + d * a.key_step + key + kHeld * l);
#pragma GCC unroll 4
    for (int i = 0; i < some; ++i)
#pragma GCC unroll 4
      for (int l = 0; l < wide; ++l) sum[i][l] += keys[l] * query[i * a.query_step + d];
  }
#pragma GCC unroll 4
  for (int i = 0; i < some; ++i)
#pragma GCC unroll 4
    for (int l = 0; l < wide; ++l) store_register(scores + i * step + key + kHeld * l, sum[i][l] * a.scale);
}

// Mixes `wide` registers of the values.
template <int some, int wide>
TERCILE_INLINE void mix_registers(const Attention& a, const float* weights, std::size_t step, std::size_t keys,
                                  std::size_t at, const float* by, float* out) {
  Register sum[some][wide]{};
  for (std::size_t k = 0; k < keys; ++k) {
    Register values[wide];
#pragma GCC unroll 4
    for (int l = 0; l < wide; ++l) values[l] = load_register(a.values + k * a.value_step + at + kHeld * l);
#pragma GCC unroll 4
    for (int i = 0; i < some; ++i)
#pragma GCC unroll 4
      for (int l = 0; l < wide; ++l) sum[i][l] += values[l] * weights[i * step + k];
  }
#pragma GCC unroll 4
  for (int i = 0; i < some; ++i)
#pragma GCC unroll 4
    for (int l = 0; l < wide; ++l) store_register(out + i * a.out_step + at + kHeld * l, sum[i][l] * by[i]);
}

// Scores of the keys that are seen become weights, those up to `padded` zeros; returns 1 / their sum.
TERCILE_INLINE float weigh(float* scores, std::size_t keys, std::size_t padded, const float* mask) {
  const float nothing = -__builtin_inff();
  for (std::size_t k = 0; mask && k < keys; ++k) scores[k] += mask[k];
  for (std::size_t k = keys; k < padded; ++k) scores[k] = nothing;
  Lanes high = all(nothing);
  for (std::size_t k = 0; k < padded; k += kLanes) {
    const Lanes score = load(scores + k);
    high = high > score ? high : score;
  }
  float largest = nothing;
  for (int lane = 0; lane < kLanes; ++lane) largest = largest > high[lane] ? largest : high[lane];
  if (!(largest > nothing)) largest = 0.0f;  // nothing is seen: all weigh the same, as good as nothing
  Lanes sum{};
  for (std::size_t k = 0; k < padded; k += kLanes) {
    const Lanes weight = exponential(load(scores + k) - largest);
    store(scores + k, weight);
    sum += weight;
  }
  for (std::size_t k = keys; k < padded; ++k) {
    sum[k % kLanes] -= scores[k];
    scores[k] = 0.0f;
  }
  return 1.0f / sum_of_lanes(sum);
}

template <int some>
TERCILE_INLINE void attend_some(const Attention& a, std::size_t q, float* scores) {
  const std::size_t last = a.causal ? a.keys - a.queries + q + some : a.keys;
  const std::size_t padded = (last + kLanes - 1) / kLanes * kLanes;
  std::size_t key = 0;
  for (; key + kAcross * kHeld <= padded; key += kAcross * kHeld)
    score_registers<some, kAcross>(a, a.query + q * a.query_step, key, scores, padded);
  for (; key < padded; key += kHeld) score_registers<some, 1>(a, a.query + q * a.query_step, key, scores, padded);
  float by[some];
  for (int i = 0; i < some; ++i) {
    const std::size_t seen = a.causal ? last - some + i + 1 : last;
    by[i] = weigh(scores + i * padded, seen, padded, a.mask ? a.mask + (q + i) * a.mask_step : nullptr);
  }
  float* out = a.out + q * a.out_step;
  std::size_t d = 0;
  for (; d + kAcross * kHeld <= a.width; d += kAcross * kHeld)
    mix_registers<some, kAcross>(a, scores, padded, last, d, by, out);
  for (; d + 2 * kHeld <= a.width; d += 2 * kHeld) mix_registers<some, 2>(a, scores, padded, last, d, by, out);
  for (; d < a.width; d += kHeld) mix_registers<some, 1>(a, scores, padded, last, d, by, out);
}

static void attend(const Attention& a, float* space) {
  std::size_t q = 0;
  for (; q + 4 <= a.queries; q += 4) attend_some<4>(a, q, space);
  for (; q < a.queries; ++q) attend_some<1>(a, q, space);
}

}  // namespace tercile::TERCILE_TARGET
