// What turns activations before a product with a matrix that is stored turned.
#pragma once
#include <cmath>
#include <stdexcept>

#include "../bind.hpp"
#include "packed.hpp"

namespace tercile {

// Signs of columns, and then a Hadamard matrix. It follows from the number of columns alone. Sums may be contracted here:
// no code is chosen by them.
class Rotation {
 public:
  Rotation(Array<const float, 1> signs, Array<const float, 2> across, std::size_t columns)
      : signs_(signs), across_(across), columns_(columns) {
    const std::size_t pieces = across.shape(0), wide = pieces ? columns / pieces : 0;
    if (signs.shape(0) != columns || across.shape(1) != pieces || !wide || wide * pieces != columns || wide & (wide - 1))
      throw std::invalid_argument("a rotation must have a sign a column, and a square matrix across pieces of 2^a");
  }

  // One row; space: as many numbers.
  void turn(const float* x, float* out, float* space) const {
    const std::size_t pieces = across_.shape(0), wide = columns_ / pieces;
    for (std::size_t c = 0; c < columns_; ++c) out[c] = x[c] * signs_.data()[c];
    packed_kernels().hadamard_row(out, pieces, wide, 1.0f / std::sqrt(static_cast<float>(wide)), across_.data(), false,
                                  space);
  }

  std::size_t columns() const { return columns_; }

 private:
  Array<const float, 1> signs_;
  Array<const float, 2> across_;
  std::size_t columns_;
};

}  // namespace tercile
