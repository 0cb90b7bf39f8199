// Distances between a few queries and rows of stored vectors. The last bits depend on the instruction set, as products
// and sums are fused where it can: what is reported in the end is computed again, in double precision.
#pragma once
#include "lanes.hpp"
#if defined(__FMA__) || defined(__F16C__)
#include <immintrin.h>
#endif

namespace tercile::TERCILE_TARGET {

// As many floats as one register holds, and how many queries meet how many rows in the registers at once.
#if defined(__AVX512F__)
constexpr int kWide = 16, kQueries = 4, kRows = 4;
#else
constexpr int kWide = 8, kQueries = 2, kRows = 4;
#endif
typedef float Wide __attribute__((vector_size(4 * kWide)));
typedef float Eight __attribute__((vector_size(32)));
typedef float Four __attribute__((vector_size(16)));

TERCILE_INLINE Wide fused(Wide a, Wide b, Wide sum) {
#if defined(__AVX512F__)
  return (Wide)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)sum);
#elif defined(__FMA__)
  return (Wide)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)sum);
#else
  return a * b + sum;
#endif
}

TERCILE_INLINE Four folded(Wide a) {
#if defined(__AVX512F__)
  const Eight eight = __builtin_shufflevector(a, a, 0, 1, 2, 3, 4, 5, 6, 7) +
                      __builtin_shufflevector(a, a, 8, 9, 10, 11, 12, 13, 14, 15);
#else
  const Eight eight = a;
#endif
  return __builtin_shufflevector(eight, eight, 0, 1, 2, 3) + __builtin_shufflevector(eight, eight, 4, 5, 6, 7);
}

// The sums of four registers, side by side.
TERCILE_INLINE Four sums(Wide a, Wide b, Wide c, Wide d) {
  const Four p = folded(a), q = folded(b), r = folded(c), s = folded(d);
  const Four pq = __builtin_shufflevector(p, q, 0, 1, 4, 5) + __builtin_shufflevector(p, q, 2, 3, 6, 7);
  const Four rs = __builtin_shufflevector(r, s, 0, 1, 4, 5) + __builtin_shufflevector(r, s, 2, 3, 6, 7);
  return __builtin_shufflevector(pq, rs, 0, 2, 4, 6) + __builtin_shufflevector(pq, rs, 1, 3, 5, 7);
}

static inline float half_to_float(std::uint16_t half) {
  const std::uint32_t sign = std::uint32_t(half & 0x8000) << 16, magnitude = half & 0x7fff;
  std::uint32_t bits = sign | (magnitude << 13);
  float value;
  if (magnitude < 0x400) {  // subnormal: a multiple of 2^-24
    value = float(magnitude) * 5.9604644775390625e-8f;
    return sign ? -value : value;
  }
  bits += magnitude >= 0x7c00 ? 0x70000000u : 0x38000000u;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}

TERCILE_INLINE Wide wide_of(const std::uint16_t* from) {
#if defined(__AVX512F__)
  return (Wide)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)from));
#elif defined(__F16C__)
  return (Wide)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)from));
#else
  Wide wide;
  for (int i = 0; i < kWide; ++i) wide[i] = half_to_float(from[i]);
  return wide;
#endif
}

TERCILE_INLINE Wide wide_of(const float* from) {
  Wide wide;
  __builtin_memcpy(&wide, from, sizeof wide);
  return wide;
}

TERCILE_INLINE Wide wide_of(const std::uint8_t* from) {  // GCC would widen the bytes one by one
#if defined(__AVX512F__)
  return (Wide)_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)from)));
#elif defined(__AVX2__)
  return (Wide)_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)from)));
#else
  typedef std::uint8_t Bytes __attribute__((vector_size(kWide)));
  Bytes bytes;
  __builtin_memcpy(&bytes, from, sizeof bytes);
  return __builtin_convertvector(bytes, Wide);
#endif
}

// `kWide` values of a row from dimension i on; what lies beyond the last dimension is 0.
template <typename Stored>
TERCILE_INLINE Wide row_part(const StoredRows& rows, const Stored* row, std::size_t i) {
  Wide part;
  if (i + kWide <= rows.dimension) {
    part = wide_of(row + i);
  } else {
    Stored rest[kWide] = {};
    __builtin_memcpy(rest, row + i, (rows.dimension - i) * sizeof(Stored));
    part = wide_of(rest);
  }
  if constexpr (sizeof(Stored) == 1) part = fused(part, wide_of(rows.scale + i), wide_of(rows.offset + i));
  return part;
}

template <typename Stored, bool squared, int queries>
TERCILE_INLINE void tile(const float* query, std::size_t stride, const StoredRows& rows, const std::uint32_t* which,
                         float* out, std::size_t out_stride) {
  const Stored* row[kRows];
  for (int r = 0; r < kRows; ++r) row[r] = static_cast<const Stored*>(rows.data) + which[r] * rows.dimension;
  Wide sum[queries][kRows] = {};
  for (std::size_t i = 0; i < rows.dimension; i += kWide) {
    Wide x[kRows];
    for (int r = 0; r < kRows; ++r) x[r] = row_part(rows, row[r], i);
    for (int q = 0; q < queries; ++q) {
      const Wide y = wide_of(query + q * stride + i);
      for (int r = 0; r < kRows; ++r) {
        if constexpr (squared) {
          const Wide difference = x[r] - y;
          sum[q][r] = fused(difference, difference, sum[q][r]);
        } else {
          sum[q][r] = fused(x[r], y, sum[q][r]);
        }
      }
    }
  }
  for (int q = 0; q < queries; ++q) {
    Four four = sums(sum[q][0], sum[q][1], sum[q][2], sum[q][3]);
    if constexpr (!squared) four = -four;
    __builtin_memcpy(out + q * out_stride, &four, sizeof four);
  }
}

template <typename Stored, bool squared>
static void distances_of(const float* query, std::size_t queries, std::size_t stride, const StoredRows& rows,
                         const std::uint32_t* which, std::size_t count, float* out, std::size_t out_stride) {
  for (std::size_t r = 0; r < count; r += kRows) {
    std::uint32_t four[kRows];  // a tile that is not full repeats its last row
    for (std::size_t i = 0; i < kRows; ++i) four[i] = which[r + i < count ? r + i : count - 1];
    std::size_t q = 0;
    for (; q + kQueries <= queries; q += kQueries)
      tile<Stored, squared, kQueries>(query + q * stride, stride, rows, four, out + q * out_stride + r, out_stride);
    for (; q < queries; ++q)
      tile<Stored, squared, 1>(query + q * stride, stride, rows, four, out + q * out_stride + r, out_stride);
  }
}

// Sums of the entries that a row's codes pick from a query's table. Codes are read eight at a time, for what limits this
// is the number of reads; and a part of the table that stays in the nearest cache meets all rows before the next part.
static void table_distances(const float* tables, std::size_t queries, std::size_t stride, const StoredRows& rows,
                            const std::uint32_t* which, std::size_t count, float* out, std::size_t out_stride) {
  constexpr std::size_t kParts = 16;
  const std::uint8_t* codes = static_cast<const std::uint8_t*>(rows.data);
  const std::size_t parts = rows.dimension;
  for (std::size_t q = 0; q < queries; ++q) {
    float* to = out + q * out_stride;
    for (std::size_t begin = 0; begin < parts; begin += kParts) {
      const float* table = tables + q * stride + 256 * begin;
      const std::size_t here = parts - begin < kParts ? parts - begin : kParts;
      for (std::size_t r = 0; r < count; ++r) {
        const std::uint8_t* code = codes + which[r] * parts + begin;
        float sum[4] = {};  // sums that do not wait for each other
        std::size_t part = 0;
        for (; part + 8 <= here; part += 8) {
          std::uint64_t eight;
          __builtin_memcpy(&eight, code + part, sizeof eight);
          const float* entries = table + 256 * part;
          for (int i = 0; i < 8; ++i) sum[i % 4] += entries[256 * i + (eight >> (8 * i) & 255)];
        }
        for (; part < here; ++part) sum[part % 4] += table[256 * part + code[part]];
        const float all = (sum[0] + sum[1]) + (sum[2] + sum[3]);
        to[r] = begin ? to[r] + all : all;
      }
    }
  }
}

static void row_distances(const float* query, std::size_t queries, std::size_t stride, const StoredRows& rows,
                          const std::uint32_t* which, std::size_t count, float* out, std::size_t out_stride) {
  const auto of = [&](auto distances) { distances(query, queries, stride, rows, which, count, out, out_stride); };
  if (rows.kind == StoredRows::table) return of(table_distances);
  if (rows.kind == StoredRows::float32) return rows.squared ? of(distances_of<float, true>) : of(distances_of<float, false>);
  if (rows.kind == StoredRows::float16)
    return rows.squared ? of(distances_of<std::uint16_t, true>) : of(distances_of<std::uint16_t, false>);
  return rows.squared ? of(distances_of<std::uint8_t, true>) : of(distances_of<std::uint8_t, false>);
}

static void list_bounds(const float* product, std::size_t lists, float query_norm, const float* center_norm,
                        const float* spread, const float* variance, const float* lateral, float z, bool squared,
                        float* out) {
  if (squared) {
    for (std::size_t c = 0; c < lists; ++c) {
      const float apart = query_norm + center_norm[c] - 2 * product[c];
      const float distance = apart > 0 ? apart : 0;
      out[c] = distance + spread[c] - z * __builtin_sqrtf(variance[c] + 4 * distance * lateral[c]);
    }
  } else {
    for (std::size_t c = 0; c < lists; ++c) out[c] = -product[c] - z * __builtin_sqrtf(query_norm * lateral[c]);
  }
}

// Products of rows with vectors that are packed sixteen side by side: packed[block][dimension][lane].
template <int rows>
TERCILE_INLINE void packed_tile(const float* x, std::size_t dimension, const float* packed, float* out,
                                std::size_t out_stride) {
  constexpr int parts = kLanes / kWide;
  Wide sum[rows][parts] = {};
  for (std::size_t i = 0; i < dimension; ++i) {
    for (int p = 0; p < parts; ++p) {
      const Wide y = wide_of(packed + i * kLanes + p * kWide);
      for (int r = 0; r < rows; ++r) sum[r][p] = fused(Wide{} + x[r * dimension + i], y, sum[r][p]);
    }
  }
  for (int r = 0; r < rows; ++r) __builtin_memcpy(out + r * out_stride, sum[r], sizeof sum[r]);
}

static void packed_products(const float* x, std::size_t rows, std::size_t dimension, const float* packed,
                            std::size_t blocks, float* out) {
  constexpr std::size_t together = kWide == 16 ? 8 : 4;
  for (std::size_t block = 0; block < blocks; ++block) {
    const float* of_block = packed + block * dimension * kLanes;
    float* to = out + block * kLanes;
    std::size_t r = 0;
    for (; r + together <= rows; r += together)
      packed_tile<together>(x + r * dimension, dimension, of_block, to + r * blocks * kLanes, blocks * kLanes);
    for (; r < rows; ++r)
      packed_tile<1>(x + r * dimension, dimension, of_block, to + r * blocks * kLanes, blocks * kLanes);
  }
}

}  // namespace tercile::TERCILE_TARGET
