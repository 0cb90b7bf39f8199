// Products of a few rows of activations with codes as they are stored, for AVX2 and NEON: some rows of the matrix at a
// time, so that activations are read once for all of them and memory delivers as many streams.
#pragma once
#include "packed_order.hpp"

namespace tercile::TERCILE_TARGET {

// Rows of the matrix at a time: as many as keep memory busy and their sums in registers.
constexpr int kTogether = kHeld == 8 ? 8 : 4;

// Scales of the lanes of a register whose blocks are `index`: one for all, or lane by lane.
template <bool even>
TERCILE_INLINE Register lane_scales(const float* scale, const std::int32_t* index) {
  return even ? scale[index[0]] - Register{} : pick(scale, index);
}

template <typename C, bool mapped>
struct WholeProduct {
  using Codes = C;
  using Sum = Adder;
  static constexpr int kBits = mapped ? 8 : C::kBits;
  const PackedRows& w;
  const WholeRows& x;
  Map map;

  TERCILE_MEMBER static Register real(const Sum& sum) { return reals(sum.sum); }
  // The lanes that the activations come with, folded to those of a register.
  TERCILE_MEMBER Sum begin(std::size_t token, std::size_t part) const {
    const std::int32_t* start = x.start + (token * x.parts + part) * 16;
    Sum sum{};
#pragma GCC unroll 4
    for (int h = 0; h < kRegisters; ++h) sum.sum += load_ints(start + h * kHeld);
    return sum;
  }
  // Products of every `step`-th register of codes from `first` on.
  template <int tokens, int first, int step>
  TERCILE_MEMBER void add(const C& run, std::size_t token, std::size_t number, Sum* sum) const {
    constexpr int room = kRoom<kBits>, count = (C::kCount - first + step - 1) / step;
    const std::int8_t* from = x.x + token * x.step + number * C::kCodes;
#pragma GCC unroll 32
    for (int i = 0; i < count; ++i) {
      ByteRegister codes = run.of((first + i * step) / kRegisters, (first + i * step) % kRegisters);
      if constexpr (mapped) codes = mapped_codes<C::kBits>(codes, map);
      if constexpr (!kUnsigned && kBits == 8) codes ^= all_bytes(128);
#pragma GCC unroll 4
      for (int t = 0; t < tokens; ++t) {
        if (i % room == 0) sum[t].open();
        sum[t].template put<kBits>(
            codes, load_bytes(from + static_cast<std::size_t>(t) * x.step + (first + i * step) * kRegisterBytes));
        if ((i + 1) % room == 0 || i + 1 == count) sum[t].settle();
      }
    }
  }
  template <int tokens>
  TERCILE_MEMBER void add_run(const C& run, std::size_t token, std::size_t number, Sum* sum) const {
    add<tokens, 0, 1>(run, token, number, sum);
  }
  template <int tokens, int h, bool even>
  TERCILE_MEMBER void add_part(const C& run, std::size_t token, std::size_t number, const float* scale,
                               const std::int32_t* index, Register* total) const {
    Sum sum[tokens];
#pragma GCC unroll 4
    for (int t = 0; t < tokens; ++t) sum[t].sum = load_ints(x.start + ((token + t) * x.parts + number) * 16 + h * kHeld);
    add<tokens, h, kRegisters>(run, token, number, sum);
    const Register by = lane_scales<even>(scale, index);
#pragma GCC unroll 4
    for (int t = 0; t < tokens; ++t) total[t] += reals(sum[t].sum) * by;
  }
  float end(float total, std::size_t token, std::size_t row) const {
    const float offsets = w.offset ? dot_lanes(w.offset + row / w.tall * w.across, x.sums + token * w.across, w.across) : 0;
    return total * (w.unit * x.scale[token]) + offsets;
  }
};

template <typename C, Look how>
struct FloatProduct {
  using Codes = C;
  struct Sum {
    Register part[4];  // sums that do not wait for each other
  };
  const PackedRows& w;
  const FloatRows& x;
  Table table;

  TERCILE_MEMBER static Register real(const Sum& s) { return (s.part[0] + s.part[1]) + (s.part[2] + s.part[3]); }
  TERCILE_MEMBER Sum begin(std::size_t, std::size_t) const { return {}; }
  // Products of `count` registers of codes of each plane, from `first` on. Planes are a loop at run time: written out, this
  // would be most of the library.
  template <int tokens, int first, int count>
  TERCILE_MEMBER void add(const C& run, std::size_t token, std::size_t number, Sum* sum) const {
    const float* from = x.x + token * x.step + number * C::kCodes;
    for (int plane = 0; plane < C::kPlanes; ++plane, from += kRun)
#pragma GCC unroll 4
      for (int h = first; h < first + count; ++h) {
        Register value[4];
        values_of<how>(run.of(plane, h), table, value);
#pragma GCC unroll 4
        for (int t = 0; t < tokens; ++t)
#pragma GCC unroll 4
          for (int j = 0; j < 4; ++j)
            sum[t].part[j] += value[j] * load_register(from + static_cast<std::size_t>(t) * x.step + (4 * h + j) * kHeld);
      }
  }
  template <int tokens>
  TERCILE_MEMBER void add_run(const C& run, std::size_t token, std::size_t number, Sum* sum) const {
    add<tokens, 0, kRegisters>(run, token, number, sum);
  }
  template <int tokens, int h, bool even>
  TERCILE_MEMBER void add_part(const C& run, std::size_t token, std::size_t number, const float* scale,
                               const std::int32_t* index, Register* total) const {
    Sum sum[tokens] = {};
    add<tokens, h, 1>(run, token, number, sum);
    if constexpr (even) {
#pragma GCC unroll 4
      for (int t = 0; t < tokens; ++t) total[t] += real(sum[t]) * scale[index[0]];
      return;
    }
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      Register by;  // the four lanes of 128 bits are codes of one dword
#pragma GCC unroll 8
      for (int lane = 0; lane < kHeld; ++lane) by[lane] = scale[index[lane / 4 * 4 + j]];
#pragma GCC unroll 4
      for (int t = 0; t < tokens; ++t) total[t] += sum[t].part[j] * by;
    }
  }
  float end(float total, std::size_t token, std::size_t row) const {
    return total + (w.offset ? dot_lanes(w.offset + row / w.tall * w.across, x.sums + token * w.across, w.across) : 0.0f);
  }
};

// Some rows and some tokens at once: every lane of `total` sums scaled products.
template <typename Product, int rows, int tokens>
struct FewRows {
  using Codes = typename Product::Codes;
  using Sum = typename Product::Sum;
  static constexpr std::size_t kAhead = 1024;
  const PackedRows& w;
  const Product& product;
  std::size_t token;
  const std::uint8_t* words[rows];
  const float* scales[rows];
  std::size_t within;            // runs that may be read as whole registers, whatever lies behind the row;
  const std::uint8_t* copies[rows];  // those after them lie elsewhere
  Register total[rows][tokens];

  // What comes next is asked for in time; behind the end of a row that is the row `rows` below.
  TERCILE_MEMBER Codes load(int r, std::size_t run) const {
    const std::size_t at = run * Codes::kBytes, then = at + (w.row_bytes < kAhead ? w.row_bytes : kAhead);
    __builtin_prefetch(words[r] + (then < w.row_bytes ? then : then + (rows - 1) * w.row_bytes));
    Codes codes;
    codes.load(words[r] + at);
    return codes;
  }
  TERCILE_MEMBER void enter(std::size_t run) {
    if (run != within) return;
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) words[r] = copies[r];
  }

  // A block of some whole runs is summed and then scaled.
  TERCILE_MEMBER void block(std::size_t number, std::size_t run, std::size_t runs) {
    Sum sum[rows][tokens];
#pragma GCC unroll 4
    for (int t = 0; t < tokens; ++t) {
      sum[0][t] = product.begin(token + t, number);
#pragma GCC unroll 8
      for (int r = 1; r < rows; ++r) sum[r][t] = sum[0][t];
    }
    for (std::size_t i = 0; i < runs; ++i) {
      enter(run + i);
#pragma GCC unroll 8
      for (int r = 0; r < rows; ++r) product.template add_run<tokens>(load(r, run + i), token, run + i, sum[r]);
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 4
      for (int t = 0; t < tokens; ++t) total[r][t] += Product::real(sum[r][t]) * scales[r][number];
  }

  // A run of several blocks, or of a part of one: register by register, each in one block if `even`.
  template <bool even>
  TERCILE_MEMBER void parts(std::size_t run, std::size_t first) {
    const std::int32_t* index = w.lane_block + run * 16;
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
      const Codes codes = load(r, run);
      const float* scale = scales[r] + first;
      product.template add_part<tokens, 0, even>(codes, token, run, scale, index, total[r]);
      if constexpr (kRegisters > 1)
        product.template add_part<tokens, 1, even>(codes, token, run, scale, index + kHeld, total[r]);
      if constexpr (kRegisters > 2) {
        product.template add_part<tokens, 2, even>(codes, token, run, scale, index + 2 * kHeld, total[r]);
        product.template add_part<tokens, 3, even>(codes, token, run, scale, index + 3 * kHeld, total[r]);
      }
    }
  }

  template <bool even>
  TERCILE_MEMBER void all_parts(std::size_t runs) {
    for (std::size_t run = 0, first = 0, from = 0; run < runs; ++run) {
      enter(run);
      parts<even>(run, first);
      for (from += Codes::kCodes; from >= w.wide; from -= w.wide) ++first;
    }
  }

  TERCILE_MEMBER void all() {
    const std::size_t runs = (w.columns + Codes::kCodes - 1) / Codes::kCodes;
    if (w.lane_block) {
      if (w.wide % (Codes::kCodes / kRegisters) == 0) return all_parts<true>(runs);
      return all_parts<false>(runs);
    }
    const std::size_t in_block = w.across == 1 ? runs : w.wide / Codes::kCodes;
    std::size_t number = 0, run = 0;
    for (; run < runs; run += in_block) block(number++, run, runs - run < in_block ? runs - run : in_block);
  }
};

}  // namespace tercile::TERCILE_TARGET
