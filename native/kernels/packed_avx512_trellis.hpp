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
