// Dense products of decoded panels of bytes, for AVX2 and NEON: some rows of activations times 16 rows of the matrix are
// summed in registers, four columns at a time.
#pragma once
#include "packed_choice.hpp"
#include "packed_runs.hpp"

namespace tercile::TERCILE_TARGET {

constexpr int kTileTokens = kUnsigned || kHeld == 4 ? 6 : 4;

// As many dwords of as many rows, to columns of 16 dwords.
static void panel_bytes(const std::uint8_t* rows, std::size_t step, std::size_t columns, std::uint8_t* panel) {
  for (int r = 0; r < kPanelRows; r += kHeld)
    for (std::size_t c = 0; c < columns; c += kRegisterBytes) {
      IntRegister square[kHeld];
#pragma GCC unroll 8
      for (int i = 0; i < kHeld; ++i)
        square[i] = reinterpret_cast<IntRegister>(load_bytes(rows + static_cast<std::size_t>(r + i) * step + c));
      transpose(square);
#pragma GCC unroll 8
      for (int q = 0; q < kHeld; ++q)
        store_bytes(panel + (c + 4 * static_cast<std::size_t>(q)) * kPanelRows + 4 * r, reinterpret_cast<ByteRegister>(square[q]));
    }
}

// Packed dwords are turned, and each then gives as many dwords of codes as it holds planes.
template <int bits, bool mapped>
static void panel_of_words(const PackedRows& w, std::size_t row, std::size_t some, std::size_t first, std::size_t count,
                           std::ptrdiff_t ahead, std::uint8_t* panel) {
  constexpr int planes = 8 / bits;
  const Map map{table16(w.whole ? w.whole : w.words), w.whole};
  const std::size_t bytes = (count * bits + 31) / 32 * 4, start = first / 8 * bits;
  for (std::size_t r = 0; r < kPanelRows; r += kHeld) {
    const std::uint8_t* from[kHeld];
    for (std::size_t i = 0; i < kHeld; ++i) from[i] = w.words + (row + (r + i < some ? r + i : some - 1)) * w.row_bytes + start;
    for (std::size_t c = 0; c < bytes; c += kRegisterBytes) {
      const std::size_t left = bytes - c;
      IntRegister square[kHeld];
#pragma GCC unroll 8
      for (int i = 0; i < kHeld; ++i) {
        if (left >= kRegisterBytes) {
          square[i] = reinterpret_cast<IntRegister>(load_bytes(from[i] + c));
        } else {
          square[i] = IntRegister{};
          __builtin_memcpy(&square[i], from[i] + c, left);
        }
        if (c % 64 == 0) __builtin_prefetch(from[i] + c + ahead, 0, 2);
      }
      transpose(square);
#pragma GCC unroll 8
      for (int q = 0; q < kHeld; ++q) {
        if (4 * static_cast<std::size_t>(q) >= left) break;
        std::uint8_t* to = panel + (c + 4 * static_cast<std::size_t>(q)) * planes * kPanelRows + 4 * r;
#pragma GCC unroll 8
        for (int plane = 0; plane < planes; ++plane) {
          ByteRegister codes = plane_of<bits>(reinterpret_cast<ByteRegister>(square[q]), plane);
          if constexpr (mapped) codes = mapped_codes<bits>(codes, map);
          store_bytes(to + plane * 4 * kPanelRows, codes);
        }
      }
    }
  }
}

static void panel_words(const PackedRows& w, std::size_t row, std::size_t some, std::size_t first, std::size_t count,
                        std::ptrdiff_t ahead, std::uint8_t* panel) {
  by_words(w, [&]<int bits, bool mapped>() { panel_of_words<bits, mapped>(w, row, some, first, count, ahead, panel); });
}

// Sums of a tile's activations, row by row: where codes come less 128.
template <int tokens>
TERCILE_INLINE void sums_of_tile(const std::int8_t* x, std::size_t columns, std::int32_t sum[tokens]) {
  const std::size_t bytes = columns * tokens;
  Adder all[tokens] = {};  // lane l of register i is of row (i * kHeld + l) % tokens
  std::size_t at = 0;
  for (; at + tokens * kRegisterBytes <= bytes; at += tokens * kRegisterBytes)
#pragma GCC unroll 8
    for (int i = 0; i < tokens; ++i) {
      all[i].open();
      all[i].template put<1>(all_bytes(1), load_bytes(x + at + i * kRegisterBytes));
      all[i].settle();
    }
  for (int t = 0; t < tokens; ++t) sum[t] = 0;
#pragma GCC unroll 8
  for (int i = 0; i < tokens; ++i)
    for (int lane = 0; lane < kHeld; ++lane) sum[(i * kHeld + lane) % tokens] += all[i].sum[lane];
  for (; at < bytes; ++at) sum[at / 4 % tokens] += x[at];
}

constexpr int kPanelRegisters = kPanelRows / kHeld;

template <int bits>
constexpr bool kLess = !kUnsigned && bits == 8;

// Four columns; sums are settled after each where there is room for no more.
template <int tokens, int bits, bool alone>
TERCILE_INLINE void add_quad(const std::int8_t* x, const std::uint8_t* panel, Adder (&sum)[tokens][kPanelRegisters]) {
  ByteRegister codes[kPanelRegisters];
#pragma GCC unroll 4
  for (int l = 0; l < kPanelRegisters; ++l) {
    codes[l] = load_bytes(panel + l * kRegisterBytes);
    if constexpr (kLess<bits>) codes[l] ^= all_bytes(128);
  }
#pragma GCC unroll 8
  for (int t = 0; t < tokens; ++t) {
    std::int32_t four;
    __builtin_memcpy(&four, x + 4 * t, 4);
    const ByteRegister value = reinterpret_cast<ByteRegister>(IntRegister{} + four);
#pragma GCC unroll 4
    for (int l = 0; l < kPanelRegisters; ++l) {
      if constexpr (alone) sum[t][l].open();
      sum[t][l].template put<bits>(codes[l], value);
      if constexpr (alone) sum[t][l].settle();
    }
  }
}

// x: quads of columns, `tokens` of them side by side. Codes of the panel are below 2^bits.
template <int tokens, int bits>
static void multiply_tile(const std::int8_t* x, const std::uint8_t* panel, const PanelParts& parts,
                          const std::int32_t* start, float* y, std::size_t y_step) {
  for (std::size_t part = 0; part < parts.count; ++part) {
    std::int32_t first[tokens];
    for (int t = 0; t < tokens; ++t) first[t] = start[static_cast<std::size_t>(t) * parts.start_step + part];
    if constexpr (kLess<bits>) {
      std::int32_t sum[tokens];
      sums_of_tile<tokens>(x, parts.columns[part], sum);
      for (int t = 0; t < tokens; ++t) first[t] += 128 * sum[t];
    }
    Adder sum[tokens][kPanelRegisters];
#pragma GCC unroll 8
    for (int t = 0; t < tokens; ++t)
#pragma GCC unroll 4
      for (int l = 0; l < kPanelRegisters; ++l) sum[t][l].sum = IntRegister{} + first[t];
    std::size_t left = parts.columns[part] / 4;
    if constexpr (kRoom<bits> == 1)
      for (; left > 0; --left, x += 4 * tokens, panel += 4 * kPanelRows) add_quad<tokens, bits, true>(x, panel, sum);
    while (left > 0) {
      const std::size_t now = left < kRoom<bits> ? left : kRoom<bits>;
      left -= now;
#pragma GCC unroll 8
      for (int t = 0; t < tokens; ++t)
#pragma GCC unroll 4
        for (int l = 0; l < kPanelRegisters; ++l) sum[t][l].open();
      for (std::size_t quad = 0; quad < now; ++quad, x += 4 * tokens, panel += 4 * kPanelRows)
        add_quad<tokens, bits, false>(x, panel, sum);
#pragma GCC unroll 8
      for (int t = 0; t < tokens; ++t)
#pragma GCC unroll 4
        for (int l = 0; l < kPanelRegisters; ++l) sum[t][l].settle();
    }
#pragma GCC unroll 4
    for (int l = 0; l < kPanelRegisters; ++l) {
      const Register scale = load_register(parts.scale + part * kPanelRows + l * kHeld);
#pragma GCC unroll 8
      for (int t = 0; t < tokens; ++t) {
        float* to = y + static_cast<std::size_t>(t) * y_step + l * kHeld;
        store_register(to, reals(sum[t][l].sum) * scale + load_register(to));
      }
    }
  }
}

template <int tokens, int bits>
static void multiply_tokens_of(int some, const std::int8_t* x, const std::uint8_t* panel, const PanelParts& parts,
                               const std::int32_t* start, float* y, std::size_t y_step) {
  if (some == tokens) return multiply_tile<tokens, bits>(x, panel, parts, start, y, y_step);
  if constexpr (tokens > 1) multiply_tokens_of<tokens - 1, bits>(some, x, panel, parts, start, y, y_step);
}

template <int bits>
static void multiply_by(const std::int8_t* tiles, std::size_t columns, std::size_t from, std::size_t m,
                        const std::uint8_t* panel, const PanelParts& parts, float* y, std::size_t y_step) {
  each_piece(m, kTileTokens, [&](std::size_t t, int some) {
    multiply_tokens_of<kTileTokens, bits>(some, tiles + t * columns + from * static_cast<std::size_t>(some), panel, parts,
                                          parts.start + t * parts.start_step, y + t * y_step, y_step);
  });
}

// What the codes of a panel have in common says how many of their products fit before a sum must be widened.
static void multiply_bytes(const std::int8_t* tiles, std::size_t columns, std::size_t from, std::size_t m,
                           const std::uint8_t* panel, const PanelParts& parts, float* y, std::size_t y_step) {
  if constexpr (!kUnsigned) {
    std::size_t quads = 0;
    for (std::size_t part = 0; part < parts.count; ++part) quads += parts.columns[part] / 4;
    ByteRegister any{};
    for (std::size_t at = 0; at < quads * 4 * kPanelRows; at += kRegisterBytes) any |= load_bytes(panel + at);
    std::uint8_t largest = 0;
    for (int i = 0; i < kRegisterBytes; ++i) largest |= any[i];
    if (largest < 16 && kRoom<4> > kRoom<7>) return multiply_by<4>(tiles, columns, from, m, panel, parts, y, y_step);
    if (largest < 128) return multiply_by<7>(tiles, columns, from, m, panel, parts, y, y_step);
  }
  multiply_by<8>(tiles, columns, from, m, panel, parts, y, y_step);
}

// Tile after tile of rows that are multiplied at once, their quads side by side. Within the codes of a dword: those of
// plane 0, then those of plane 1, and so on.
static void tile_bytes(int planes, const std::int8_t* x, std::size_t x_step, std::size_t m, std::size_t columns,
                       std::int8_t* out) {
  const int wide = 4 * planes;  // codes of a dword
  alignas(16) std::uint8_t order[16];
  for (int i = 0; i < 16 && planes < 8; ++i) order[i] = static_cast<std::uint8_t>(i / wide * wide + i % 4 * planes + i % wide / 4);
  each_piece(m, kTileTokens, [&](std::size_t first, int some) {
    for (int t = 0; t < some; ++t) {
      const std::int8_t* row = x + (first + static_cast<std::size_t>(t)) * x_step;
      std::int8_t* to = out + first * columns + 4 * t;
      for (std::size_t c = 0; c < columns; c += 32) {
        std::uint8_t turned[32];
        if (planes == 8) {
          for (int i = 0; i < 32; ++i) turned[i] = static_cast<std::uint8_t>(row[c + i % 4 * 8 + i / 4]);
        } else {
          shuffle16(row + c, order, turned), shuffle16(row + c + 16, order, turned + 16);
        }
        for (int q = 0; q < 8; ++q, to += 4 * some) __builtin_memcpy(to, turned + 4 * q, 4);
      }
    }
  });
}

}  // namespace tercile::TERCILE_TARGET
