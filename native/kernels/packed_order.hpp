// Activations in the order in which products read codes, for AVX2 and NEON.
#pragma once
#include "packed_runs.hpp"

namespace tercile::TERCILE_TARGET {

// Where each element of a run comes from: its dwords of codes in turn, plane by plane.
TERCILE_INLINE std::size_t byte_order(int planes, std::size_t i) {
  const std::size_t plane = i / kRun, dword = i % kRun / 4, byte = i % 4, step = static_cast<std::size_t>(planes);
  return (dword * 4 + byte) * step + plane;
}

// As values_of gives them: within a register, the j-th dwords of each 128 bits.
TERCILE_INLINE std::size_t float_order(int planes, std::size_t i) {
  const std::size_t lane = i % kHeld, j = i / kHeld % 4, first = i / (4 * kHeld) * (4 * kHeld);
  return byte_order(planes, first + lane / 4 * 16 + 4 * j + lane % 4);
}

static void arrange_floats(const PackedRows& w, const float* x, float* out) {
  std::uint16_t order[8 * kRun];
  const std::size_t codes = kRun * static_cast<std::size_t>(w.planes);
  for (std::size_t i = 0; i < codes; ++i) order[i] = static_cast<std::uint16_t>(float_order(w.planes, i));
  for (std::size_t c = 0; c < w.columns; c += codes, x += codes, out += codes)
    if (c + codes <= w.columns)
      for (std::size_t i = 0; i < codes; ++i) out[i] = x[order[i]];
    else
      for (std::size_t i = 0; i < codes; ++i) out[i] = order[i] < w.columns - c ? x[order[i]] : 0.0f;
}

// start[...] = -base * sum of each lane's bytes; codes that come less 128 have a base of 128 less.
static void arrange_signed(const PackedRows& w, const std::int8_t* x, std::int8_t* out, std::int32_t* start,
                           std::size_t runs_in_part) {
  std::uint16_t order[8 * kRun];
  const std::size_t codes = kRun * static_cast<std::size_t>(w.planes), runs = (w.columns + codes - 1) / codes;
  for (std::size_t i = 0; i < codes; ++i) order[i] = static_cast<std::uint16_t>(byte_order(w.planes, i));
  const std::int32_t base = w.base - (lowered(w) ? 128 : 0);
  for (std::size_t run = 0; run < runs; start += 16) {
    Adder sum[kRegisters] = {};
    for (const std::size_t end = run + runs_in_part < runs ? run + runs_in_part : runs; run < end; ++run) {
      std::int8_t* to = out + run * codes;
      for (std::size_t i = 0; i < codes; ++i) to[i] = x[run * codes + order[i]];
      for (std::size_t i = 0; i < codes; i += kRun)
#pragma GCC unroll 4
        for (int h = 0; h < kRegisters; ++h) {
          sum[h].open();
          sum[h].template put<1>(all_bytes(1), load_bytes(to + i + h * kRegisterBytes));
          sum[h].settle();
        }
    }
#pragma GCC unroll 4
    for (int h = 0; h < kRegisters; ++h) {
      const IntRegister all = -base * sum[h].sum;
      __builtin_memcpy(start + h * kHeld, &all, sizeof all);
    }
  }
}

}  // namespace tercile::TERCILE_TARGET
