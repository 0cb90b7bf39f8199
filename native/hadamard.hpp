// Rows times a Hadamard matrix of any size: n = m * 2^a, a fast Walsh-Hadamard transform over each of m pieces of 2^a
// neighbours, and an m x m matrix across the pieces. Every sum is taken in one order, so all machines give the same bits.
#pragma once
#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <vector>

#include "cpu.hpp"
#include "parallel.hpp"

namespace tercile {

struct Hadamard {
  const float* across;  // (pieces, pieces), orthogonal
  std::size_t pieces, wide;

  Hadamard(const float* across, std::size_t pieces, std::size_t columns)
      : across(across), pieces(pieces), wide(pieces ? columns / pieces : 0) {
    if (!wide || wide * pieces != columns) throw std::invalid_argument("across must divide the columns");
    if (wide & (wide - 1)) throw std::invalid_argument("each piece must be a power of two");
  }

  // In place on each of so many rows.
  void turn(float* x, std::size_t rows, bool back) const {
    const Kernels& k = kernels();
    const std::size_t columns = pieces * wide, chunk = std::max<std::size_t>(1, (1 << 16) / columns);
    const float unit = 1.0f / std::sqrt(static_cast<float>(wide));
    parallel((rows + chunk - 1) / chunk, [&](std::ptrdiff_t piece) {
      std::vector<float> space(columns);
      for (std::size_t r = piece * chunk; r < std::min(rows, (piece + 1) * chunk); ++r)
        k.hadamard_row(x + r * columns, pieces, wide, unit, across, back, space.data());
    });
  }
};

}  // namespace tercile
