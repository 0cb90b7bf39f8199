// Products of few rows of activations: every stored byte is read once, and multiplied as it is read.
#include "decoder.hpp"
#include "products.hpp"

namespace tercile {
namespace {

// Rows of a piece: a megabyte of words, for what lies behind its end is asked for in vain and its beginning has to be waited
// for; and no more than a share for each thread.
std::size_t piece_rows(const PackedRows& w) {
  const std::size_t enough = std::max<std::size_t>(8, (std::size_t{1} << 20) / w.row_bytes);
  const std::size_t share = (w.rows + threads() - 1) / threads();
  return std::max<std::size_t>(8, (std::min(enough, share) + 7) / 8 * 8);
}

std::size_t padded(const PackedRows& w) {
  const std::size_t run = kRun * w.planes;
  return (w.columns + run - 1) / run * run;
}

// Writes the product itself, or beside y where it is not all that goes there.
template <typename Product>
void put(const PackedRows& w, std::size_t m, const Output& to, Product product) {
  if (!to.add && !to.bias) return product(to.y, to.step);
  Buffer<float> apart(m * w.rows);
  product(apart.data(), w.rows);
  packed_kernels().finish(apart.data(), w.rows, m, w.rows, nullptr, to.bias, to.add, to.y, to.step);
}

}  // namespace

void PackedMatrix::few(const float* x, std::size_t m, const Output& to) const {
  const PackedKernels& k = packed_kernels();
  const std::size_t step = padded(w_);
  Buffer<float> arranged(m * step), sums(w_.offset ? m * w_.across : 0), ones(w_.offset ? w_.wide : 0, 1.0f);
  for (std::size_t t = 0; t < m; ++t) {
    k.arrange(w_, x + t * w_.columns, arranged.data() + t * step);
    for (std::size_t b = 0; b < w_.across && w_.offset; ++b)
      sums[t * w_.across + b] =
          k.dot(x + t * w_.columns + b * w_.wide, ones.data(), std::min(w_.wide, w_.columns - b * w_.wide));
  }
  const FloatRows rows{arranged.data(), m, step, sums.data()};
  put(w_, m, to, [&](float* y, std::size_t y_step) {
    by_rows(w_.rows, piece_rows(w_), [&](std::size_t first, std::size_t last) {
      Buffer<float> space(8 * w_.across + 16);
      if (k.dot_floats(w_, first, last, rows, space.data(), y, y_step)) return;
      Decoder decoder(*this, 0, w_.columns);
      Buffer<float> row(runs_of(w_.columns) * kRun);
      for (std::size_t r = first; r < last; ++r) {
        decoder.floats(r, row.data());
        for (std::size_t t = 0; t < m; ++t) y[t * y_step + r] = k.dot(row.data(), x + t * w_.columns, w_.columns);
      }
    });
  });
}

void PackedMatrix::few(const Rounded& x, const Output& to) const {
  const PackedKernels& k = packed_kernels();
  const std::size_t run = kRun * w_.planes, step = padded(w_), runs = step / run;
  const bool whole_runs = w_.across == 1 || w_.wide % run == 0;
  const std::size_t parts = whole_runs ? w_.across : runs;
  const std::size_t in_part = !whole_runs ? 1 : w_.across == 1 ? runs : w_.wide / run;
  Buffer<std::int8_t> arranged(x.m * step);
  Buffer<std::int32_t> start(x.m * parts * 16);
  Buffer<float> sums(w_.offset ? x.m * w_.across : 0);
  for (std::size_t t = 0; t < x.m; ++t) {
    const std::int8_t* from = x.values.data() + t * x.step;
    k.arrange_bytes(w_, from, arranged.data() + t * step, start.data() + t * parts * 16, in_part);
    for (std::size_t b = 0; b < w_.across && w_.offset; ++b)
      sums[t * w_.across + b] = x.scales[t] * static_cast<float>(k.sum_bytes(from + b * w_.wide,
                                                                             std::min(w_.wide, w_.columns - b * w_.wide)));
  }
  const WholeRows rows{arranged.data(), x.m, step, x.scales.data(), start.data(), parts, sums.data()};
  put(w_, x.m, to, [&](float* y, std::size_t y_step) {
    by_rows(w_.rows, piece_rows(w_), [&](std::size_t first, std::size_t last) {
      Buffer<float> space(8 * w_.across + 16);
      k.dot_wholes(w_, first, last, rows, space.data(), y, y_step);
    });
  });
}

}  // namespace tercile
