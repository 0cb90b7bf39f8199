// Bindings of the rounding kernels: nearest level, the GPTQ column loop, candidate ranges.
//
// Shapes are checked by the Python callers, which own the error messages; what is checked again here is what would
// otherwise read or write outside an array.
#include <cmath>
#include <memory>
#include <stdexcept>

#include "bind.hpp"
#include "parallel.hpp"

namespace tercile {
namespace {

constexpr std::ptrdiff_t kTileRows = 64;
constexpr std::size_t kPiece = 1 << 16;

// Sorted levels with what the kernels derive from them.
class GridLevels {
 public:
  explicit GridLevels(Array<const float, 1> levels)
      : values_(levels.data(), levels.data() + levels.shape(0)), midpoints_(values_.size()) {
    if (values_.size() < 2 || values_.size() > 256) throw std::invalid_argument("a grid has 2 to 256 levels");
    const float step = values_[1] - values_[0];
    bool uniform = true;
    for (std::size_t i = 0; i + 1 < values_.size(); ++i) {
      if (!(values_[i] < values_[i + 1])) throw std::invalid_argument("levels must be sorted and distinct");
      midpoints_[i] = 0.5f * values_[i] + 0.5f * values_[i + 1];
      uniform = uniform && values_[0] + step * static_cast<float>(i + 1) == values_[i + 1];
    }
    view = Levels{values_.data(), midpoints_.data(), static_cast<int>(values_.size()), uniform, values_[0], step};
  }
  GridLevels(const GridLevels&) = delete;  // `view` points into this object

  Levels view;

 private:
  std::vector<float> values_, midpoints_;
};

void nearest(Array<const float, 1> x, const GridLevels& grid, Array<std::uint8_t, 1> out) {
  if (out.shape(0) != x.shape(0)) throw std::invalid_argument("out must be as long as x");
  const std::size_t n = x.shape(0);
  const Kernels& k = kernels();
  parallel(static_cast<std::ptrdiff_t>((n + kPiece - 1) / kPiece), [&](std::ptrdiff_t piece) {
    const std::size_t from = piece * kPiece, count = std::min(kPiece, n - from);
    k.nearest(x.data() + from, count, grid.view, out.data() + from);
  });
}

// weight (rows, columns) is overwritten with what the columns became before they were rounded; errors and index are
// (rows, columns); scale and offset are (rows, groups).
void solve_columns(Array<float, 2> weight, Array<const float, 2> factor, Array<const float, 2> scale,
                   Array<const float, 2> offset, Array<const std::int32_t, 1> group_of, const GridLevels& grid,
                   Array<float, 2> errors, Array<std::uint8_t, 2> index) {
  const std::ptrdiff_t rows = weight.shape(0), columns = weight.shape(1), groups = scale.shape(1);
  if (factor.shape(0) != weight.shape(1) || factor.shape(1) != weight.shape(1) || group_of.shape(0) != weight.shape(1))
    throw std::invalid_argument("factor and group_of must match the columns of weight");
  if (scale.shape(0) != weight.shape(0) || offset.shape(0) != weight.shape(0) || offset.shape(1) != scale.shape(1))
    throw std::invalid_argument("scale and offset must be (rows, groups)");
  if (errors.shape(0) != weight.shape(0) || errors.shape(1) != weight.shape(1) || index.shape(0) != weight.shape(0) ||
      index.shape(1) != weight.shape(1))
    throw std::invalid_argument("errors and index must have the shape of weight");
  for (std::ptrdiff_t j = 0; j < columns; ++j)
    if (group_of.data()[j] < 0 || group_of.data()[j] >= groups) throw std::invalid_argument("group_of is out of range");

  const Kernels& k = kernels();
  parallel((rows + kTileRows - 1) / kTileRows, [&](std::ptrdiff_t tile) {
    const std::ptrdiff_t first = tile * kTileRows, count = std::min(kTileRows, rows - first);
    std::vector<float> w(columns * count), e(columns * count), s(groups * count), o(groups * count);
    std::vector<std::uint8_t> i(columns * count);
    for (std::ptrdiff_t r = 0; r < count; ++r) {
      for (std::ptrdiff_t c = 0; c < columns; ++c) w[c * count + r] = weight.data()[(first + r) * columns + c];
      for (std::ptrdiff_t g = 0; g < groups; ++g) {
        s[g * count + r] = scale.data()[(first + r) * groups + g];
        o[g * count + r] = offset.data()[(first + r) * groups + g];
      }
    }
    k.solve_tile(w.data(), static_cast<int>(columns), static_cast<int>(count), factor.data(),
                 static_cast<int>(columns), s.data(), o.data(), group_of.data(), grid.view, e.data(), i.data());
    for (std::ptrdiff_t r = 0; r < count; ++r)
      for (std::ptrdiff_t c = 0; c < columns; ++c) {
        weight.data()[(first + r) * columns + c] = w[c * count + r];
        errors.data()[(first + r) * columns + c] = e[c * count + r];
        index.data()[(first + r) * columns + c] = i[c * count + r];
      }
  });
}

// x is (blocks, n); weight the same or (0, 0) for none; scale and offset are (blocks, candidates); writes (blocks,
// candidates) errors.
void range_errors(Array<const float, 2> x, Array<const float, 2> weight, Array<const float, 2> scale,
                  Array<const float, 2> offset, const GridLevels& grid, Array<float, 2> errors) {
  const std::size_t blocks = x.shape(0), n = x.shape(1), candidates = scale.shape(1);
  const bool weighted = weight.shape(0) > 0;
  if (scale.shape(0) != blocks || offset.shape(0) != blocks || errors.shape(0) != blocks ||
      offset.shape(1) != candidates || errors.shape(1) != candidates)
    throw std::invalid_argument("scale, offset and errors must be (blocks, candidates)");
  if (weighted && (weight.shape(0) != blocks || weight.shape(1) != n))
    throw std::invalid_argument("weight must have the shape of x");
  const Kernels& k = kernels();
  constexpr std::size_t chunk = 256;
  parallel(static_cast<std::ptrdiff_t>((blocks + chunk - 1) / chunk), [&](std::ptrdiff_t piece) {
    for (std::size_t b = piece * chunk; b < std::min(blocks, (piece + 1) * chunk); ++b)
      k.range_errors(x.data() + b * n, weighted ? weight.data() + b * n : nullptr, n, scale.data() + b * candidates,
                     offset.data() + b * candidates, static_cast<int>(candidates), grid.view,
                     errors.data() + b * candidates);
  });
}

}  // namespace

void bind_quantization(nb::module_& module) {
  using namespace nb::literals;
  nb::class_<GridLevels>(module, "GridLevels").def(nb::init<Array<const float, 1>>(), "levels"_a);
  module.def("nearest", &nearest, "x"_a, "grid"_a, "out"_a);
  module.def("solve_columns", &solve_columns, "weight"_a, "factor"_a, "scale"_a, "offset"_a, "group_of"_a, "grid"_a,
             "errors"_a, "index"_a);
  module.def("range_errors", &range_errors, "x"_a, "weight"_a, "scale"_a, "offset"_a, "grid"_a, "errors"_a);
}

}  // namespace tercile
