// Codes as they are stored become bytes or floats, by AVX-512 with VBMI.
//
// Any width: 64 codes of b bits are 8 b bytes. One permutation gives each 64-bit lane the b bytes of its eight codes, one
// multishift takes the codes out of it.
//
// Widths of 1, 2 and 4 bits, plane by plane: each byte of 64 holds 8 / b codes, and plane p is bits [b p, b p + b) of all
// of them; a mask, or a product of each byte with a matrix of bits. What they are multiplied with is put into that order
// once.
#pragma once
#include <immintrin.h>

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

// The same where no less than 32 bytes can be read: without a mask.
template <int bits>
TERCILE_INLINE __m512i inner_codes(const std::uint8_t* from) {
  if constexpr (bits > 4) return run_codes<bits>(from);
  return unpack<bits>(_mm512_castsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))));
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
  __m512 low, high;  // of codes below 4 bits: repeated, so that what lies above a code does not matter
  __m512i base;
  const float* memory;
};

TERCILE_INLINE Table table_of(const PackedRows& w) {
  const __m512i each = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  const __m512i index = w.bits < 4 ? _mm512_and_si512(each, _mm512_set1_epi32((1 << w.bits) - 1)) : each;
  return {_mm512_permutexvar_ps(index, _mm512_loadu_ps(w.table)), _mm512_loadu_ps(w.table + 16), _mm512_set1_epi32(w.base),
          w.table};
}

// Values of the codes in the lowest bits of each lane; what lies above them is 0 or, for tables in registers, ignored.
template <Look look>
TERCILE_INLINE __m512 value_of(__m512i code, const Table& table) {
  if constexpr (look == Look::in16) return _mm512_permutexvar_ps(code, table.low);
  if constexpr (look == Look::in32) return _mm512_permutex2var_ps(table.low, code, table.high);
  if constexpr (look == Look::linear) return _mm512_cvtepi32_ps(_mm512_sub_epi32(code, table.base));
  return _mm512_i32gather_ps(code, table.memory, 4);
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

// Calls body with each of 0 ... n - 1 as a number known to the compiler.
template <int i>
struct Number {
  constexpr operator int() const { return i; }
};

template <int n, typename Body>
TERCILE_INLINE void each_of(Body body) {
  if constexpr (n > 0) {
    each_of<n - 1>(body);
    body(Number<n - 1>{});
  }
}

// Whole numbers in place of codes, from a map of 256 in four registers.
template <int bits>
TERCILE_INLINE __m512i mapped_codes(__m512i codes, const __m512i map[4]) {
  if constexpr (bits <= 6) return _mm512_permutexvar_epi8(codes, map[0]);
  const __m512i low = _mm512_permutex2var_epi8(map[0], codes, map[1]);
  if constexpr (bits == 7) return low;
  return _mm512_mask_blend_epi8(_mm512_movepi8_mask(codes), low, _mm512_permutex2var_epi8(map[2], codes, map[3]));
}

// Sums are kept as lanes of 32 bits: as __m512i, GCC writes each to memory whenever it changes.
TERCILE_INLINE IntLanes add_products(IntLanes sum, __m512i codes, __m512i x) {
  return reinterpret_cast<IntLanes>(_mm512_dpbusd_epi32(reinterpret_cast<__m512i>(sum), codes, x));
}

TERCILE_INLINE __m512 real_lanes(IntLanes sum) { return _mm512_cvtepi32_ps(reinterpret_cast<__m512i>(sum)); }

// Row 7 - i of a matrix of bits gives bit i of a product: bits [first, first + count) become the lowest.
constexpr long long bits_down(int first, int count) {
  std::uint64_t rows = 0;
  for (int i = 0; i < count; ++i) rows |= std::uint64_t{1} << (first + i) << (8 * (7 - i));
  return static_cast<long long>(rows);
}

// How products read the codes of a matrix: a run of 64 * kPlanes codes at a time.
template <int bits, bool by_plane>
struct Codes {
  static constexpr int kBits = bits, kPlanes = by_plane ? 8 / bits : 1, kBytes = 8 * bits * kPlanes;

  TERCILE_MEMBER static __m512i load(const std::uint8_t* from) {
    if constexpr (by_plane) return _mm512_loadu_si512(from);
    return inner_codes<bits>(from);
  }
  TERCILE_MEMBER static __m512i load_last(const std::uint8_t* from, std::size_t bytes) {
    if constexpr (!by_plane) return last_codes<bits>(from, bytes);
    return bytes >= 64 ? load(from) : _mm512_maskz_loadu_epi8((std::uint64_t{1} << bytes) - 1, from);
  }
  // Codes of a plane, a byte each.
  template <int plane>
  TERCILE_MEMBER static __m512i whole(__m512i run) {
    if constexpr (!by_plane || bits == 8) return run;
    if constexpr (plane == 0) return _mm512_and_si512(run, _mm512_set1_epi8(static_cast<char>((1 << bits) - 1)));
    return _mm512_gf2p8affine_epi64_epi8(run, _mm512_set1_epi64(bits_down(bits * plane, bits)), 0);
  }
  // Code `byte` of every four of a plane, in the lowest bits of its lane.
  template <Look look, int plane, int byte>
  TERCILE_MEMBER static __m512i lane(__m512i run) {
    constexpr int shift = 8 * byte + (by_plane ? bits * plane : 0);
    const __m512i low = shift ? _mm512_srli_epi32(run, shift) : run;
    if constexpr (look == Look::in16 || look == Look::in32 || byte == 3) return low;
    return _mm512_and_si512(low, _mm512_set1_epi32(255));
  }
};

}  // namespace tercile::TERCILE_TARGET
