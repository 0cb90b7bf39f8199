// Dense products of decoded panels of bytes, by AVX-512 with VNNI: 12 rows of activations times 32 rows of the matrix are
// summed in 24 registers.
#pragma once
#include "packed_avx512_codes.hpp"
#include "packed_choice.hpp"
#include "packed_panels.hpp"

namespace tercile::TERCILE_TARGET {

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

// A panel from words of 1, 2, 4 or 8 bits a code: packed dwords are turned, and each then gives as many dwords of codes as
// it holds planes.
template <int bits, bool mapped>
static void panel_of_words(const PackedRows& w, std::size_t row, std::size_t some, std::size_t first, std::size_t count,
                           std::ptrdiff_t ahead, std::uint8_t* panel) {
  using C = Codes<bits, true>;
  __m512i map[4];
  if (mapped)
    for (int i = 0; i < 4; ++i) map[i] = _mm512_loadu_si512(w.whole + 64 * i);
  const std::size_t dwords = (count * bits + 31) / 32, start = first / 8 * bits;
  for (std::size_t half = 0; half < kPanelLanes; ++half) {
    const std::uint8_t* from[16];
    for (std::size_t r = 0; r < 16; ++r) {
      const std::size_t at = half * 16 + r < some ? half * 16 + r : some - 1;
      from[r] = w.words + (row + at) * w.row_bytes + start;
    }
    for (std::size_t c = 0; c < dwords; c += 16) {
      const std::size_t left = dwords - c < 16 ? dwords - c : 16;
      const __mmask16 mask = static_cast<__mmask16>((1u << left) - 1u);
      __m512i square[16];
#pragma GCC unroll 16
      for (int r = 0; r < 16; ++r) {
        square[r] = _mm512_maskz_loadu_epi32(mask, from[r] + 4 * c);
        _mm_prefetch(reinterpret_cast<const char*>(from[r]) + 4 * c + ahead, _MM_HINT_T1);
      }
      transpose(square);
#pragma GCC unroll 16
      for (int q = 0; q < 16; ++q) {
        if (static_cast<std::size_t>(q) >= left) break;
        std::uint8_t* to = panel + ((c + q) * C::kPlanes * kPanelLanes + half) * 64;
        each_of<C::kPlanes>([&](auto plane) __attribute__((always_inline)) {
          __m512i codes = C::template whole<decltype(plane){}>(square[q]);
          if constexpr (mapped) codes = mapped_codes<bits>(codes, map);
          _mm512_storeu_si512(to + plane * kPanelLanes * 64, codes);
        });
      }
    }
  }
}

static void panel_words_avx512(const PackedRows& w, std::size_t row, std::size_t some, std::size_t first,
                               std::size_t count, std::ptrdiff_t ahead, std::uint8_t* panel) {
  by_words(w, [&]<int bits, bool mapped>() { panel_of_words<bits, mapped>(w, row, some, first, count, ahead, panel); });
}

// x: quads of columns, `tokens` of them side by side.
template <int tokens>
static void multiply_tile(const std::int8_t* x, const std::uint8_t* panel, const PanelParts& parts,
                          const std::int32_t* start, float* y, std::size_t y_step) {
  for (std::size_t part = 0; part < parts.count; ++part) {
    IntLanes sum[tokens][2];
#pragma GCC unroll 16
    for (int t = 0; t < tokens; ++t) sum[t][0] = sum[t][1] = IntLanes{};
    for (std::size_t left = parts.columns[part]; left > 0; left -= 4, x += 4 * tokens, panel += 4 * kPanelRows) {
      const __m512i w0 = _mm512_loadu_si512(panel), w1 = _mm512_loadu_si512(panel + 64);
#pragma GCC unroll 16
      for (int t = 0; t < tokens; ++t) {
        std::int32_t quad;
        __builtin_memcpy(&quad, x + 4 * t, 4);
        const __m512i value = _mm512_set1_epi32(quad);
        sum[t][0] = add_products(sum[t][0], w0, value);
        sum[t][1] = add_products(sum[t][1], w1, value);
      }
    }
    const __m512 s0 = _mm512_loadu_ps(parts.scale + part * kPanelRows);
    const __m512 s1 = _mm512_loadu_ps(parts.scale + part * kPanelRows + 16);
#pragma GCC unroll 16
    for (int t = 0; t < tokens; ++t) {
      float* to = y + t * y_step;
      const std::int32_t first = start[t * parts.start_step + part];
      const __m512 v0 = real_lanes(sum[t][0] + first), v1 = real_lanes(sum[t][1] + first);
      _mm512_storeu_ps(to, _mm512_fmadd_ps(v0, s0, _mm512_loadu_ps(to)));
      _mm512_storeu_ps(to + 16, _mm512_fmadd_ps(v1, s1, _mm512_loadu_ps(to + 16)));
    }
  }
}

template <int tokens>
static void multiply_some_of(int some, const std::int8_t* x, const std::uint8_t* panel, const PanelParts& parts,
                             const std::int32_t* start, float* y, std::size_t y_step) {
  if (some == tokens) return multiply_tile<tokens>(x, panel, parts, start, y, y_step);
  if constexpr (tokens > 1) multiply_some_of<tokens - 1>(some, x, panel, parts, start, y, y_step);
}

static void multiply_bytes_avx512(const std::int8_t* tiles, std::size_t columns, std::size_t from, std::size_t m,
                                  const std::uint8_t* panel, const PanelParts& parts, float* y, std::size_t y_step) {
  each_piece(m, kMostTokens, [&](std::size_t t, int some) {
    multiply_some_of<kMostTokens>(some, tiles + t * columns + from * static_cast<std::size_t>(some), panel, parts,
                                  parts.start + t * parts.start_step, y + t * y_step, y_step);
  });
}

// Tile after tile of rows that are multiplied at once, their quads side by side. Within the codes of a dword: those of
// plane 0, then those of plane 1, and so on.
static void tile_bytes_avx512(int planes, const std::int8_t* x, std::size_t x_step, std::size_t m, std::size_t columns,
                              std::int8_t* out) {
  alignas(64) std::uint8_t index[64];
  for (int i = 0; i < 64; ++i) {
    const int in = i % (4 * planes);
    index[i] = static_cast<std::uint8_t>(i - in + in % 4 * planes + in / 4);
  }
  const __m512i order = _mm512_load_si512(index);
  each_piece(m, kMostTokens, [&](std::size_t first, int some) {
    const __m512i apart = _mm512_mullo_epi32(_mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0),
                                             _mm512_set1_epi32(some));
    for (int t = 0; t < some; ++t)
      for (std::size_t c = 0; c < columns; c += 64) {
        const __m512i run = _mm512_loadu_si512(x + (first + static_cast<std::size_t>(t)) * x_step + c);
        std::int8_t* to = out + first * columns + c * static_cast<std::size_t>(some) + 4 * t;
        _mm512_i32scatter_epi32(to, apart, _mm512_permutexvar_epi8(order, run), 4);
      }
  });
}

}  // namespace tercile::TERCILE_TARGET
