// Bytes and whole numbers as one register holds them, what is the same for AVX2 and NEON.
//
// Products of codes are written once, in packed_few.hpp and packed_tiles.hpp, from what packed_avx2.hpp or
// packed_neon.hpp say in intrinsics:
//     run_codes<bits>(from, out)   64 codes in natural order; reads kReads<bits> bytes
//     look(table, codes)           bytes of a table of 16
//     shuffle16(from, order, out)  16 bytes in another order
//     zip_bytes, zip_shorts        elements of two registers in turn, within 128 bits
//     real_halves(from)            float16 to float32
//     pick(from, index)            floats from[index[i]], an index growing by no more than the lanes there are
//     transpose(square)            as many registers of 32-bit elements as each has elements
//     Adder                        sums of products of codes and activations, four bytes a lane
// and these say how an Adder counts: kUnsigned if it takes codes up to 255 as they are; if not, codes of 8 bits come less
// 128. kRoom<bits>: products that it takes between open() and settle().
#pragma once
#include "packed_panels.hpp"
#include "packed_plain.hpp"

namespace tercile::TERCILE_TARGET {

typedef std::uint8_t ByteRegister __attribute__((vector_size(4 * kHeld)));
typedef std::uint16_t ShortRegister __attribute__((vector_size(4 * kHeld)));
typedef std::int32_t IntRegister __attribute__((vector_size(4 * kHeld)));

// Two registers of elements that were woven.
struct Woven {
  ByteRegister low, high;
};

TERCILE_INLINE ByteRegister load_bytes(const void* from) {
  ByteRegister bytes;
  __builtin_memcpy(&bytes, from, sizeof bytes);
  return bytes;
}

TERCILE_INLINE IntRegister load_ints(const std::int32_t* from) {
  IntRegister ints;
  __builtin_memcpy(&ints, from, sizeof ints);
  return ints;
}

TERCILE_INLINE void store_bytes(void* to, ByteRegister bytes) { __builtin_memcpy(to, &bytes, sizeof bytes); }

TERCILE_INLINE Register reals(IntRegister ints) { return __builtin_convertvector(ints, Register); }

TERCILE_INLINE ByteRegister all_bytes(int value) { return ByteRegister{} + static_cast<std::uint8_t>(value); }

TERCILE_INLINE float sum_of(Register x) {
  float sum[kHeld];
  for (int i = 0; i < kHeld; ++i) sum[i] = x[i];
  for (int half = kHeld / 2; half; half /= 2)
    for (int i = 0; i < half; ++i) sum[i] += sum[i + half];
  return sum[0];
}

// Codes of plane `plane` of stored bytes.
template <int bits>
TERCILE_INLINE ByteRegister plane_of(ByteRegister stored, int plane) {
  if constexpr (bits == 8) return stored;
  const ShortRegister low = reinterpret_cast<ShortRegister>(stored) >> (bits * plane);
  return reinterpret_cast<ByteRegister>(low) & all_bytes((1 << bits) - 1);
}

}  // namespace tercile::TERCILE_TARGET
