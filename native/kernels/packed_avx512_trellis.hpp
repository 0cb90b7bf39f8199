// Codes of a trellis, by AVX-512 with VBMI.
#pragma once
#include "packed_avx512_codes.hpp"

namespace tercile::TERCILE_TARGET {

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
    // What a mask has stored can't be handed to the load of the next row, so masks are for the end of the words alone.
    const __m512i raw = left >= 64 ? _mm512_loadu_si512(words + start)
                                   : _mm512_maskz_loadu_epi8((std::uint64_t{1} << left) - 1, words + start);
    const __m512i codes =
        _mm512_and_si512(_mm512_multishift_epi64_epi8(shift, _mm512_permutexvar_epi8(from, raw)), code_mask);
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      std::uint16_t* now = state + c + 32 * half;
      const __m512i code =
          _mm512_cvtepu8_epi16(half ? _mm512_extracti64x4_epi64(codes, 1) : _mm512_castsi512_si256(codes));
      const __m512i shifted = _mm512_sll_epi16(_mm512_loadu_si512(now), by);
      _mm512_storeu_si512(now, _mm512_and_si512(_mm512_or_si512(shifted, code), state_mask));
    }
  }
}

// Bytes of a table of 128 * `blocks`, for runs of 64 states: each pair of registers of the table answers the states that
// are in it. 512 states at a time share the table as it goes by, which is twice as fast as a load for each.
template <int runs>
static void look_up_runs(const std::uint16_t* state, const std::uint8_t* table, int blocks, std::uint8_t* out) {
  alignas(64) std::uint8_t even[64];
  for (int i = 0; i < 64; ++i) even[i] = static_cast<std::uint8_t>(2 * i);
  const __m512i low_bytes = _mm512_load_si512(even);
  __m512i value[runs], block[runs];
#pragma GCC unroll 8
  for (int r = 0; r < runs; ++r) {
    const __m512i a = _mm512_loadu_si512(state + kRun * r), b = _mm512_loadu_si512(state + kRun * r + 32);
    value[r] = _mm512_permutex2var_epi8(a, low_bytes, b);
    block[r] = _mm512_permutex2var_epi8(_mm512_srli_epi16(a, 7), low_bytes, _mm512_srli_epi16(b, 7));
  }
  for (int i = 0; i < blocks; ++i) {
    const __m512i low = _mm512_loadu_si512(table + 128 * i), high = _mm512_loadu_si512(table + 128 * i + 64);
    const __m512i now = _mm512_set1_epi8(static_cast<char>(i));
#pragma GCC unroll 8
    for (int r = 0; r < runs; ++r)
      value[r] = _mm512_mask2_permutex2var_epi8(low, value[r], _mm512_cmpeq_epi8_mask(block[r], now), high);
  }
#pragma GCC unroll 8
  for (int r = 0; r < runs; ++r) _mm512_storeu_si512(out + kRun * r, value[r]);
}

static void look_up_bytes_avx512(const std::uint16_t* state, std::size_t n, int memory, const std::uint8_t* table,
                                 std::uint8_t* out) {
  std::size_t c = 0;
  if (memory <= 12) {
    const int blocks = 1 << (memory - 7);
    for (; c + 8 * kRun <= n; c += 8 * kRun) look_up_runs<8>(state + c, table, blocks, out + c);
    if (c + 4 * kRun <= n) look_up_runs<4>(state + c, table, blocks, out + c), c += 4 * kRun;
    if (c + 2 * kRun <= n) look_up_runs<2>(state + c, table, blocks, out + c), c += 2 * kRun;
  }
  look_up_bytes_plain(state + c, n - c, memory, table, out + c);
}

}  // namespace tercile::TERCILE_TARGET
