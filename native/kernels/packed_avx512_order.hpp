// Activations in the order in which products read codes, by AVX-512 with VBMI.
#pragma once
#include "packed_avx512_codes.hpp"

namespace tercile::TERCILE_TARGET {

// Where a lane of 4 * planes codes begins is a step of as many floats: each register of 16 is gathered.
static void arrange_avx512(const PackedRows& w, const float* x, float* out) {
  const int planes = w.planes;
  const std::size_t codes = kRun * static_cast<std::size_t>(planes);
  const __m512i lane = _mm512_mullo_epi32(_mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0),
                                          _mm512_set1_epi32(4 * planes));
  for (std::size_t c = 0; c < w.columns; c += codes)
    for (int plane = 0; plane < planes; ++plane)
      for (int byte = 0; byte < 4; ++byte, out += 16) {
        const int first = byte * planes + plane;
        const std::ptrdiff_t left = static_cast<std::ptrdiff_t>(w.columns - c) - first;
        const __mmask16 there = left >= static_cast<std::ptrdiff_t>(codes)
                                    ? static_cast<__mmask16>(0xffff)
                                    : _mm512_cmplt_epi32_mask(lane, _mm512_set1_epi32(static_cast<int>(left)));
        _mm512_storeu_ps(out, _mm512_mask_i32gather_ps(_mm512_setzero_ps(), there, lane, x + c + first, 4));
      }
}

// Every second byte of two registers, and those between them.
TERCILE_INLINE void part_bytes(__m512i& a, __m512i& b) {
  alignas(64) static constexpr auto kEven = [] {
    struct { std::uint8_t at[64]; } index{};
    for (int i = 0; i < 64; ++i) index.at[i] = static_cast<std::uint8_t>(2 * i);
    return index;
  }();
  const __m512i even = _mm512_load_si512(kEven.at), odd = _mm512_add_epi8(even, _mm512_set1_epi8(1));
  const __m512i first = _mm512_permutex2var_epi8(a, even, b), second = _mm512_permutex2var_epi8(a, odd, b);
  a = first, b = second;
}

// Bytes of a run go to their planes; start[...] -= base * sum of each lane's four bytes.
template <int planes>
static void arrange_planes(const PackedRows& w, const std::int8_t* x, std::int8_t* out, std::int32_t* start,
                           std::size_t runs_in_part) {
  const __m512i base = _mm512_set1_epi8(static_cast<char>(w.base));
  const std::size_t codes = kRun * planes, runs = (w.columns + codes - 1) / codes;
  for (std::size_t run = 0; run < runs; start += 16) {
    __m512i sum = _mm512_setzero_si512();
    for (std::size_t end = run + runs_in_part < runs ? run + runs_in_part : runs; run < end; ++run) {
      __m512i part[planes];
#pragma GCC unroll 8
      for (int p = 0; p < planes; ++p) part[p] = _mm512_loadu_si512(x + run * codes + p * kRun);
      // A round puts even bytes into the first half of the registers: after the last, register p holds bytes planes * i + p.
#pragma GCC unroll 3
      for (int round = 1; round < planes; round *= 2) {
        __m512i next[planes];
#pragma GCC unroll 4
        for (int p = 0; p < planes / 2; ++p) {
          part_bytes(part[2 * p], part[2 * p + 1]);
          next[p] = part[2 * p], next[planes / 2 + p] = part[2 * p + 1];
        }
#pragma GCC unroll 8
        for (int p = 0; p < planes; ++p) part[p] = next[p];
      }
#pragma GCC unroll 8
      for (int p = 0; p < planes; ++p) {
        _mm512_storeu_si512(out + run * codes + p * kRun, part[p]);
        sum = _mm512_dpbusd_epi32(sum, base, part[p]);
      }
    }
    _mm512_storeu_si512(start, _mm512_sub_epi32(_mm512_setzero_si512(), sum));
  }
}

static void arrange_bytes_avx512(const PackedRows& w, const std::int8_t* x, std::int8_t* out, std::int32_t* start,
                                 std::size_t runs_in_part) {
  switch (w.planes) {
    case 8: return arrange_planes<8>(w, x, out, start, runs_in_part);
    case 4: return arrange_planes<4>(w, x, out, start, runs_in_part);
    case 2: return arrange_planes<2>(w, x, out, start, runs_in_part);
    default: return arrange_planes<1>(w, x, out, start, runs_in_part);
  }
}

static std::int32_t sum_bytes_avx512(const std::int8_t* x, std::size_t n) {
  const __m512i ones = _mm512_set1_epi8(1);
  __m512i sum = _mm512_setzero_si512();
  std::size_t i = 0;
  for (; i + 64 <= n; i += 64) sum = _mm512_dpbusd_epi32(sum, ones, _mm512_loadu_si512(x + i));
  if (i < n)
    sum = _mm512_dpbusd_epi32(sum, ones, _mm512_maskz_loadu_epi8((std::uint64_t{1} << (n - i)) - 1, x + i));
  return _mm512_reduce_add_epi32(sum);
}

}  // namespace tercile::TERCILE_TARGET
