// Bindings of the rounding kernels: nearest level, the GPTQ column loop, the search of ranges.
//
// Shapes are checked by the Python callers, which own the error messages; what is checked again here is what would
// otherwise read or write outside an array.
#include <algorithm>
#include <cmath>
#include <optional>
#include <stdexcept>
#include <vector>

#include "bind.hpp"
#include "column_problem.hpp"
#include "parallel.hpp"

namespace tercile {
namespace {

constexpr std::size_t kPiece = 1 << 16;  // values that are worth a thread's attention
constexpr float kRound = 12582912.0f;    // added and taken off, it rounds to the nearest integer

// Sorted levels with what the kernels derive from them.
class GridLevels {
 public:
  // `midpoints`, where given, are where rounding passes from a level to the next, instead of half-way between them.
  GridLevels(Array<const float, 1> levels, std::optional<Array<const float, 1>> midpoints)
      : values_(levels.data(), levels.data() + levels.shape(0)), midpoints_(values_.size()) {
    if (values_.size() < 2 || values_.size() > 256) throw std::invalid_argument("a grid has 2 to 256 levels");
    const float step = values_[1] - values_[0];
    bool uniform = std::isfinite(step) && std::isfinite(1.0f / step);
    for (std::size_t i = 0; i + 1 < values_.size(); ++i) {
      if (!(values_[i] < values_[i + 1])) throw std::invalid_argument("levels must be sorted and distinct");
      midpoints_[i] = 0.5f * values_[i] + 0.5f * values_[i + 1];
      uniform = uniform && values_[0] + step * static_cast<float>(i + 1) == values_[i + 1];
    }
    if (midpoints) {
      if (midpoints->shape(0) + 1 != values_.size()) throw std::invalid_argument("there is a midpoint less than levels");
      std::copy_n(midpoints->data(), midpoints->shape(0), midpoints_.begin());
      if (!std::is_sorted(midpoints_.begin(), midpoints_.end() - 1))
        throw std::invalid_argument("midpoints must be sorted");
      uniform = false;
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

// weight and index are (columns, rows), factor (columns, columns), scale and offset (groups, rows): all transposed, so
// that the rows of a tile lie side by side. Runs work(weight, scale, offset, error, index) on copies of every tile.
template <typename Work>
void each_tile(const Array<const float, 2>& weight, const Array<const float, 2>& factor,
               const Array<const float, 2>& scale, const Array<const float, 2>& offset,
               const Array<const std::int32_t, 1>& group_of, const Array<std::uint8_t, 2>& index, Work work) {
  check_columns(weight, factor, scale, offset, group_of, index);
  const std::size_t columns = weight.shape(0), rows = weight.shape(1), groups = scale.shape(0);
  parallel(static_cast<std::ptrdiff_t>((rows + kTileRows - 1) / kTileRows), [&](std::ptrdiff_t tile) {
    const std::size_t first = tile * kTileRows, count = std::min<std::size_t>(kTileRows, rows - first);
    // Rows beyond the last are zeros with scale 0, which cost time and change nothing.
    std::vector<float> w(columns * kTileRows), e(columns * kTileRows), s(groups * kTileRows), o(groups * kTileRows);
    std::vector<std::uint8_t> i(columns * kTileRows);
    const auto take = [&](std::vector<float>& to, const float* from, std::size_t lines) {
      for (std::size_t line = 0; line < lines; ++line)
        std::copy_n(from + line * rows + first, count, to.begin() + line * kTileRows);
    };
    take(w, weight.data(), columns);
    take(s, scale.data(), groups);
    take(o, offset.data(), groups);
    for (std::size_t c = 0; c < columns; ++c)
      std::copy_n(index.data() + c * rows + first, count, i.begin() + c * kTileRows);
    work(w, s, o, e, i);
    for (std::size_t c = 0; c < columns; ++c)
      std::copy_n(i.begin() + c * kTileRows, count, index.data() + c * rows + first);
  });
}

using Floats = std::vector<float>;
using Codes = std::vector<std::uint8_t>;

// Writes the level index of every weight; see Kernels::solve_tile.
void solve_columns(Array<const float, 2> weight, Array<const float, 2> factor, Array<const float, 2> scale,
                   Array<const float, 2> offset, Array<const std::int32_t, 1> group_of, const GridLevels& grid,
                   Array<std::uint8_t, 2> index) {
  const Kernels& k = kernels();
  each_tile(weight, factor, scale, offset, group_of, index, [&](Floats& w, Floats& s, Floats& o, Floats& e, Codes& i) {
    k.solve_tile(w.data(), static_cast<int>(weight.shape(0)), factor.data(), s.data(), o.data(), group_of.data(),
                 grid.view, e.data(), i.data());
  });
}

// Improves the level indices that stand in index; see Kernels::descend_tile. With `afresh` the weight itself is the start,
// whatever index holds. In every third sweep, the second of the three, weights move freely and are not rounded if
// `relaxed`; the last one always rounds.
void descend_columns(Array<const float, 2> weight, Array<const float, 2> hessian, Array<const float, 2> scale,
                     Array<const float, 2> offset, Array<const std::int32_t, 1> group_of, const GridLevels& grid,
                     int sweeps, bool afresh, bool relaxed, Array<std::uint8_t, 2> index) {
  const Kernels& k = kernels();
  const Levels& g = grid.view;
  const std::size_t columns = weight.shape(0);
  if (afresh && sweeps < 1) throw std::invalid_argument("sweeps must be at least 1 to round a weight afresh");
  if (!afresh && index.shape(0) == columns && index.shape(1) == weight.shape(1))
    for (std::size_t at = 0; at < columns * weight.shape(1); ++at)
      if (index.data()[at] >= g.count) throw std::invalid_argument("index is out of the grid's range");
  each_tile(weight, hessian, scale, offset, group_of, index, [&](Floats& w, Floats& s, Floats& o, Floats& e, Codes& i) {
    if (!afresh)
      for (std::size_t c = 0; c < columns; ++c)
        for (std::size_t r = 0; r < kTileRows; ++r) {
          const std::size_t at = c * kTileRows + r, group = group_of.data()[c] * static_cast<std::size_t>(kTileRows) + r;
          e[at] = w[at] - (s[group] * g.levels[i[at]] + o[group]);
        }
    for (int sweep = 0; sweep < sweeps; ++sweep) {
      const bool round = !relaxed || sweep % 3 != 1 || sweep + 1 == sweeps;
      k.descend_tile(w.data(), static_cast<int>(columns), hessian.data(), s.data(), o.data(), group_of.data(), g, round,
                     e.data(), i.data());
    }
  });
}

// Runs body(block, x of the block, weight of the block or null) for every row of x (blocks, n).
template <typename Body>
void each_block(const Array<const float, 2>& x, const Array<const float, 2>& weight, Body body) {
  const std::size_t blocks = x.shape(0), n = x.shape(1);
  const bool weighted = weight.shape(0) > 0;
  if (weighted && (weight.shape(0) != blocks || weight.shape(1) != n))
    throw std::invalid_argument("weight must have the shape of x");
  const std::size_t chunk = std::max<std::size_t>(1, kPiece / 16 / std::max<std::size_t>(n, 1));
  parallel(static_cast<std::ptrdiff_t>((blocks + chunk - 1) / chunk), [&](std::ptrdiff_t piece) {
    for (std::size_t b = piece * chunk; b < std::min(blocks, (piece + 1) * chunk); ++b)
      body(b, x.data() + b * n, weighted ? weight.data() + b * n : nullptr);
  });
}

// x is (blocks, n); weight the same or (0, 0) for none; scale and offset are (blocks, candidates); writes (blocks,
// candidates) errors.
void range_errors(Array<const float, 2> x, Array<const float, 2> weight, Array<const float, 2> scale,
                  Array<const float, 2> offset, const GridLevels& grid, Array<float, 2> errors) {
  const std::size_t blocks = x.shape(0), candidates = scale.shape(1);
  if (scale.shape(0) != blocks || offset.shape(0) != blocks || errors.shape(0) != blocks ||
      offset.shape(1) != candidates || errors.shape(1) != candidates)
    throw std::invalid_argument("scale, offset and errors must be (blocks, candidates)");
  const Kernels& k = kernels();
  each_block(x, weight, [&](std::size_t b, const float* values, const float* importance) {
    k.range_errors(values, importance, x.shape(1), scale.data() + b * candidates, offset.data() + b * candidates,
                   static_cast<int>(candidates), grid.view, errors.data() + b * candidates);
  });
}

// Candidate ranges of one block and the best of them.
struct Candidates {
  std::vector<float> scale, offset, error;

  explicit Candidates(std::size_t count) : scale(count), offset(count), error(count) {}

  // Index of the smallest error of the first `count`.
  std::size_t best(const Kernels& k, const float* x, const float* weight, std::size_t n, const Levels& g,
                   std::size_t count) {
    k.range_errors(x, weight, n, scale.data(), offset.data(), static_cast<int>(count), g, error.data());
    return std::min_element(error.begin(), error.begin() + static_cast<std::ptrdiff_t>(count)) - error.begin();
  }
};

// Symmetric ranges: the scale is a fraction of forward (blocks), or of backward where that is not 0 (a grid turned
// round). Tries the coarse fractions of both, then around the best the fine differences, then halves of those, and so
// on for `rounds` rounds. Writes the scale (blocks).
void search_scales(Array<const float, 2> x, Array<const float, 2> weight, Array<const float, 1> forward,
                   Array<const float, 1> backward, Array<const float, 1> coarse, Array<const float, 1> fine, int rounds,
                   const GridLevels& grid, Array<float, 1> scale) {
  const std::size_t blocks = x.shape(0), n = x.shape(1), first = coarse.shape(0), then = fine.shape(0);
  if (forward.shape(0) != blocks || backward.shape(0) != blocks || scale.shape(0) != blocks)
    throw std::invalid_argument("forward, backward and scale must be (blocks,)");
  if (first == 0) throw std::invalid_argument("coarse must hold at least one fraction");
  const Kernels& k = kernels();
  each_block(x, weight, [&](std::size_t b, const float* values, const float* importance) {
    Candidates tried(std::max(2 * first, then + 1));
    const float reach[2] = {forward.data()[b], backward.data()[b]};
    const std::size_t sides = reach[1] != 0.0f ? 2 : 1;
    for (std::size_t c = 0; c < sides * first; ++c) tried.scale[c] = reach[c / first] * coarse.data()[c % first];
    std::size_t at = tried.best(k, values, importance, n, grid.view, sides * first);
    const float whole = reach[at / first];
    float fraction = coarse.data()[at % first], width = 1.0f;
    for (int round = 0; round < rounds; ++round, width *= 0.5f) {
      const auto near = [&](std::size_t c) { return c ? fraction + width * fine.data()[c - 1] : fraction; };
      for (std::size_t c = 0; c <= then; ++c) tried.scale[c] = whole * near(c);
      fraction = near(tried.best(k, values, importance, n, grid.view, then + 1));
    }
    scale.data()[b] = whole * fraction;
  });
}

// Ranges with an offset: the grid reaches from a fraction of low (blocks) to a fraction of high (blocks), and the offset
// is a whole number of steps if `whole`. coarse and fine hold pairs of fractions and of differences, (count, 2); the
// rounds are those of search_scales. Writes scale and offset (blocks), the offset not yet rounded.
void search_ends(Array<const float, 2> x, Array<const float, 2> weight, Array<const float, 1> low,
                 Array<const float, 1> high, Array<const float, 2> coarse, Array<const float, 2> fine, int rounds,
                 bool whole, const GridLevels& grid, Array<float, 1> scale, Array<float, 1> offset) {
  const std::size_t blocks = x.shape(0), n = x.shape(1), first = coarse.shape(0), then = fine.shape(0);
  if (low.shape(0) != blocks || high.shape(0) != blocks || scale.shape(0) != blocks || offset.shape(0) != blocks)
    throw std::invalid_argument("low, high, scale and offset must be (blocks,)");
  if (first == 0 || coarse.shape(1) != 2 || fine.shape(1) != 2)
    throw std::invalid_argument("coarse and fine must be (count, 2), coarse not empty");
  const Kernels& k = kernels();
  const float top = static_cast<float>(grid.view.count - 1);
  each_block(x, weight, [&](std::size_t b, const float* values, const float* importance) {
    Candidates tried(std::max(first, then + 1));
    const float lo = low.data()[b], hi = high.data()[b];
    const auto put = [&](std::size_t c, float below, float above) {
      const float s = hi * above / top - lo * below / top;
      tried.scale[c] = s;
      tried.offset[c] = !whole ? lo * below : s > 0.0f ? -s * std::min(top, (-lo * below / s + kRound) - kRound) : 0.0f;
    };
    for (std::size_t c = 0; c < first; ++c) put(c, coarse.data()[2 * c], coarse.data()[2 * c + 1]);
    std::size_t at = tried.best(k, values, importance, n, grid.view, first);
    float below = coarse.data()[2 * at], above = coarse.data()[2 * at + 1], width = 1.0f;
    for (int round = 0; round < rounds; ++round, width *= 0.5f) {
      const auto near = [&](float middle, std::size_t c, int end) {
        return c ? std::max(0.0f, middle + width * fine.data()[2 * (c - 1) + end]) : middle;
      };
      for (std::size_t c = 0; c <= then; ++c) put(c, near(below, c, 0), near(above, c, 1));
      at = tried.best(k, values, importance, n, grid.view, then + 1);
      below = near(below, at, 0);
      above = near(above, at, 1);
    }
    put(0, below, above);
    scale.data()[b] = tried.scale[0];
    offset.data()[b] = lo * below;
  });
}

}  // namespace

void bind_quantization(nb::module_& module) {
  using namespace nb::literals;
  nb::class_<GridLevels>(module, "GridLevels")
      .def(nb::init<Array<const float, 1>, std::optional<Array<const float, 1>>>(), "levels"_a,
           "midpoints"_a = nb::none());
  // Arrays that are written to are never converted: a copy would be filled instead.
  const auto free = nb::call_guard<nb::gil_scoped_release>();
  module.def("nearest", &nearest, "x"_a, "grid"_a, "out"_a.noconvert(), free);
  module.def("solve_columns", &solve_columns, "weight"_a, "factor"_a, "scale"_a, "offset"_a, "group_of"_a, "grid"_a,
             "index"_a.noconvert(), free);
  module.def("descend_columns", &descend_columns, "weight"_a, "hessian"_a, "scale"_a, "offset"_a, "group_of"_a, "grid"_a,
             "sweeps"_a, "afresh"_a, "relaxed"_a, "index"_a.noconvert(), free);
  module.def("range_errors", &range_errors, "x"_a, "weight"_a, "scale"_a, "offset"_a, "grid"_a, "errors"_a.noconvert(),
             free);
  module.def("search_scales", &search_scales, "x"_a, "weight"_a, "forward"_a, "backward"_a, "coarse"_a, "fine"_a,
             "rounds"_a, "grid"_a, "scale"_a.noconvert(), free);
  module.def("search_ends", &search_ends, "x"_a, "weight"_a, "low"_a, "high"_a, "coarse"_a, "fine"_a, "rounds"_a,
             "whole"_a, "grid"_a, "scale"_a.noconvert(), "offset"_a.noconvert(), free);
}

}  // namespace tercile
