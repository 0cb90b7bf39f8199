// What lies between the products of a transformer block.
#pragma once
#include <cstddef>

namespace tercile {

// One head over one sequence, (queries, width) each. Width is a multiple of 16.
struct Attention {
  const float* query;
  std::size_t queries, query_step;
  const float* turned_keys;  // (width, key_step): key k in column k; readable up to a multiple of 16 columns
  std::size_t keys, key_step;
  const float* values;       // (keys, width)
  std::size_t value_step;
  std::size_t width;
  float scale;
  const float* mask;         // (queries, keys) is added to the scores, or null
  std::size_t mask_step;
  bool causal;               // query i sees the first keys - queries + i + 1 keys
  float* out;
  std::size_t out_step;
};

struct BetweenKernels {
  // out = (x + residual) brought to mean 0 and variance 1, times gain, plus shift; x of (m, n).
  void (*layer_norm)(const float* x, const float* residual, std::size_t m, std::size_t n, const float* gain,
                     const float* shift, float epsilon, float* out);
  // out = x / sqrt(mean of squares + epsilon) * gain.
  void (*rms_norm)(const float* x, std::size_t m, std::size_t n, const float* gain, float epsilon, float* out);
  // x * normal distribution(x), by the error function.
  void (*gelu)(float* x, std::size_t n);
  // gate = gate / (1 + exp(-gate)) * up.
  void (*gate)(float* gate, const float* up, std::size_t n);
  // Pairs (i, i + width / 2) of each head are turned by an angle a pair.
  void (*turn)(float* x, std::size_t heads, std::size_t width, const float* cosine, const float* sine);
  // space: 4 * (keys + 16) floats.
  void (*attend)(const Attention& a, float* space);
};

const BetweenKernels& between_kernels();

extern const BetweenKernels between_kernels_plain;
#if defined(__x86_64__) || defined(_M_X64)
extern const BetweenKernels between_kernels_avx2;
extern const BetweenKernels between_kernels_avx512;
#endif

}  // namespace tercile
