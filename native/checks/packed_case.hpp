// A small matrix of random codes with all that it points to, and its numbers in double precision.
#pragma once
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "../runtime/packed.hpp"

namespace tercile::checks {

inline std::mt19937 random_bits(0);
inline int failures = 0;

inline float normal() { return std::normal_distribution<float>()(random_bits); }

// Bounds are of the magnitude of what was summed; NaN fails.
inline void expect(double found, double wanted, double bound, const char* what, const PackedRows* w = nullptr) {
  if (std::abs(found - wanted) <= bound) return;
  if (++failures > 20) return;
  std::printf("%s: %g instead of %g", what, found, wanted);
  if (w) std::printf(" (%d bits, %zu x %zu, wide %zu, planes %d)", w->bits, w->rows, w->columns, w->wide, w->planes);
  std::printf("\n");
}

enum class Grid { linear, whole, real };
enum class Size { usual, mixed };  // mixed: scales of zero, 1e30 and 1e-30 too

struct Case {
  PackedRows w{};
  std::vector<std::uint8_t> words, whole;
  std::vector<float> table, scale, offset;
  std::vector<std::uint16_t> half;
  std::vector<std::int32_t> lanes;
  std::vector<int> code;      // (rows, columns)
  std::vector<double> value;  // what a code stands for, without its scale

  Case(const PackedKernels& k, int bits, std::size_t rows, std::size_t columns, std::size_t wide, std::size_t tall,
       Grid grid, Size size, bool halves, bool offsets)
      : whole(256), table(256), code(rows * columns) {
    w.rows = rows, w.columns = columns, w.bits = bits, w.unit = 1, w.tall = tall, w.wide = wide;
    w.row_bytes = (columns * static_cast<std::size_t>(bits) + 31) / 32 * 4;
    w.across = (columns + wide - 1) / wide;
    w.base = grid == Grid::whole ? static_cast<int>(random_bits() % 256) : 1 << (bits - 1);
    w.linear = grid == Grid::linear;
    if (grid == Grid::whole) w.unit = 0.37f;
    words.resize(rows * w.row_bytes);
    for (std::uint8_t& byte : words) byte = static_cast<std::uint8_t>(random_bits());
    for (int i = 0; i < 256; ++i) {
      whole[i] = static_cast<std::uint8_t>(random_bits());
      table[i] = grid == Grid::linear ? static_cast<float>(i - w.base)
                 : grid == Grid::whole ? w.unit * static_cast<float>(whole[i] - w.base)
                                       : normal();
    }
    w.words = words.data(), w.table = table.data(), w.whole = grid == Grid::whole ? whole.data() : nullptr;
    const std::size_t blocks = (rows + tall - 1) / tall * w.across;
    for (std::size_t b = 0; b < blocks; ++b) {
      const float sizes[] = {1.0f, 1.0f, 0.0f, 1e30f, 1e-30f};
      scale.push_back((0.1f + std::abs(normal())) * (size == Size::mixed && !halves ? sizes[random_bits() % 5] : 1.0f));
      if (!halves) continue;
      half.push_back(static_cast<std::uint16_t>(size == Size::mixed ? random_bits() % 0x7c00 : 0x2c00 + random_bits() % 0x1000));
      const int exponent = half[b] >> 10, rest = half[b] & 1023;
      scale[b] = static_cast<float>(exponent ? std::ldexp(1024 + rest, exponent - 25) : std::ldexp(rest, -24));
    }
    if (offsets)
      for (std::size_t b = 0; b < blocks; ++b) offset.push_back(normal());
    w.scale = halves ? nullptr : scale.data(), w.half_scale = halves ? half.data() : nullptr;
    w.offset = offsets ? offset.data() : nullptr;
    find_lanes(k.by_plane);
    for (std::size_t r = 0; r < rows; ++r)
      for (std::size_t c = 0; c < columns; ++c)
        for (int b = 0; b < bits; ++b) {
          const std::size_t at = c * static_cast<std::size_t>(bits) + static_cast<std::size_t>(b);
          code[r * columns + c] |= (words[r * w.row_bytes + at / 8] >> at % 8 & 1) << b;
        }
  }
  Case(const Case&) = delete;

  std::size_t block(std::size_t r, std::size_t c) const { return r / w.tall * w.across + c / w.wide; }
  double number(std::size_t r, std::size_t c) const {
    return static_cast<double>(table[code[r * w.columns + c]]) * scale[block(r, c)] +
           (w.offset ? offset[block(r, c)] : 0.0);
  }

 private:
  // As PackedMatrix::find_lanes does.
  void find_lanes(bool by_plane) {
    const auto fits = [&](int planes) { return w.across == 1 || w.wide % static_cast<std::size_t>(4 * planes) == 0; };
    const bool divides = w.bits == 1 || w.bits == 2 || w.bits == 4;
    w.planes = by_plane && divides && fits(8 / w.bits) ? 8 / w.bits : 1;
    const std::size_t run = kRun * static_cast<std::size_t>(w.planes), lane = run / 16;
    if (w.across == 1 || w.wide % run == 0 || !fits(w.planes)) return;
    for (std::size_t first = 0; first < w.columns; first += run)
      for (std::size_t i = 0; i < 16; ++i)
        lanes.push_back(static_cast<std::int32_t>((first + i * lane) / w.wide - first / w.wide));
    w.lane_block = lanes.data();
  }
};

}  // namespace tercile::checks
