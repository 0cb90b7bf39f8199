// Products with stored matrices, written plainly: what defines the answers, and what runs where nothing faster does.
#pragma once
#include "../runtime/packed.hpp"
#include "lanes.hpp"
#include "packed_steps.hpp"

namespace tercile::TERCILE_TARGET {

TERCILE_INLINE float scale_of(const PackedRows& w, std::size_t row, std::size_t block) {
  const std::size_t at = row / w.tall * w.across + block;
  if (w.scale) return w.scale[at];
  // float16 by hand: the exponent moves by 112, subnormals are multiples of 2^-24.
  const std::uint32_t half = w.half_scale[at], sign = (half & 0x8000u) << 16, rest = half & 0x7fffu;
  std::uint32_t bits = rest >= 0x7c00u ? 0x7f800000u | (rest & 0x3ffu) << 13 : (rest << 13) + (112u << 23);
  float value;
  if (rest < 0x400u) {
    value = static_cast<float>(rest) * 5.9604644775390625e-8f;
    return sign ? -value : value;
  }
  bits |= sign;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}

[[maybe_unused]] static void codes_plain(const PackedRows& w, std::size_t row, std::size_t first, std::size_t count, std::uint8_t* out) {
  const std::uint8_t* from = w.words + row * w.row_bytes;
  const std::size_t bits = static_cast<std::size_t>(w.bits);
  const unsigned mask = (1u << bits) - 1u;
  for (std::size_t c = 0; c < count; c += 8) {
    std::uint64_t eight = 0;  // eight codes are as many bytes as a code has bits
    const std::size_t start = (first + c) / 8 * bits;
    for (std::size_t b = 0; b < bits && start + b < w.row_bytes; ++b)
      eight |= static_cast<std::uint64_t>(from[start + b]) << (8 * b);
    for (std::size_t i = 0; i < 8; ++i) out[c + i] = static_cast<std::uint8_t>(eight >> (bits * i) & mask);
  }
}

[[maybe_unused]] static void values_plain(const PackedRows& w, const std::uint8_t* codes, std::size_t count, float* out) {
  for (std::size_t i = 0; i < count; ++i) out[i] = w.table[codes[i]];
}

[[maybe_unused]] static void scales_plain(const PackedRows& w, std::size_t row, std::size_t first, std::size_t count,
                                          float factor, float* out) {
  for (std::size_t b = 0; b < count; ++b) out[b] = factor * scale_of(w, row, first + b);
}

[[maybe_unused]] static void arrange_plain(const PackedRows& w, const float* x, float* out) {
  for (std::size_t c = 0; c < w.columns; ++c) out[c] = x[c];
  for (std::size_t c = w.columns; c < runs_of(w.columns) * kRun; ++c) out[c] = 0.0f;
}

[[maybe_unused]] static void arrange_bytes_plain(const PackedRows& w, const std::int8_t* x, std::int8_t* out,
                                                 std::int32_t* start, std::size_t runs_in_part) {
  for (std::size_t run = 0; run < runs_of(w.columns); ++run) {
    std::int32_t* to = start + run / runs_in_part * 16;
    for (std::size_t i = 0; i < 16; ++i) {
      std::int32_t sum = 0;
      for (std::size_t c = run * kRun + 4 * i; c < run * kRun + 4 * i + 4; ++c) sum += out[c] = x[c];
      to[i] = (run % runs_in_part ? to[i] : 0) - w.base * sum;
    }
  }
}

[[maybe_unused]] static bool dot_floats_plain(const PackedRows&, std::size_t, std::size_t, const FloatRows&, float*, float*, std::size_t) {
  return false;
}

// Block by block: the sum of whole products, then its scale.
[[maybe_unused]] static bool dot_wholes_plain(const PackedRows& w, std::size_t first, std::size_t last, const WholeRows& x, float*,
                             float* y, std::size_t y_step) {
  for (std::size_t r = first; r < last; ++r)
    for (std::size_t t = 0; t < x.m; ++t) {
      float total = 0.0f, offsets = 0.0f;
      const std::int8_t* xs = x.x + t * x.step;
      std::uint8_t run[kRun];
      std::int32_t sum = 0;
      for (std::size_t c = 0, block = 0; c < w.columns; ++c) {
        if (c % kRun == 0) codes_plain(w, r, c, kRun, run);
        const int code = run[c % kRun];
        sum += ((w.whole ? w.whole[code] : code) - w.base) * xs[c];
        if (c + 1 == w.columns || (c + 1) % w.wide == 0) {
          total += static_cast<float>(sum) * scale_of(w, r, block);
          if (w.offset) offsets += w.offset[r / w.tall * w.across + block] * x.sums[t * w.across + block];
          sum = 0;
          ++block;
        }
      }
      y[t * y_step + r] = total * w.unit * x.scale[t] + offsets;
    }
  return true;
}

// Eight codes of at most five bits lie in eight bytes, whichever bit they start at.
[[maybe_unused]] static void shift_in_plain(const std::uint8_t* words, std::size_t bytes, std::size_t at, int bits,
                                            std::size_t columns, std::uint16_t mask, std::uint16_t* state) {
  const std::uint16_t code_mask = static_cast<std::uint16_t>((1u << bits) - 1u);
  for (std::size_t c = 0; c < columns; c += 8, at += 8 * static_cast<std::size_t>(bits)) {
    const std::size_t left = bytes - at / 8;
    std::uint64_t eight = 0;
    if (left >= 8) {
      __builtin_memcpy(&eight, words + at / 8, 8);
    } else {
      __builtin_memcpy(&eight, words + at / 8, left);
    }
    eight >>= at % 8;
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i, eight >>= bits)
      state[c + i] = static_cast<std::uint16_t>(((state[c + i] << bits) | (eight & code_mask)) & mask);
  }
}

// Eight are read before any is written: as far as the compiler knows, what is written may lie in the table.
template <typename Value>
TERCILE_INLINE void look_up(const std::uint16_t* state, std::size_t n, const Value* table, Value* out) {
  std::size_t c = 0;
  for (; c + 8 <= n; c += 8) {
    Value now[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) now[i] = table[state[c + i]];
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) out[c + i] = now[i];
  }
  for (; c < n; ++c) out[c] = table[state[c]];
}

[[maybe_unused]] static void look_up_floats(const std::uint16_t* state, std::size_t n, const float* table, float* out) {
  look_up(state, n, table, out);
}

[[maybe_unused]] static void look_up_bytes_plain(const std::uint16_t* state, std::size_t n, int, const std::uint8_t* table,
                                                 std::uint8_t* out) {
  look_up(state, n, table, out);
}

}  // namespace tercile::TERCILE_TARGET
