// Products on codes as they are stored, by AVX2.
#pragma once
#include <immintrin.h>

#include "packed_panels.hpp"
#include "packed_plain.hpp"

namespace tercile::TERCILE_TARGET {

// Sixteen codes of b bits, each in 16 bits. A code lies in two neighbouring bytes: these are brought into its lane, moved
// to the top by a product with a power of two, and down again.
template <int bits>
struct Window {
  alignas(32) std::uint8_t from[32];
  alignas(32) std::uint16_t factor[16];
  constexpr Window() : from{}, factor{} {
    for (int i = 0; i < 16; ++i) {
      const int at = i % 8 * bits;
      from[2 * i] = static_cast<std::uint8_t>(at / 8);
      from[2 * i + 1] = static_cast<std::uint8_t>(at / 8 + 1);
      factor[i] = static_cast<std::uint16_t>(1 << (16 - bits - at % 8));
    }
  }
};

// 32 codes in natural order; 4 * bits bytes are used, and up to 16 + 3 * bits read.
template <int bits>
TERCILE_INLINE __m256i codes32(const std::uint8_t* from) {
  if constexpr (bits == 8) return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  if constexpr (bits == 4) {
    const __m256i wide = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
    return _mm256_and_si256(_mm256_or_si256(wide, _mm256_slli_epi16(wide, 4)), _mm256_set1_epi8(15));
  }
  if constexpr (bits == 2) {
    __m256i wide = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
    wide = _mm256_or_si256(wide, _mm256_slli_epi32(wide, 12));
    wide = _mm256_or_si256(wide, _mm256_slli_epi32(wide, 6));
    return _mm256_and_si256(wide, _mm256_set1_epi8(3));
  }
  static constexpr Window<bits == 8 ? 1 : bits> kWindow;
  const __m256i order = _mm256_load_si256(reinterpret_cast<const __m256i*>(kWindow.from));
  const __m256i factor = _mm256_load_si256(reinterpret_cast<const __m256i*>(kWindow.factor));
  __m256i part[2];
  for (int half = 0; half < 2; ++half) {
    const std::uint8_t* at = from + half * bits;
    // Codes 0-7 and 16-23, then 8-15 and 24-31: packing takes them by halves of a register.
    const __m256i raw = _mm256_inserti128_si256(
        _mm256_castsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at))),
        _mm_loadu_si128(reinterpret_cast<const __m128i*>(at + 2 * bits)), 1);
    part[half] = _mm256_srli_epi16(_mm256_mullo_epi16(_mm256_shuffle_epi8(raw, order), factor), 16 - bits);
  }
  return _mm256_packus_epi16(part[0], part[1]);
}

// 64 codes; near the end of a row's bytes they are copied first, so that nothing beyond is read.
template <int bits>
TERCILE_INLINE void run_codes(const std::uint8_t* from, std::size_t bytes, __m256i codes[2]) {
  if (bytes >= 64 + 32) {
    codes[0] = codes32<bits>(from);
    codes[1] = codes32<bits>(from + 4 * bits);
    return;
  }
  alignas(32) std::uint8_t copy[128] = {};
  const std::size_t some = bytes < 8 * bits ? bytes : 8 * bits;
  for (std::size_t i = 0; i < some; ++i) copy[i] = from[i];
  codes[0] = codes32<bits>(copy);
  codes[1] = codes32<bits>(copy + 4 * bits);
}

template <int bits>
static void codes_of(const PackedRows& w, std::size_t row, std::size_t first, std::size_t count, std::uint8_t* out) {
  const std::uint8_t* from = w.words + row * w.row_bytes;
  for (std::size_t c = 0; c < count; c += kRun) {
    __m256i codes[2];
    const std::size_t at = (first + c) / 8 * bits;
    run_codes<bits>(from + at, w.row_bytes - at, codes);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + c), codes[0]);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + c + 32), codes[1]);
  }
}

static void codes_avx2(const PackedRows& w, std::size_t row, std::size_t first, std::size_t count, std::uint8_t* out) {
  switch (w.bits) {
    case 1: return codes_of<1>(w, row, first, count, out);
    case 2: return codes_of<2>(w, row, first, count, out);
    case 3: return codes_of<3>(w, row, first, count, out);
    case 4: return codes_of<4>(w, row, first, count, out);
    case 5: return codes_of<5>(w, row, first, count, out);
    case 6: return codes_of<6>(w, row, first, count, out);
    case 7: return codes_of<7>(w, row, first, count, out);
    default: return codes_of<8>(w, row, first, count, out);
  }
}

TERCILE_INLINE __m256i wide_codes(const std::uint8_t* codes) {
  return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes)));
}

static void values_avx2(const PackedRows& w, const std::uint8_t* codes, std::size_t count, float* out) {
  std::size_t i = 0;
  if (w.linear) {
    const __m256i base = _mm256_set1_epi32(w.base);
    for (; i + 8 <= count; i += 8)
      _mm256_storeu_ps(out + i, _mm256_cvtepi32_ps(_mm256_sub_epi32(wide_codes(codes + i), base)));
  } else if (w.bits <= 4) {
    const __m256 low = _mm256_loadu_ps(w.table), high = _mm256_loadu_ps(w.table + 8);
    for (; i + 8 <= count; i += 8) {
      const __m256i code = wide_codes(codes + i);
      const __m256 upper = _mm256_castsi256_ps(_mm256_slli_epi32(code, 28));  // bit 3 becomes the sign
      _mm256_storeu_ps(out + i, _mm256_blendv_ps(_mm256_permutevar8x32_ps(low, code),
                                                 _mm256_permutevar8x32_ps(high, code), upper));
    }
  }
  for (; i < count; ++i) out[i] = w.table[codes[i]];
}

TERCILE_INLINE float sum_of(__m256 x) {
  __m128 four = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  four = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
}

// Adds the products of 32 codes with activations. Codes below 128 take pairs in 16 bits, which can't overflow; others
// are widened first.
template <bool small>
TERCILE_INLINE __m256i add_products(__m256i sum, __m256i codes, const std::int8_t* x) {
  const __m256i values = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x));
  if constexpr (small)
    return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(codes, values), _mm256_set1_epi16(1)));
  const __m256i low = _mm256_madd_epi16(_mm256_cvtepu8_epi16(_mm256_castsi256_si128(codes)),
                                        _mm256_cvtepi8_epi16(_mm256_castsi256_si128(values)));
  const __m256i high = _mm256_madd_epi16(_mm256_cvtepu8_epi16(_mm256_extracti128_si256(codes, 1)),
                                         _mm256_cvtepi8_epi16(_mm256_extracti128_si256(values, 1)));
  return _mm256_add_epi32(sum, _mm256_add_epi32(low, high));
}

// Blocks of whole runs, codes that are whole numbers themselves.
template <int bits>
static void whole_rows(const PackedRows& w, std::size_t first, std::size_t last, const WholeRows& x, float* y,
                       std::size_t y_step) {
  const std::size_t runs = runs_of(w.columns), in_block = w.across == 1 ? runs : w.wide / kRun;
  for (std::size_t r = first; r < last; ++r) {
    const std::uint8_t* words = w.words + r * w.row_bytes;
    for (std::size_t t = 0; t < x.m; ++t) {
      const std::int8_t* xs = x.x + t * x.step;
      __m256 total = _mm256_setzero_ps();
      for (std::size_t block = 0, run = 0; block < w.across; ++block) {
        // The sums of quads that the activations come with: 16 of them, folded to the 8 lanes that there are.
        const std::int32_t* start = x.start + (t * x.parts + block) * 16;
        __m256i sum = _mm256_add_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(start)),
                                       _mm256_loadu_si256(reinterpret_cast<const __m256i*>(start + 8)));
        for (const std::size_t end = run + in_block < runs ? run + in_block : runs; run < end; ++run) {
          __m256i codes[2];
          const std::size_t at = run * 8 * bits;
          run_codes<bits>(words + at, w.row_bytes - at, codes);
          sum = add_products<(bits < 8)>(sum, codes[0], xs + run * kRun);
          sum = add_products<(bits < 8)>(sum, codes[1], xs + run * kRun + 32);
        }
        total = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), _mm256_set1_ps(scale_of(w, r, block)), total);
      }
      const float offsets = w.offset ? dot_lanes(w.offset + r / w.tall * w.across, x.sums + t * w.across, w.across) : 0;
      y[t * y_step + r] = sum_of(total) * (w.unit * x.scale[t]) + offsets;
    }
  }
}

// Any other blocks and codes: each run goes through memory, its codes replaced by whole numbers where need be.
static void mapped_rows(const PackedRows& w, std::size_t first, std::size_t last, const WholeRows& x, float* y,
                        std::size_t y_step) {
  for (std::size_t r = first; r < last; ++r)
    for (std::size_t t = 0; t < x.m; ++t) y[t * y_step + r] = 0.0f;
  alignas(32) std::uint8_t codes[kRun];
  for (std::size_t r = first; r < last; ++r) {
    for (std::size_t c = 0; c < w.columns; c += kRun) {
      codes_avx2(w, r, c, kRun, codes);
      if (w.whole)
        for (std::size_t i = 0; i < kRun; ++i) codes[i] = w.whole[codes[i]];
      const std::size_t end = c + kRun < w.columns ? c + kRun : w.columns;
      for (std::size_t from = c; from < end;) {
        const std::size_t block = from / w.wide, until = (block + 1) * w.wide, to = until < end ? until : end;
        const float scale = scale_of(w, r, block);
        for (std::size_t t = 0; t < x.m; ++t) {
          const std::int8_t* xs = x.x + t * x.step;
          std::int32_t sum = 0;
          for (std::size_t i = from; i < to; ++i) sum += (codes[i - c] - w.base) * xs[i];
          y[t * y_step + r] += static_cast<float>(sum) * scale;
        }
        from = to;
      }
    }
    for (std::size_t t = 0; t < x.m; ++t) {
      const float offsets = w.offset ? dot_lanes(w.offset + r / w.tall * w.across, x.sums + t * w.across, w.across) : 0;
      float& out = y[t * y_step + r];
      out = out * (w.unit * x.scale[t]) + offsets;
    }
  }
}

static bool dot_wholes_avx2(const PackedRows& w, std::size_t first, std::size_t last, const WholeRows& x, float*,
                            float* y, std::size_t y_step) {
  if (w.whole || !(w.across == 1 || w.wide % kRun == 0)) {
    mapped_rows(w, first, last, x, y, y_step);
    return true;
  }
#define TERCILE_CALL(b) whole_rows<b>(w, first, last, x, y, y_step); return true
  switch (w.bits) {
    case 1: TERCILE_CALL(1);
    case 2: TERCILE_CALL(2);
    case 3: TERCILE_CALL(3);
    case 4: TERCILE_CALL(4);
    case 5: TERCILE_CALL(5);
    case 6: TERCILE_CALL(6);
    case 7: TERCILE_CALL(7);
    default: TERCILE_CALL(8);
  }
#undef TERCILE_CALL
}

}  // namespace tercile::TERCILE_TARGET
