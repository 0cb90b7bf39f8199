// A stored matrix as a layer multiplies by it: what it reads may be turned before it and rounded, and a thin branch may
// stand beside it.
#pragma once
#include <optional>
#include <vector>

#include "matrix.hpp"

namespace tercile {

// Activations that several layers read, turned and rounded once for all of them, when first asked for; of one caller.
class Activations {
 public:
  Activations(const float* x, std::size_t m, std::size_t columns) : m(m), columns(columns), x_(x) {}

  const std::size_t m, columns;

  const float* floats(const Rotation* rotation) const;
  const Rounded& rounded(const Rotation* rotation) const;

 private:
  const float* x_;
  mutable std::vector<float> turned_;
  mutable std::optional<Rounded> rounded_[2];  // as they are, turned
};

class PackedLayer {
 public:
  // step: of all activations, where they are rounded by a fixed one, else 0. A branch, of (rank, columns) and (rank, rows),
  // adds what right and then the transposed left make of activations as they are.
  PackedLayer(const PackedMatrix* matrix, std::optional<Array<const float, 1>> signs,
              std::optional<Array<const float, 2>> across, bool rounded, float step, const PackedMatrix* right,
              const PackedMatrix* left);

  std::size_t rows() const { return matrix_->rows(); }
  std::size_t columns() const { return matrix_->columns(); }

  void multiply(const Activations& x, const Output& to) const;

 private:
  void add_branch(const Activations& x, const Output& to) const;

  const PackedMatrix *matrix_, *right_, *left_;
  std::optional<Rotation> rotation_;
  bool rounded_;
  float step_;
};

}  // namespace tercile
