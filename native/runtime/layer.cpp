#include "layer.hpp"

#include <stdexcept>

#include "decoder.hpp"
#include "products.hpp"

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
                         const PackedMatrix* right, const PackedMatrix* left)
    : matrix_(matrix), right_(right), left_(left), rounded_(rounded), step_(step) {
  if (signs.has_value() != across.has_value()) throw std::invalid_argument("signs and across go together");
  if (signs) rotation_.emplace(*signs, *across, columns());
  if (!right != !left) throw std::invalid_argument("right and left go together");
  if (right && (right->columns() != columns() || left->columns() != rows() || left->rows() != right->rows()))
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
  if (right_) add_branch(x, to);
}

// A row of the left factor is a column of what is multiplied: cut into pieces, rows are panels as they are.
void PackedLayer::add_branch(const Activations& x, const Output& to) const {
  const PackedKernels& k = packed_kernels();
  const std::size_t rank = right_->rows(), high = k.panel_rows;
  std::vector<float> between(x.m * rank);
  right_->multiply(x.floats(nullptr), x.m, {between.data(), rank});
  by_rows(rows(), 16 * high, [&](std::size_t first, std::size_t last) {
    const std::size_t count = last - first;
    std::vector<float> decoded(rank * count), panel(rank * high), sum(x.m * high);
    Decoder decoder(*left_, first, last);
    for (std::size_t c = 0; c < rank; ++c) decoder.floats(c, decoded.data() + c * count);
    for (std::size_t r = 0; r < count; r += high) {
      const std::size_t some = std::min(high, count - r);
      for (std::size_t c = 0; c < rank; ++c) std::copy_n(decoded.data() + c * count + r, some, panel.data() + c * high);
      float* y = to.y + first + r;
      if (some == high) {
        k.multiply_floats(between.data(), rank, x.m, panel.data(), rank, true, y, to.step);
      } else {
        k.multiply_floats(between.data(), rank, x.m, panel.data(), rank, false, sum.data(), high);
        k.finish(sum.data(), high, x.m, some, nullptr, nullptr, true, y, to.step);
      }
    }
  });
}

}  // namespace tercile
