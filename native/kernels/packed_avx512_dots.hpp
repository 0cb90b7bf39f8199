// Products of a few rows of activations with codes as they are stored, by AVX-512 with VBMI and VNNI: eight rows of the
// matrix at a time, so that activations are read once for all eight and memory delivers eight streams.
#pragma once
#include "packed_avx512_codes.hpp"
#include "packed_choice.hpp"

namespace tercile::TERCILE_TARGET {

static void scales_avx512(const PackedRows& w, std::size_t row, std::size_t first, std::size_t count, float factor,
                          float* out) {
  const std::size_t at = row / w.tall * w.across + first;
  const __m512 by = _mm512_set1_ps(factor);
  for (std::size_t b = 0; b < count; b += 16) {
    const __mmask16 there = static_cast<__mmask16>(count - b < 16 ? (1u << (count - b)) - 1u : 0xffffu);
    const __m512 scale = w.scale ? _mm512_maskz_loadu_ps(there, w.scale + at + b)
                                 : _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(there, w.half_scale + at + b));
    _mm512_mask_storeu_ps(out + b, there, _mm512_mul_ps(scale, by));
  }
}

// Sum of the lanes of each of eight registers.
TERCILE_INLINE __m256 sums_of_eight(const __m512 x[8]) {
  __m256 half[8], four[2];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) half[i] = _mm256_add_ps(_mm512_castps512_ps256(x[i]), _mm512_extractf32x8_ps(x[i], 1));
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i)
    four[i] = _mm256_hadd_ps(_mm256_hadd_ps(half[4 * i], half[4 * i + 1]), _mm256_hadd_ps(half[4 * i + 2], half[4 * i + 3]));
  return _mm256_add_ps(_mm256_permute2f128_ps(four[0], four[1], 0x20), _mm256_permute2f128_ps(four[0], four[1], 0x31));
}

// Sums that are brought to their size, with the offsets of a row times what they are multiplied with, spread over lanes.
TERCILE_INLINE __m512 with_offsets(const PackedRows& w, std::size_t row, const float* sums, float size, __m512 total) {
  const float* offset = w.offset + row / w.tall * w.across;
  total = _mm512_mul_ps(total, _mm512_set1_ps(size));
  for (std::size_t b = 0; b < w.across; b += 16) {
    const __mmask16 there = static_cast<__mmask16>(w.across - b < 16 ? (1u << (w.across - b)) - 1u : 0xffffu);
    total = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(there, offset + b), _mm512_maskz_loadu_ps(there, sums + b), total);
  }
  return total;
}

// What both products share, for some rows and some tokens at once: every lane of `total` sums scaled products.
template <typename Product, int rows, int tokens>
struct DotRows {
  using Codes = typename Product::Codes;
  using Sum = typename Product::Sum;
  static constexpr std::size_t kCodes = kRun * Codes::kPlanes;
  static constexpr std::size_t kAhead = Codes::kBytes < 64 ? 1536 : Codes::kPlanes > 2 ? 2048 : 1024;  // measured
  const PackedRows& w;
  const Product& product;
  std::size_t token;
  const std::uint8_t* words[rows];
  const float* scales[rows];
  __m512 total[rows][tokens];

  TERCILE_MEMBER __m512i load(int r, std::size_t run) const { return Codes::load(words[r] + run * Codes::kBytes); }
  TERCILE_MEMBER __m512i load_last(int r, std::size_t run) const {
    const std::size_t at = run * Codes::kBytes;
    return Codes::load_last(words[r] + at, w.row_bytes - at);
  }
  // What comes next is asked for in time: what the processor foresees by itself reaches half the bandwidth. Behind the end
  // of a row that is the row `rows` below.
  TERCILE_MEMBER std::size_t next(std::size_t run) const {
    std::size_t at = run * Codes::kBytes + (2 * w.row_bytes < kAhead ? 2 * w.row_bytes : kAhead), down = 0;
    for (; at >= w.row_bytes; at -= w.row_bytes) down += rows * w.row_bytes;
    return at + down;
  }
  TERCILE_MEMBER void prefetch(int r, std::size_t at) const {
    _mm_prefetch(reinterpret_cast<const char*>(words[r]) + at, _MM_HINT_T0);
  }

  // A block of some whole runs is summed and then scaled.
  template <typename Load>
  TERCILE_MEMBER void block(std::size_t number, std::size_t run, std::size_t runs, Load load_run) {
    Sum sum[rows][tokens];
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 8
      for (int t = 0; t < tokens; ++t) sum[r][t] = product.begin(token + t, number);
#pragma GCC unroll 2
    for (std::size_t i = 0; i < runs; ++i) {
      const std::size_t at = next(run + i);
#pragma GCC unroll 8
      for (int r = 0; r < rows; ++r) {
        if (Codes::kBytes > 32 || i % 2 == 0) prefetch(r, at);
        product.template add<tokens>(load_run(r, run + i), token, run + i, sum[r]);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
      const __m512 scale = _mm512_set1_ps(scales[r][number]);
#pragma GCC unroll 8
      for (int t = 0; t < tokens; ++t) total[r][t] = _mm512_fmadd_ps(Product::real(sum[r][t]), scale, total[r][t]);
    }
  }

  // A run of several blocks is scaled lane by lane: a lane holds the sum over 4 * kPlanes codes that lie side by side.
  template <typename Load>
  TERCILE_MEMBER void blocks(std::size_t run, Load load_run) {
    const __m512i block_of = _mm512_loadu_si512(w.lane_block + run * 16);
    const std::size_t first = run * kCodes / w.wide, at = next(run);
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
      const __m512 scale = _mm512_permutexvar_ps(block_of, _mm512_loadu_ps(scales[r] + first));
      prefetch(r, at);
      Sum sum[tokens];
#pragma GCC unroll 8
      for (int t = 0; t < tokens; ++t) sum[t] = product.begin(token + t, run);
      product.template add<tokens>(load_run(r, run), token, run, sum);
#pragma GCC unroll 8
      for (int t = 0; t < tokens; ++t) total[r][t] = _mm512_fmadd_ps(Product::real(sum[t]), scale, total[r][t]);
    }
  }

  // Runs that can be loaded without a mask: all of a run's bytes are there, and 32 at the least.
  TERCILE_MEMBER std::size_t whole_runs() const {
    const std::size_t full = w.columns / kCodes;
    if constexpr (Codes::kBytes >= 32) return full;
    const std::size_t wide = w.row_bytes < 32 ? 0 : (w.row_bytes - 32) / Codes::kBytes + 1;
    return wide < full ? wide : full;
  }

  TERCILE_MEMBER void all() {
    const std::size_t full = whole_runs(), runs = (w.columns + kCodes - 1) / kCodes;
    const auto inner = [&](int r, std::size_t run) __attribute__((always_inline)) { return load(r, run); };
    const auto last = [&](int r, std::size_t run) __attribute__((always_inline)) { return load_last(r, run); };
    std::size_t number = 0, run = 0;
    if (w.lane_block) {
      for (; run < full; ++run) blocks(run, inner);
      for (; run < runs; ++run) blocks(run, last);
      return;
    }
    const std::size_t in_block = w.across == 1 ? runs : w.wide / kCodes;
    if (in_block == 1) {
      for (; run < full; ++run) block(number++, run, 1, inner);
    } else if (in_block == 2) {
      for (; run + 2 <= full; run += 2) block(number++, run, 2, inner);
    } else {
      for (; run + in_block <= full; run += in_block) block(number++, run, in_block, inner);
    }
    for (; run < runs; run += in_block) block(number++, run, runs - run < in_block ? runs - run : in_block, last);
  }
};

template <typename Product, int rows, int tokens>
static void dot_rows(const PackedRows& w, const Product& product, std::size_t row, std::size_t token, float* space,
                     float* y, std::size_t y_step) {
  DotRows<Product, rows, tokens> dot{w, product, token, {}, {}, {}};
  if (w.tall == 1) {
    // They follow each other; those of the rows that come next are asked for now.
    scales_avx512(w, row, 0, rows * w.across, 1.0f, space);
    const std::size_t size = w.scale ? 4 : 2, next = (row + rows) * w.across * size;
    const char* from = w.scale ? reinterpret_cast<const char*>(w.scale) : reinterpret_cast<const char*>(w.half_scale);
    for (std::size_t at = next; at < next + rows * w.across * size; at += 64) _mm_prefetch(from + at, _MM_HINT_T0);
  } else {
    for (int r = 0; r < rows; ++r) scales_avx512(w, row + r, 0, w.across, 1.0f, space + r * w.across);
  }
  for (int r = 0; r < rows; ++r) {
    dot.words[r] = w.words + (row + r) * w.row_bytes;
    dot.scales[r] = space + r * w.across;
  }
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r)
#pragma GCC unroll 8
    for (int t = 0; t < tokens; ++t) dot.total[r][t] = _mm512_setzero_ps();
  dot.all();
  float size[tokens];
#pragma GCC unroll 8
  for (int t = 0; t < tokens; ++t) {
    size[t] = product.size(token + t);
    if (!w.offset) continue;
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r)
      dot.total[r][t] = with_offsets(w, row + r, product.x.sums + (token + t) * w.across, size[t], dot.total[r][t]);
    size[t] = 1.0f;
  }
  if constexpr (rows == 8 && tokens == 1) {
    __m512 sums[8];
#pragma GCC unroll 8
    for (int r = 0; r < 8; ++r) sums[r] = dot.total[r][0];
    alignas(32) float eight[8];
    _mm256_store_ps(eight, sums_of_eight(sums));
    for (int r = 0; r < 8; ++r) y[token * y_step + row + r] = eight[r] * size[0];
    return;
  }
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r)
#pragma GCC unroll 8
    for (int t = 0; t < tokens; ++t)
      y[(token + t) * y_step + row + r] = _mm512_reduce_add_ps(dot.total[r][t]) * size[t];
}

template <typename C, Look look>
struct FloatProduct {
  using Codes = C;
  using Sum = __m512;
  const PackedRows& w;
  const FloatRows& x;
  Table table;

  TERCILE_MEMBER static __m512 real(Sum sum) { return sum; }
  TERCILE_MEMBER Sum begin(std::size_t, std::size_t) const { return _mm512_setzero_ps(); }
  template <int tokens>
  TERCILE_MEMBER void add(__m512i run, std::size_t token, std::size_t number, Sum* sum) const {
    each_of<4 * C::kPlanes>([&](auto part) __attribute__((always_inline)) {
      const __m512 value = value_of<look>(C::template lane<look, decltype(part){} / 4, decltype(part){} % 4>(run), table);
#pragma GCC unroll 8
      for (int t = 0; t < tokens; ++t) {
        const float* from = x.x + (token + t) * x.step + number * kRun * C::kPlanes;
        sum[t] = _mm512_fmadd_ps(value, _mm512_loadu_ps(from + 16 * part), sum[t]);
      }
    });
  }
  float size(std::size_t) const { return 1.0f; }
};

template <typename C, bool mapped>
struct WholeProduct {
  using Codes = C;
  using Sum = IntLanes;
  const PackedRows& w;
  const WholeRows& x;
  __m512i map[4];

  TERCILE_MEMBER static __m512 real(Sum sum) { return real_lanes(sum); }
  TERCILE_MEMBER Sum begin(std::size_t token, std::size_t part) const {
    return reinterpret_cast<IntLanes>(_mm512_loadu_si512(x.start + (token * x.parts + part) * 16));
  }
  template <int tokens>
  TERCILE_MEMBER void add(__m512i run, std::size_t token, std::size_t number, Sum* sum) const {
    each_of<C::kPlanes>([&](auto plane) __attribute__((always_inline)) {
      __m512i codes = C::template whole<decltype(plane){}>(run);
      if constexpr (mapped) codes = mapped_codes<C::kBits>(codes, map);
#pragma GCC unroll 8
      for (int t = 0; t < tokens; ++t)
        sum[t] = add_products(
            sum[t], codes, _mm512_loadu_si512(x.x + (token + t) * x.step + (number * C::kPlanes + plane) * kRun));
    });
  }
  float size(std::size_t token) const { return w.unit * x.scale[token]; }
};

template <typename Product>
static bool dot_all(const PackedRows& w, const Product& product, std::size_t first, std::size_t last, std::size_t m,
                    float* space, float* y, std::size_t y_step) {
  for (std::size_t token = 0; token < m;) {
    std::size_t row = first;
    if (m - token == 1) {
      for (; row + 8 <= last; row += 8) dot_rows<Product, 8, 1>(w, product, row, token, space, y, y_step);
      for (; row < last; ++row) dot_rows<Product, 1, 1>(w, product, row, token, space, y, y_step);
      token += 1;
    } else {
      for (; row + 4 <= last; row += 4) dot_rows<Product, 4, 2>(w, product, row, token, space, y, y_step);
      for (; row < last; ++row) dot_rows<Product, 1, 2>(w, product, row, token, space, y, y_step);
      token += 2;
    }
  }
  return true;
}

static bool dot_floats_avx512(const PackedRows& w, std::size_t first, std::size_t last, const FloatRows& x, float* space,
                              float* y, std::size_t y_step) {
  if (!suits(w)) return false;
  const Table table = table_of(w);
  const auto all = [&]<int bits, bool by_plane>() {
    const auto look = [&]<Look how>() {
      return dot_all(w, FloatProduct<Codes<bits, by_plane>, how>{w, x, table}, first, last, x.m, space, y, y_step);
    };
    if constexpr (bits <= 4) {
      return look.template operator()<Look::in16>();
    } else if constexpr (bits == 5) {
      return look.template operator()<Look::in32>();
    } else {
      return w.linear ? look.template operator()<Look::linear>() : look.template operator()<Look::memory>();
    }
  };
#define TERCILE_CALL(b, p) return all.template operator()<b, p>()
  TERCILE_BY_CODES(w, TERCILE_CALL)
#undef TERCILE_CALL
}

static bool dot_wholes_avx512(const PackedRows& w, std::size_t first, std::size_t last, const WholeRows& x, float* space,
                              float* y, std::size_t y_step) {
  if (!suits(w)) return dot_wholes_plain(w, first, last, x, space, y, y_step);
#define TERCILE_CALL(b, p)                                                                                          \
  if (!w.whole) return dot_all(w, WholeProduct<Codes<b, p>, false>{w, x, {}}, first, last, x.m, space, y, y_step);   \
  WholeProduct<Codes<b, p>, true> product{w, x, {}};                                                                \
  for (int i = 0; i < 4; ++i) product.map[i] = _mm512_loadu_si512(w.whole + 64 * i);                                 \
  return dot_all(w, product, first, last, x.m, space, y, y_step)
  TERCILE_BY_CODES(w, TERCILE_CALL)
#undef TERCILE_CALL
}

}  // namespace tercile::TERCILE_TARGET
