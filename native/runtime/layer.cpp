#include "layer.hpp"

#include <stdexcept>

namespace tercile {

const float* Activations::floats(const Rotation* rotation) const {
  if (!rotation) return x_;
  if (turned_.empty()) {
    turned_.resize(m * columns);
    in_chunks(m, columns, [&](std::size_t first, std::size_t last) {
      std::vector<float> space(columns);
      for (std::size_t t = first; t < last; ++t)
        rotation->turn(x_ + t * columns, turned_.data() + t * columns, space.data());
    });
  }
  return turned_.data();
}

const Rounded& Activations::rounded(const Rotation* rotation) const {
  std::optional<Rounded>& made = rounded_[rotation != nullptr];
  if (!made) made.emplace(x_, m, columns, 0.0f, rotation);
  return *made;
}

PackedLayer::PackedLayer(const PackedMatrix* matrix, std::optional<Array<const float, 1>> signs,
                         std::optional<Array<const float, 2>> across, bool rounded, float step,
                         const PackedMatrix* right, std::optional<Array<const float, 1>> scale, const PackedMatrix* left)
    : matrix_(matrix), right_(right), left_(left), scale_(scale), rounded_(rounded), step_(step) {
  if (signs.has_value() != across.has_value()) throw std::invalid_argument("signs and across go together");
  if (signs) rotation_.emplace(*signs, *across, columns());
  if (!right != !left || !right != !scale) throw std::invalid_argument("right, scale and left go together");
  if (!right) return;
  const std::size_t rank = right->rows();
  if (right->columns() != columns() || left->rows() != rows() || left->columns() != rank || scale->shape(0) != rank)
    throw std::invalid_argument("the branch does not fit the matrix");
}

void PackedLayer::multiply(const Activations& x, const Output& to) const {
  const Rotation* rotation = rotation_ ? &*rotation_ : nullptr;
  if (!rounded_) {
    matrix_->multiply(x.floats(rotation), x.m, to);
  } else if (step_ > 0.0f) {
    matrix_->multiply(Rounded(x.floats(nullptr), x.m, x.columns, step_, rotation), to);
  } else {
    matrix_->multiply(x.rounded(rotation), to);
  }
  if (!right_) return;
  const std::size_t rank = right_->rows();
  std::vector<float> between(x.m * rank);
  right_->multiply(x.floats(nullptr), x.m, {between.data(), rank});
  for (std::size_t t = 0; t < x.m; ++t)
    for (std::size_t r = 0; r < rank; ++r) between[t * rank + r] *= scale_->data()[r];
  left_->multiply(between.data(), x.m, {to.y, to.step, nullptr, true});
}

}  // namespace tercile
