// What products on codes are made of, by NEON and, where the compiler may use it, by its dot products of bytes.
#pragma once
#include <arm_neon.h>

#include "packed_registers.hpp"

namespace tercile::TERCILE_TARGET {

// Sixteen codes lie in 2 * bits bytes: each is shifted out of two of them. Codes 8-15 lie `bits` bytes behind codes 0-7.
template <int bits>
struct Window {
  alignas(16) std::uint8_t from[16];
  alignas(16) std::int16_t shift[8];
  constexpr Window() : from{}, shift{} {
    for (int i = 0; i < 8; ++i) {
      from[2 * i] = static_cast<std::uint8_t>(i * bits / 8);
      from[2 * i + 1] = static_cast<std::uint8_t>(i * bits / 8 + 1);
      shift[i] = static_cast<std::int16_t>(-(i * bits % 8));
    }
  }
};

// Bytes that 64 codes are read from; windows come in pieces of 16.
template <int bits>
constexpr std::size_t kReads = bits == 8 ? 64 : 6 * bits + 16;

template <int bits>
TERCILE_INLINE void run_codes(const std::uint8_t* from, ByteRegister* codes) {
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const uint8x16_t raw = vld1q_u8(from + 2 * bits * i);
    if constexpr (bits == 8) {
      codes[i] = reinterpret_cast<ByteRegister>(raw);
    } else {
      static constexpr Window<bits> kWindow;
      const uint8x16_t order = vld1q_u8(kWindow.from);
      const int16x8_t shift = vld1q_s16(kWindow.shift);
      const uint16x8_t low = vshlq_u16(vreinterpretq_u16_u8(vqtbl1q_u8(raw, order)), shift);
      const uint16x8_t high = vshlq_u16(vreinterpretq_u16_u8(vqtbl1q_u8(raw, vaddq_u8(order, vdupq_n_u8(bits)))), shift);
      const uint8x16_t all = vuzp1q_u8(vreinterpretq_u8_u16(low), vreinterpretq_u8_u16(high));
      codes[i] = reinterpret_cast<ByteRegister>(vandq_u8(all, vdupq_n_u8((1 << bits) - 1)));
    }
  }
}

struct Table16 {
  uint8x16_t bytes;
};

TERCILE_INLINE Table16 table16(const std::uint8_t* from) { return {vld1q_u8(from)}; }

TERCILE_INLINE ByteRegister look(Table16 table, ByteRegister codes) {
  return reinterpret_cast<ByteRegister>(vqtbl1q_u8(table.bytes, reinterpret_cast<uint8x16_t>(codes)));
}

TERCILE_INLINE void shuffle16(const std::int8_t* from, const std::uint8_t* order, std::uint8_t* out) {
  vst1q_u8(out, vqtbl1q_u8(vreinterpretq_u8_s8(vld1q_s8(from)), vld1q_u8(order)));
}

TERCILE_INLINE Woven zip_bytes(ByteRegister a, ByteRegister b) {
  const uint8x16_t first = reinterpret_cast<uint8x16_t>(a), second = reinterpret_cast<uint8x16_t>(b);
  return {reinterpret_cast<ByteRegister>(vzip1q_u8(first, second)), reinterpret_cast<ByteRegister>(vzip2q_u8(first, second))};
}

TERCILE_INLINE Woven zip_shorts(ByteRegister a, ByteRegister b) {
  const uint16x8_t first = reinterpret_cast<uint16x8_t>(a), second = reinterpret_cast<uint16x8_t>(b);
  return {reinterpret_cast<ByteRegister>(vzip1q_u16(first, second)),
          reinterpret_cast<ByteRegister>(vzip2q_u16(first, second))};
}

TERCILE_INLINE Register real_halves(const std::uint16_t* from) {
  return reinterpret_cast<Register>(vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from))));
}

TERCILE_INLINE Register pick(const float* from, const std::int32_t* index) {
  // The bytes of element i of four are 4 i ... 4 i + 3.
  const int32x4_t apart = vsubq_s32(vld1q_s32(index), vdupq_n_s32(index[0]));
  const int32x4_t bytes = vmlaq_n_s32(vdupq_n_s32(0x03020100), apart, 0x04040404);
  const uint8x16_t floats = vreinterpretq_u8_f32(vld1q_f32(from + index[0]));
  return reinterpret_cast<Register>(vqtbl1q_u8(floats, vreinterpretq_u8_s32(bytes)));
}

TERCILE_INLINE void transpose(IntRegister square[4]) {
  const int32x4_t a = reinterpret_cast<int32x4_t>(square[0]), b = reinterpret_cast<int32x4_t>(square[1]);
  const int32x4_t c = reinterpret_cast<int32x4_t>(square[2]), d = reinterpret_cast<int32x4_t>(square[3]);
  const int64x2_t ab = vreinterpretq_s64_s32(vtrn1q_s32(a, b)), cd = vreinterpretq_s64_s32(vtrn1q_s32(c, d));
  const int64x2_t ab1 = vreinterpretq_s64_s32(vtrn2q_s32(a, b)), cd1 = vreinterpretq_s64_s32(vtrn2q_s32(c, d));
  square[0] = reinterpret_cast<IntRegister>(vtrn1q_s64(ab, cd));
  square[1] = reinterpret_cast<IntRegister>(vtrn1q_s64(ab1, cd1));
  square[2] = reinterpret_cast<IntRegister>(vtrn2q_s64(ab, cd));
  square[3] = reinterpret_cast<IntRegister>(vtrn2q_s64(ab1, cd1));
}

constexpr bool kUnsigned = false;

#if defined(__ARM_FEATURE_DOTPROD)
template <int bits>
constexpr int kRoom = 1 << 20;

struct Adder {
  IntRegister sum;
  TERCILE_MEMBER void open() {}
  template <int bits>
  TERCILE_MEMBER void put(ByteRegister codes, ByteRegister x) {
    sum = reinterpret_cast<IntRegister>(vdotq_s32(reinterpret_cast<int32x4_t>(sum), reinterpret_cast<int8x16_t>(codes),
                                                  reinterpret_cast<int8x16_t>(x)));
  }
  TERCILE_MEMBER void settle() {}
};
#else
// Products go into sums of 16 bits, which must not overflow.
template <int bits>
constexpr int kRoom = bits == 8 ? 2 : 32767 / (127 * ((1 << bits) - 1));

struct Adder {
  IntRegister sum;
  int16x8_t low, high;
  TERCILE_MEMBER void open() { low = high = vdupq_n_s16(0); }
  template <int bits>
  TERCILE_MEMBER void put(ByteRegister codes, ByteRegister x) {
    const int8x16_t c = reinterpret_cast<int8x16_t>(codes), v = reinterpret_cast<int8x16_t>(x);
    low = vmlal_s8(low, vget_low_s8(c), vget_low_s8(v));
    high = vmlal_high_s8(high, c, v);
  }
  TERCILE_MEMBER void settle() {
    sum += reinterpret_cast<IntRegister>(vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high)));
  }
};
#endif

}  // namespace tercile::TERCILE_TARGET
