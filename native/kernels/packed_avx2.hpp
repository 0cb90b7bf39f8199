// What products on codes are made of, by AVX2 and, where the compiler may use it, AVX-VNNI.
#pragma once
#include <immintrin.h>

#include "packed_registers.hpp"

namespace tercile::TERCILE_TARGET {

// Codes of b bits, one or two in 16 bits, whose bytes are brought there and moved to the top by a product with a power of
// two. Two of 7 bits may lie in three bytes.
template <int bits>
struct Window {
  static constexpr int kCodes = bits == 7 ? 1 : 2;
  alignas(32) std::uint8_t from[32];
  alignas(32) std::uint16_t factor[16];
  constexpr Window() : from{}, factor{} {
    for (int i = 0; i < 16; ++i) {
      const int at = i % 8 * bits * kCodes;
      from[2 * i] = static_cast<std::uint8_t>(at / 8);
      from[2 * i + 1] = static_cast<std::uint8_t>(at / 8 + 1);
      factor[i] = static_cast<std::uint16_t>(1 << (16 - kCodes * bits - at % 8));
    }
  }
};

// Two pieces of 16 bytes, `apart` bytes apart, as windows.
template <int bits>
TERCILE_INLINE __m256i windows(const std::uint8_t* from, int apart) {
  static constexpr Window<bits> kWindow;
  const __m256i order = _mm256_load_si256(reinterpret_cast<const __m256i*>(kWindow.from));
  const __m256i factor = _mm256_load_si256(reinterpret_cast<const __m256i*>(kWindow.factor));
  const __m256i raw =
      _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))),
                              _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + apart)), 1);
  return _mm256_mullo_epi16(_mm256_shuffle_epi8(raw, order), factor);
}

// 32 codes in natural order.
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
  if constexpr (bits == 7) {
    // Codes 0-7 and 16-23, then 8-15 and 24-31: packing takes them by halves of a register.
    return _mm256_packus_epi16(_mm256_srli_epi16(windows<7>(from, 14), 9), _mm256_srli_epi16(windows<7>(from + 7, 14), 9));
  }
  constexpr int mask = (1 << bits) - 1;
  const __m256i pairs = windows<bits == 8 ? 1 : bits>(from, 2 * bits);
  return _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(pairs, 16 - 2 * bits), _mm256_set1_epi16(mask)),
                         _mm256_and_si256(_mm256_srli_epi16(pairs, 8 - bits), _mm256_set1_epi16(mask << 8)));
}

// Bytes that 64 codes are read from; windows come in pieces of 16.
template <int bits>
constexpr std::size_t kReads = bits == 8 || bits == 4 || bits == 2 ? 8 * bits : (bits == 7 ? 7 : 6) * bits + 16;

template <int bits>
TERCILE_INLINE void run_codes(const std::uint8_t* from, ByteRegister* codes) {
  codes[0] = reinterpret_cast<ByteRegister>(codes32<bits>(from));
  codes[1] = reinterpret_cast<ByteRegister>(codes32<bits>(from + 4 * bits));
}

struct Table16 {
  __m256i bytes;
};

TERCILE_INLINE Table16 table16(const std::uint8_t* from) {
  return {_mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)))};
}

TERCILE_INLINE ByteRegister look(Table16 table, ByteRegister codes) {
  return reinterpret_cast<ByteRegister>(_mm256_shuffle_epi8(table.bytes, reinterpret_cast<__m256i>(codes)));
}

// out[i] = from[order[i]] for 16 bytes.
TERCILE_INLINE void shuffle16(const std::int8_t* from, const std::uint8_t* order, std::uint8_t* out) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out),
                   _mm_shuffle_epi8(bytes, _mm_load_si128(reinterpret_cast<const __m128i*>(order))));
}

TERCILE_INLINE Woven zip_bytes(ByteRegister a, ByteRegister b) {
  const __m256i first = reinterpret_cast<__m256i>(a), second = reinterpret_cast<__m256i>(b);
  return {reinterpret_cast<ByteRegister>(_mm256_unpacklo_epi8(first, second)),
          reinterpret_cast<ByteRegister>(_mm256_unpackhi_epi8(first, second))};
}

TERCILE_INLINE Woven zip_shorts(ByteRegister a, ByteRegister b) {
  const __m256i first = reinterpret_cast<__m256i>(a), second = reinterpret_cast<__m256i>(b);
  return {reinterpret_cast<ByteRegister>(_mm256_unpacklo_epi16(first, second)),
          reinterpret_cast<ByteRegister>(_mm256_unpackhi_epi16(first, second))};
}

TERCILE_INLINE Register real_halves(const std::uint16_t* from) {
  return reinterpret_cast<Register>(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
}

TERCILE_INLINE Register pick(const float* from, const std::int32_t* index) {
  const __m256i at = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(index));
  return reinterpret_cast<Register>(
      _mm256_permutevar8x32_ps(_mm256_loadu_ps(from + index[0]), _mm256_sub_epi32(at, _mm256_set1_epi32(index[0]))));
}

TERCILE_INLINE void transpose(IntRegister square[8]) {
  __m256i t[8], u[8];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const __m256i a = reinterpret_cast<__m256i>(square[2 * i]), b = reinterpret_cast<__m256i>(square[2 * i + 1]);
    t[2 * i] = _mm256_unpacklo_epi32(a, b), t[2 * i + 1] = _mm256_unpackhi_epi32(a, b);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {
    u[i] = _mm256_unpacklo_epi64(t[i], t[i + 2]), u[i + 1] = _mm256_unpackhi_epi64(t[i], t[i + 2]);
    u[i + 2] = _mm256_unpacklo_epi64(t[i + 1], t[i + 3]), u[i + 3] = _mm256_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    square[i] = reinterpret_cast<IntRegister>(_mm256_permute2x128_si256(u[i], u[i + 4], 0x20));
    square[i + 4] = reinterpret_cast<IntRegister>(_mm256_permute2x128_si256(u[i], u[i + 4], 0x31));
  }
}

#if defined(__AVXVNNI__)
constexpr bool kUnsigned = true;
template <int bits>
constexpr int kRoom = 1 << 20;

struct Adder {
  IntRegister sum;
  TERCILE_MEMBER void open() {}
  template <int bits>
  TERCILE_MEMBER void put(ByteRegister codes, ByteRegister x) {
    sum = reinterpret_cast<IntRegister>(_mm256_dpbusd_avx_epi32(
        reinterpret_cast<__m256i>(sum), reinterpret_cast<__m256i>(codes), reinterpret_cast<__m256i>(x)));
  }
  TERCILE_MEMBER void settle() {}
};
#else
constexpr bool kUnsigned = false;
// Products go in pairs into sums of 16 bits, which must not overflow.
template <int bits>
constexpr int kRoom = bits == 8 ? 1 : 32767 / (2 * 127 * ((1 << bits) - 1));

struct Adder {
  typedef std::int16_t Pairs __attribute__((vector_size(32)));
  IntRegister sum;
  Pairs pairs;
  TERCILE_MEMBER void open() { pairs = Pairs{}; }
  template <int bits>
  TERCILE_MEMBER void put(ByteRegister codes, ByteRegister x) {
    __m256i positive = reinterpret_cast<__m256i>(codes), other = reinterpret_cast<__m256i>(x);
    if constexpr (bits == 8) {  // codes have a sign, which goes to the activations: 2 * 128 * 127 fits
      other = _mm256_sign_epi8(other, positive);
      positive = _mm256_abs_epi8(positive);
    }
    pairs += reinterpret_cast<Pairs>(_mm256_maddubs_epi16(positive, other));
  }
  TERCILE_MEMBER void settle() {
    sum += reinterpret_cast<IntRegister>(_mm256_madd_epi16(reinterpret_cast<__m256i>(pairs), _mm256_set1_epi16(1)));
  }
};
#endif

}  // namespace tercile::TERCILE_TARGET
