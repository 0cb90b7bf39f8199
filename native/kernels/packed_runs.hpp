// Codes and scales of a row as products read them, for AVX2 and NEON.
#pragma once
#include "packed_registers.hpp"

namespace tercile::TERCILE_TARGET {

constexpr int kRegisterBytes = 4 * kHeld;

// The last bytes of a row, zeros behind them: what is read there as whole registers lies in a copy.
constexpr std::size_t kLastBytes = 192;

TERCILE_INLINE void copy_last(const std::uint8_t* from, std::size_t some, std::uint8_t* copy) {
  __builtin_memset(copy, 0, kLastBytes);
  __builtin_memcpy(copy, from, some < kLastBytes ? some : kLastBytes);
}

// A run: 64 codes one after another, or 64 bytes of codes of several planes.
template <int bits, bool by_plane>
struct Codes {
  static constexpr int kBits = bits, kPlanes = by_plane ? 8 / bits : 1, kBytes = 8 * bits * kPlanes;
  static constexpr int kCount = kPlanes * kRegisters;
  static constexpr std::size_t kCodes = kRun * kPlanes;
  static constexpr std::size_t kReadBytes = by_plane ? 64 : kReads<bits>;
  ByteRegister held[kRegisters];

  // Runs of a row of `bytes` that may be loaded where they are.
  static std::size_t within(std::size_t bytes) { return bytes < kReadBytes ? 0 : (bytes - kReadBytes) / kBytes + 1; }

  TERCILE_MEMBER void load(const std::uint8_t* from) {
    if constexpr (!by_plane) return run_codes<bits>(from, held);
#pragma GCC unroll 4
    for (int h = 0; h < kRegisters; ++h) held[h] = load_bytes(from + h * kRegisterBytes);
  }
  TERCILE_MEMBER ByteRegister of(int plane, int h) const {
    if constexpr (by_plane) return plane_of<bits>(held[h], plane);
    return held[h];
  }
};

// call(bits), a statement that returns.
#define TERCILE_BY_BITS(bits, call) \
  switch (bits) {                   \
    case 1: { call(1); }            \
    case 2: { call(2); }            \
    case 3: { call(3); }            \
    case 4: { call(4); }            \
    case 5: { call(5); }            \
    case 6: { call(6); }            \
    case 7: { call(7); }            \
    default: { call(8); }           \
  }

template <int bits>
static void codes_of(const PackedRows& w, std::size_t row, std::size_t first, std::size_t count, std::uint8_t* out) {
  const std::uint8_t* from = w.words + row * w.row_bytes;
  alignas(64) std::uint8_t copy[kLastBytes];
  const std::size_t within = Codes<bits, false>::within(w.row_bytes);
  for (std::size_t c = 0, number = first / kRun; c < count; c += kRun, ++number) {
    if (number == within || (c == 0 && number > within)) {
      copy_last(from + within * 8 * bits, w.row_bytes - within * 8 * bits, copy);
      from = copy - within * 8 * bits;
    }
    Codes<bits, false> run;
    run.load(from + number * 8 * bits);
#pragma GCC unroll 4
    for (int h = 0; h < kRegisters; ++h) store_bytes(out + c + h * kRegisterBytes, run.of(0, h));
  }
}

static void codes_of_row(const PackedRows& w, std::size_t row, std::size_t first, std::size_t count, std::uint8_t* out) {
#define TERCILE_CALL(b) return codes_of<b>(w, row, first, count, out)
  TERCILE_BY_BITS(w.bits, TERCILE_CALL)
#undef TERCILE_CALL
}

static void scales_of_row(const PackedRows& w, std::size_t row, std::size_t first, std::size_t count, float factor,
                          float* out) {
  const std::size_t at = row / w.tall * w.across + first;
  std::size_t b = 0;
  for (; b + kHeld <= count; b += kHeld)
    store_register(out + b, (w.scale ? load_register(w.scale + at + b) : real_halves(w.half_scale + at + b)) * factor);
  for (; b < count; ++b) out[b] = factor * scale_of(w, row, first + b);
}

// Whether sums of this matrix are of codes less 128.
TERCILE_INLINE bool lowered(const PackedRows& w) { return !kUnsigned && (w.bits == 8 || w.whole); }

// Whole numbers in place of codes.
struct Map {
  Table16 small;
  const std::uint8_t* all;
};

// Never inlined: it is slow anyway, and long.
__attribute__((noinline)) static void codes_in_memory(const std::uint8_t* map, std::uint8_t* codes) {
  for (int i = 0; i < kRegisterBytes; ++i) codes[i] = map[codes[i]];
}

__attribute__((noinline)) static void values_in_memory(const float* table, const std::uint8_t* codes, float* out) {
  for (int j = 0; j < 4; ++j)
    for (int i = 0; i < kHeld; ++i) out[j * kHeld + i] = table[codes[i / 4 * 16 + 4 * j + i % 4]];
}

template <int bits>
TERCILE_INLINE ByteRegister mapped_codes(ByteRegister codes, const Map& map) {
  if constexpr (bits <= 4) return look(map.small, codes);
  std::uint8_t each[kRegisterBytes];
  store_bytes(each, codes);
  codes_in_memory(map.all, each);
  return load_bytes(each);
}

// How codes become floats: by the upper half of a float, where the lower half of all is zero, or by all four bytes, each
// byte from a table of 16; by arithmetic; or by looking them up in memory.
enum class Look { halves, bytes, linear, memory };

struct Table {
  Table16 byte[4];
  std::int32_t base;
  const float* memory;
};

TERCILE_INLINE Table table_of(const PackedRows& w) {
  std::uint8_t byte[4][16];
  for (int i = 0; i < 16; ++i) {
    std::uint32_t value;
    __builtin_memcpy(&value, w.table + i, sizeof value);
    for (int b = 0; b < 4; ++b) byte[b][i] = static_cast<std::uint8_t>(value >> (8 * b));
  }
  return {{table16(byte[0]), table16(byte[1]), table16(byte[2]), table16(byte[3])}, w.base, w.table};
}

static Look look_of(const PackedRows& w) {
  if (w.bits > 4) return w.linear ? Look::linear : Look::memory;
  for (int i = 0; i < 1 << w.bits; ++i) {
    std::uint32_t value;
    __builtin_memcpy(&value, w.table + i, sizeof value);
    if (value & 0xffffu) return Look::bytes;
  }
  return Look::halves;
}

// Values of a register of codes in four registers: register j has the codes of the j-th dword of each 128 bits.
template <Look how>
TERCILE_INLINE void values_of(ByteRegister codes, const Table& table, Register value[4]) {
  if constexpr (how == Look::memory) {
    std::uint8_t each[kRegisterBytes];
    float found[4 * kHeld];
    store_bytes(each, codes);
    values_in_memory(table.memory, each, found);
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) value[j] = load_register(found + j * kHeld);
    return;
  }
  Woven lower{}, upper{};
  if constexpr (how == Look::linear) {
    lower = zip_bytes(codes, ByteRegister{});
  } else {
    if constexpr (how == Look::bytes) lower = zip_bytes(look(table.byte[0], codes), look(table.byte[1], codes));
    upper = zip_bytes(look(table.byte[2], codes), look(table.byte[3], codes));
  }
  const Woven first = zip_shorts(lower.low, upper.low), second = zip_shorts(lower.high, upper.high);
  const ByteRegister all[4] = {first.low, first.high, second.low, second.high};
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j)
    value[j] = how == Look::linear ? reals(reinterpret_cast<IntRegister>(all[j]) - table.base)
                                   : reinterpret_cast<Register>(all[j]);
}

template <Look how>
static void values_by(const PackedRows& w, const std::uint8_t* codes, std::size_t count, float* out) {
  const Table table = table_of(w);
  std::size_t i = 0;
  for (; i + kRegisterBytes <= count; i += kRegisterBytes) {
    Register value[4];
    values_of<how>(load_bytes(codes + i), table, value);
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j)
#pragma GCC unroll 2
      for (int part = 0; part < kHeld / 4; ++part)
        __builtin_memcpy(out + i + 16 * part + 4 * j, reinterpret_cast<const float*>(&value[j]) + 4 * part, 16);
  }
  for (; i < count; ++i) out[i] = w.table[codes[i]];
}

static void values_of_row(const PackedRows& w, const std::uint8_t* codes, std::size_t count, float* out) {
  switch (look_of(w)) {
    case Look::halves: return values_by<Look::halves>(w, codes, count, out);
    case Look::bytes: return values_by<Look::bytes>(w, codes, count, out);
    case Look::linear: return values_by<Look::linear>(w, codes, count, out);
    default: return values_by<Look::memory>(w, codes, count, out);
  }
}

}  // namespace tercile::TERCILE_TARGET
