// Products on codes as they are stored, by AVX-512 with VBMI and VNNI.
//
// 64 codes of b bits are 8 b bytes. One permutation gives each 64-bit lane the b bytes of its eight codes, one multishift
// takes the codes out of it: every width is unpacked by three instructions, from the words as they lie in the file.
#pragma once
#include <immintrin.h>

#include "packed_panels.hpp"
#include "packed_plain.hpp"

namespace tercile::TERCILE_TARGET {

struct Spread {
  alignas(64) std::uint8_t from[9][64], shift[9][64];
  constexpr Spread() : from{}, shift{} {
    for (int bits = 1; bits <= 8; ++bits)
      for (int i = 0; i < 64; ++i) {
        from[bits][i] = static_cast<std::uint8_t>((i / 8 * bits + i % 8) & 63);
        shift[bits][i] = static_cast<std::uint8_t>(bits * (i % 8));
      }
  }
};
static constexpr Spread kSpread;

template <int bits>
TERCILE_INLINE __m512i unpack(__m512i raw) {
  if constexpr (bits == 8) return raw;
  const __m512i spread = _mm512_permutexvar_epi8(_mm512_load_si512(kSpread.from[bits]), raw);
  const __m512i shifted = _mm512_multishift_epi64_epi8(_mm512_load_si512(kSpread.shift[bits]), spread);
  return _mm512_and_si512(shifted, _mm512_set1_epi8(static_cast<char>((1 << bits) - 1)));
}

// Codes of a whole run.
template <int bits>
TERCILE_INLINE __m512i run_codes(const std::uint8_t* from) {
  constexpr std::uint64_t full = bits == 8 ? ~std::uint64_t{0} : (std::uint64_t{1} << (8 * bits)) - 1;
  return unpack<bits>(_mm512_maskz_loadu_epi8(full, from));
}

// Codes of a row's last run, which has less than 8 * bits bytes; beyond them codes are 0.
template <int bits>
TERCILE_INLINE __m512i last_codes(const std::uint8_t* from, std::size_t bytes) {
  if (bytes >= 8 * bits) return run_codes<bits>(from);
  return unpack<bits>(_mm512_maskz_loadu_epi8((std::uint64_t{1} << bytes) - 1, from));
}

template <int bits>
static void codes_of(const PackedRows& w, std::size_t row, std::size_t first, std::size_t count, std::uint8_t* out) {
  const std::uint8_t* from = w.words + row * w.row_bytes;
  std::size_t c = 0, at = first / 8 * bits;
  for (; c + kRun <= count; c += kRun, at += 8 * bits) _mm512_storeu_si512(out + c, run_codes<bits>(from + at));
  if (c < count) _mm512_storeu_si512(out + c, last_codes<bits>(from + at, w.row_bytes - at));
}

#define TERCILE_BY_BITS(bits, call) \
  switch (bits) {                   \
    case 1: call(1);                \
    case 2: call(2);                \
    case 3: call(3);                \
    case 4: call(4);                \
    case 5: call(5);                \
    case 6: call(6);                \
    case 7: call(7);                \
    default: call(8);               \
  }

static void codes_avx512(const PackedRows& w, std::size_t row, std::size_t first, std::size_t count, std::uint8_t* out) {
#define TERCILE_CALL(b) return codes_of<b>(w, row, first, count, out)
  TERCILE_BY_BITS(w.bits, TERCILE_CALL)
#undef TERCILE_CALL
}

// How codes become floats: by a table of 16 or of 32 in registers, by arithmetic, or by looking them up in memory.
enum class Look { in16, in32, linear, memory };

TERCILE_INLINE Look look_of(const PackedRows& w) {
  return w.bits <= 4 ? Look::in16 : w.linear ? Look::linear : w.bits == 5 ? Look::in32 : Look::memory;
}

struct Table {
  __m512 low, high;
  __m512i base;
  const float* memory;
};

TERCILE_INLINE Table table_of(const PackedRows& w) {
  return {_mm512_loadu_ps(w.table), _mm512_loadu_ps(w.table + 16), _mm512_set1_epi32(w.base), w.table};
}

// Values of the codes in the lowest byte of each lane; what lies above it is 0 or, for tables in registers, ignored.
template <Look look>
TERCILE_INLINE __m512 value_of(__m512i code, const Table& table) {
  if constexpr (look == Look::in16) return _mm512_permutexvar_ps(code, table.low);
  if constexpr (look == Look::in32) return _mm512_permutex2var_ps(table.low, code, table.high);
  if constexpr (look == Look::linear) return _mm512_cvtepi32_ps(_mm512_sub_epi32(code, table.base));
  return _mm512_i32gather_ps(code, table.memory, 4);
}

// Code j of every quad of a run, in the lowest byte of its lane.
template <Look look, int j>
TERCILE_INLINE __m512i of_quads(__m512i codes) {
  const __m512i low = j ? _mm512_srli_epi32(codes, 8 * j) : codes;
  if constexpr (look == Look::in16 || look == Look::in32 || j == 3) return low;
  return _mm512_and_si512(low, _mm512_set1_epi32(255));
}

template <Look look>
static void values_by(const PackedRows& w, const std::uint8_t* codes, std::size_t count, float* out) {
  const Table table = table_of(w);
  std::size_t i = 0;
  for (; i + 16 <= count; i += 16)
    _mm512_storeu_ps(out + i, value_of<look>(
                                  _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + i))), table));
  for (; i < count; ++i) out[i] = w.table[codes[i]];
}

static void values_avx512(const PackedRows& w, const std::uint8_t* codes, std::size_t count, float* out) {
  switch (look_of(w)) {
    case Look::in16: return values_by<Look::in16>(w, codes, count, out);
    case Look::in32: return values_by<Look::in32>(w, codes, count, out);
    case Look::linear: return values_by<Look::linear>(w, codes, count, out);
    default: return values_by<Look::memory>(w, codes, count, out);
  }
}

// The four floats of a quad go to the same lane of four registers, as its codes do.
static void arrange_avx512(const float* x, std::size_t columns, float* out) {
  for (std::size_t c = 0; c < runs_of(columns) * kRun; ++c) {
    const std::size_t at = c / kRun * kRun + c % 4 * 16 + c % kRun / 4;
    out[at] = c < columns ? x[c] : 0.0f;
  }
}

// Scales of a row's blocks as floats.
TERCILE_INLINE void row_scales(const PackedRows& w, std::size_t row, float* out) {
  const std::size_t at = row / w.tall * w.across;
  std::size_t b = 0;
  if (w.scale) {
    for (; b < w.across; ++b) out[b] = w.scale[at + b];
    return;
  }
  for (; b + 16 <= w.across; b += 16)
    _mm512_storeu_ps(out + b, _mm512_cvtph_ps(_mm256_loadu_si256(
                                  reinterpret_cast<const __m256i*>(w.half_scale + at + b))));
  for (; b < w.across; ++b) out[b] = _cvtsh_ss(w.half_scale[at + b]);
}

TERCILE_INLINE float offsets_of(const PackedRows& w, std::size_t row, const float* sums) {
  return w.offset ? dot_lanes(w.offset + row / w.tall * w.across, sums, w.across) : 0.0f;
}

// What both products share, for some rows and some tokens at once. A block of whole runs is summed and
// then scaled; of narrower blocks each run is scaled quad by quad.
template <typename Product, int rows, int tokens>
static void dot_rows(const PackedRows& w, const Product& product, std::size_t row, std::size_t token, float* space,
                     float* y, std::size_t y_step) {
  const std::size_t gap = w.across + 16, runs = runs_of(w.columns), full = w.columns / kRun;
  const std::uint8_t* words[rows];
  for (int r = 0; r < rows; ++r) {
    words[r] = w.words + (row + r) * w.row_bytes;
    row_scales(w, row + r, space + r * gap);
  }
  __m512 total[rows][tokens];
#pragma GCC unroll 4
  for (int r = 0; r < rows; ++r)
#pragma GCC unroll 4
    for (int t = 0; t < tokens; ++t) total[r][t] = _mm512_setzero_ps();
  // The rows that come next are asked for in time: what the processor foresees by itself reaches half the bandwidth.
  const std::size_t ahead = rows * w.row_bytes;
  const auto prefetch = [&](int r, std::size_t run, std::size_t end) __attribute__((always_inline)) {
    for (std::size_t at = run * 8 * Product::kBits; at < end * 8 * Product::kBits; at += 64)
      _mm_prefetch(reinterpret_cast<const char*>(words[r]) + ahead + at, _MM_HINT_T0);
  };
  const auto load = [&](int r, std::size_t run) __attribute__((always_inline)) {
    return run_codes<Product::kBits>(words[r] + run * 8 * Product::kBits);
  };
  const auto load_last = [&](int r, std::size_t run) __attribute__((always_inline)) {
    const std::size_t at = run * 8 * Product::kBits;
    return last_codes<Product::kBits>(words[r] + at, w.row_bytes - at);
  };
  if (!w.quad_block) {
    const std::size_t in_block = w.across == 1 ? runs : w.wide / kRun;
    for (std::size_t block = 0, run = 0; block < w.across; ++block) {
      typename Product::Sum sum[rows][tokens];
#pragma GCC unroll 4
      for (int r = 0; r < rows; ++r)
#pragma GCC unroll 4
        for (int t = 0; t < tokens; ++t) sum[r][t] = product.begin(token + t, block);
      const std::size_t end = run + in_block < runs ? run + in_block : runs, whole = end < full ? end : full;
#pragma GCC unroll 4
      for (int r = 0; r < rows; ++r) prefetch(r, run, end);
      for (; run < whole; ++run)
#pragma GCC unroll 4
        for (int r = 0; r < rows; ++r) product.template add<tokens>(load(r, run), token, run, sum[r]);
      for (; run < end; ++run)
#pragma GCC unroll 4
        for (int r = 0; r < rows; ++r) product.template add<tokens>(load_last(r, run), token, run, sum[r]);
#pragma GCC unroll 4
      for (int r = 0; r < rows; ++r) {
        const __m512 scale = _mm512_set1_ps(space[r * gap + block]);
#pragma GCC unroll 4
        for (int t = 0; t < tokens; ++t) total[r][t] = _mm512_fmadd_ps(Product::real(sum[r][t]), scale, total[r][t]);
      }
    }
  } else {
    const auto one = [&](std::size_t run, const auto& codes_at) __attribute__((always_inline)) {
      const __m512i block_of = _mm512_loadu_si512(w.quad_block + run * 16);
      const std::size_t block = run * kRun / w.wide;
#pragma GCC unroll 4
      for (int r = 0; r < rows; ++r) {
        const __m512 scale = _mm512_permutexvar_ps(block_of, _mm512_loadu_ps(space + r * gap + block));
        prefetch(r, run, run + 1);
        typename Product::Sum sum[tokens];
#pragma GCC unroll 4
        for (int t = 0; t < tokens; ++t) sum[t] = product.begin(token + t, run);
        product.template add<tokens>(codes_at(r, run), token, run, sum);
#pragma GCC unroll 4
        for (int t = 0; t < tokens; ++t) total[r][t] = _mm512_fmadd_ps(Product::real(sum[t]), scale, total[r][t]);
      }
    };
    for (std::size_t run = 0; run < full; ++run) one(run, load);
    if (full < runs) one(full, load_last);
  }
#pragma GCC unroll 4
  for (int r = 0; r < rows; ++r)
#pragma GCC unroll 4
    for (int t = 0; t < tokens; ++t)
      y[(token + t) * y_step + row + r] = product.end(_mm512_reduce_add_ps(total[r][t]), token + t, row + r);
}

template <int bits, Look look>
struct FloatProduct {
  static constexpr int kBits = bits;
  using Sum = __m512;
  const PackedRows& w;
  const FloatRows& x;
  Table table;

  __attribute__((always_inline)) static __m512 real(Sum sum) { return sum; }
  __attribute__((always_inline)) Sum begin(std::size_t, std::size_t) const { return _mm512_setzero_ps(); }
  template <int tokens>
  __attribute__((always_inline)) void add(__m512i codes, std::size_t token, std::size_t run, Sum* sum) const {
    const __m512 value[4] = {value_of<look>(of_quads<look, 0>(codes), table), value_of<look>(of_quads<look, 1>(codes), table),
                             value_of<look>(of_quads<look, 2>(codes), table), value_of<look>(of_quads<look, 3>(codes), table)};
#pragma GCC unroll 4
    for (int t = 0; t < tokens; ++t) {
      const float* from = x.x + (token + t) * x.step + run * kRun;
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) sum[t] = _mm512_fmadd_ps(value[j], _mm512_loadu_ps(from + 16 * j), sum[t]);
    }
  }
  float end(float total, std::size_t token, std::size_t row) const {
    return total + offsets_of(w, row, x.sums + token * w.across);
  }
};

template <int bits, bool mapped>
struct WholeProduct {
  static constexpr int kBits = bits;
  using Sum = __m512i;
  const PackedRows& w;
  const WholeRows& x;
  __m512i map[4];

  __attribute__((always_inline)) static __m512 real(Sum sum) { return _mm512_cvtepi32_ps(sum); }
  __attribute__((always_inline)) Sum begin(std::size_t token, std::size_t part) const {
    return _mm512_loadu_si512(x.start + (token * x.parts + part) * 16);
  }
  template <int tokens>
  __attribute__((always_inline)) void add(__m512i codes, std::size_t token, std::size_t run, Sum* sum) const {
    if constexpr (mapped && bits <= 6) codes = _mm512_permutexvar_epi8(codes, map[0]);
    if constexpr (mapped && bits == 7) codes = _mm512_permutex2var_epi8(map[0], codes, map[1]);
    if constexpr (mapped && bits == 8)
      codes = _mm512_mask_blend_epi8(_mm512_movepi8_mask(codes), _mm512_permutex2var_epi8(map[0], codes, map[1]),
                                     _mm512_permutex2var_epi8(map[2], codes, map[3]));
#pragma GCC unroll 4
    for (int t = 0; t < tokens; ++t)
      sum[t] = _mm512_dpbusd_epi32(sum[t], codes, _mm512_loadu_si512(x.x + (token + t) * x.step + run * kRun));
  }
  float end(float total, std::size_t token, std::size_t row) const {
    return total * (w.unit * x.scale[token]) + offsets_of(w, row, x.sums + token * w.across);
  }
};

template <typename Product>
static bool dot_all(const PackedRows& w, const Product& product, std::size_t first, std::size_t last, std::size_t m,
                    float* space, float* y, std::size_t y_step) {
  for (std::size_t token = 0; token < m;) {
    std::size_t row = first;
    if (m - token == 1) {
      for (; row + 4 <= last; row += 4) dot_rows<Product, 4, 1>(w, product, row, token, space, y, y_step);
      for (; row < last; ++row) dot_rows<Product, 1, 1>(w, product, row, token, space, y, y_step);
      token += 1;
    } else {
      for (; row + 2 <= last; row += 2) dot_rows<Product, 2, 2>(w, product, row, token, space, y, y_step);
      for (; row < last; ++row) dot_rows<Product, 1, 2>(w, product, row, token, space, y, y_step);
      token += 2;
    }
  }
  return true;
}

TERCILE_INLINE bool suits(const PackedRows& w) { return w.across == 1 || w.wide % kRun == 0 || w.quad_block; }

static bool dot_floats_avx512(const PackedRows& w, std::size_t first, std::size_t last, const FloatRows& x, float* space,
                              float* y, std::size_t y_step) {
  if (!suits(w)) return false;
  const Table table = table_of(w);
#define TERCILE_DOT(b, look) \
  return dot_all(w, FloatProduct<b, Look::look>{w, x, table}, first, last, x.m, space, y, y_step)
  const bool linear = w.linear;
  switch (w.bits) {
    case 1: TERCILE_DOT(1, in16);
    case 2: TERCILE_DOT(2, in16);
    case 3: TERCILE_DOT(3, in16);
    case 4: TERCILE_DOT(4, in16);
    case 5: TERCILE_DOT(5, in32);
    case 6: if (linear) TERCILE_DOT(6, linear); else TERCILE_DOT(6, memory);
    case 7: if (linear) TERCILE_DOT(7, linear); else TERCILE_DOT(7, memory);
    default: if (linear) TERCILE_DOT(8, linear); else TERCILE_DOT(8, memory);
  }
#undef TERCILE_DOT
}

static bool dot_wholes_avx512(const PackedRows& w, std::size_t first, std::size_t last, const WholeRows& x, float* space,
                              float* y, std::size_t y_step) {
  if (!suits(w)) return dot_wholes_plain(w, first, last, x, space, y, y_step);
#define TERCILE_CALL(b)                                                                                         \
  {                                                                                                             \
    if (!w.whole) return dot_all(w, WholeProduct<b, false>{w, x, {}}, first, last, x.m, space, y, y_step);        \
    WholeProduct<b, true> product{w, x, {}};                                                                    \
    for (int i = 0; i < 4; ++i) product.map[i] = _mm512_loadu_si512(w.whole + 64 * i);                          \
    return dot_all(w, product, first, last, x.m, space, y, y_step);                                             \
  }
  TERCILE_BY_BITS(w.bits, TERCILE_CALL)
#undef TERCILE_CALL
}

// 16 rows of 16 dwords become 16 columns: pairs, fours, and then quarters of a register.
TERCILE_INLINE void transpose(__m512i r[16]) {
  __m512i t[16];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
    r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
    r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
    r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
    r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
    r[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
    r[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
  }
}

// Dwords of 16 rows from `rows` on, a square at a time, to columns of `wide` dwords.
TERCILE_INLINE void turn(const void* rows, std::size_t step, std::size_t dwords, std::int32_t* out, std::size_t wide) {
  const std::int32_t* from = static_cast<const std::int32_t*>(rows);
  for (std::size_t c = 0; c < dwords; c += 16) {
    const std::size_t some = dwords - c < 16 ? dwords - c : 16;
    const __mmask16 mask = static_cast<__mmask16>((1u << some) - 1u);
    __m512i square[16];
#pragma GCC unroll 16
    for (int r = 0; r < 16; ++r) square[r] = _mm512_maskz_loadu_epi32(mask, from + r * step + c);
    transpose(square);
#pragma GCC unroll 16
    for (int r = 0; r < 16; ++r)
      if (static_cast<std::size_t>(r) < some) _mm512_storeu_si512(out + (c + r) * wide, square[r]);
  }
}

static void panel_floats_avx512(const float* rows, std::size_t step, std::size_t columns, float* panel) {
  for (int half = 0; half < kPanelLanes; ++half)
    turn(rows + half * 16 * step, step, columns, reinterpret_cast<std::int32_t*>(panel) + half * 16, kPanelRows);
}

static void panel_bytes_avx512(const std::uint8_t* rows, std::size_t step, std::size_t columns, std::uint8_t* panel) {
  for (int half = 0; half < kPanelLanes; ++half)
    turn(rows + half * 16 * step, step / 4, columns / 4, reinterpret_cast<std::int32_t*>(panel) + half * 16, kPanelRows);
}

template <int tokens>
static void multiply_whole_tokens(const std::int8_t* x, std::size_t x_step, const std::uint8_t* panel, std::size_t columns,
                                  const std::int32_t* start, std::size_t start_step, const float* scale, float* y,
                                  std::size_t y_step) {
  __m512i sum[tokens][2];
#pragma GCC unroll 16
  for (int t = 0; t < tokens; ++t) sum[t][0] = sum[t][1] = _mm512_set1_epi32(start[t * start_step]);
  for (std::size_t c = 0; c < columns; c += 4) {
    const __m512i w0 = _mm512_loadu_si512(panel + c * kPanelRows), w1 = _mm512_loadu_si512(panel + c * kPanelRows + 64);
#pragma GCC unroll 16
    for (int t = 0; t < tokens; ++t) {
      std::int32_t quad;
      __builtin_memcpy(&quad, x + t * x_step + c, 4);
      const __m512i value = _mm512_set1_epi32(quad);
      sum[t][0] = _mm512_dpbusd_epi32(sum[t][0], w0, value);
      sum[t][1] = _mm512_dpbusd_epi32(sum[t][1], w1, value);
    }
  }
  const __m512 s0 = _mm512_loadu_ps(scale), s1 = _mm512_loadu_ps(scale + 16);
#pragma GCC unroll 16
  for (int t = 0; t < tokens; ++t) {
    float* to = y + t * y_step;
    _mm512_storeu_ps(to, _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[t][0]), s0, _mm512_loadu_ps(to)));
    _mm512_storeu_ps(to + 16, _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[t][1]), s1, _mm512_loadu_ps(to + 16)));
  }
}

template <int tokens>
static void multiply_whole_some(int some, const std::int8_t* x, std::size_t x_step, const std::uint8_t* panel,
                                std::size_t columns, const std::int32_t* start, std::size_t start_step,
                                const float* scale, float* y, std::size_t y_step) {
  if (some == tokens)
    return multiply_whole_tokens<tokens>(x, x_step, panel, columns, start, start_step, scale, y, y_step);
  if constexpr (tokens > 1)
    multiply_whole_some<tokens - 1>(some, x, x_step, panel, columns, start, start_step, scale, y, y_step);
}

static void multiply_bytes_avx512(const std::int8_t* x, std::size_t x_step, std::size_t m, const std::uint8_t* panel,
                                  std::size_t columns, const std::int32_t* start, std::size_t start_step,
                                  const float* scale, float* y, std::size_t y_step) {
  each_piece(m, kMostTokens, [&](std::size_t t, int some) {
    multiply_whole_some<kMostTokens>(some, x + t * x_step, x_step, panel, columns, start + t * start_step, start_step,
                                     scale, y + t * y_step, y_step);
  });
}

// Codes of a row that starts at any bit: each 64-bit lane gets the bytes that its eight codes lie in, and the multishift
// starts at the odd bits. A code of the trellis has at most 5 bits, so eight and 7 odd bits fit a lane.
static void shift_in_avx512(const std::uint8_t* words, std::size_t bytes, std::size_t at, int bits, std::size_t columns,
                            std::uint16_t mask, std::uint16_t* state) {
  const __m512i from = _mm512_load_si512(kSpread.from[bits]);
  const __m512i shift = _mm512_add_epi8(_mm512_load_si512(kSpread.shift[bits]), _mm512_set1_epi8(static_cast<char>(at % 8)));
  const __m512i code_mask = _mm512_set1_epi8(static_cast<char>((1 << bits) - 1));
  const __m512i state_mask = _mm512_set1_epi16(static_cast<short>(mask));
  const __m128i by = _mm_cvtsi32_si128(bits);
  for (std::size_t c = 0; c < columns; c += kRun) {
    const std::size_t start = at / 8 + c / 8 * bits, left = bytes - start;
    const std::uint64_t some = left >= 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << left) - 1;
    const __m512i raw = _mm512_maskz_loadu_epi8(some, words + start);
    const __m512i codes =
        _mm512_and_si512(_mm512_multishift_epi64_epi8(shift, _mm512_permutexvar_epi8(from, raw)), code_mask);
    for (int half = 0; half < 2; ++half) {
      const std::size_t place = c + 32 * half;
      if (place >= columns) break;
      const __mmask32 lanes = columns - place >= 32 ? ~__mmask32{0} : (__mmask32{1} << (columns - place)) - 1;
      const __m512i old = _mm512_maskz_loadu_epi16(lanes, state + place);
      const __m512i code =
          _mm512_cvtepu8_epi16(half ? _mm512_extracti64x4_epi64(codes, 1) : _mm512_castsi512_si256(codes));
      _mm512_mask_storeu_epi16(state + place, lanes,
                               _mm512_and_si512(_mm512_or_si512(_mm512_sll_epi16(old, by), code), state_mask));
    }
  }
}

}  // namespace tercile::TERCILE_TARGET
