// Rows times a Hadamard matrix of any size: n = m * 2^a, a fast Walsh-Hadamard transform over each of m pieces of 2^a
// neighbours, and an m x m matrix across the pieces. Every sum is taken in one order, so all machines give the same bits.
#include <cmath>
#include <stdexcept>
#include <vector>

#include "bind.hpp"
#include "parallel.hpp"

namespace tercile {
namespace {

using Index = std::ptrdiff_t;

void walsh(float* x, Index n) {
  for (Index half = 1; half < n; half *= 2)
    for (Index at = 0; at < n; at += 2 * half)
      for (Index i = at; i < at + half; ++i) {
        const float a = x[i], b = x[i + half];
        x[i] = a + b;
        x[i + half] = a - b;
      }
}

// y[c] = sum over d of across[c][d] * x[d], for pieces x[d] of n neighbours.
void mix(float* x, const float* across, Index pieces, Index n, bool transposed, std::vector<float>& y) {
  y.assign(pieces * n, 0.0f);
  for (Index c = 0; c < pieces; ++c)
    for (Index d = 0; d < pieces; ++d) {
      const float f = transposed ? across[d * pieces + c] : across[c * pieces + d];
      for (Index i = 0; i < n; ++i) y[c * n + i] += f * x[d * n + i];
    }
  std::copy(y.begin(), y.end(), x);
}

// In place on each row of x: pieces first and then across, or with `back` the reverse. across is orthogonal.
void hadamard_rows(Array<float, 2> x, Array<const float, 2> across, bool back) {
  const Index rows = x.shape(0), columns = x.shape(1), pieces = across.shape(0);
  if (pieces < 1 || across.shape(1) != across.shape(0) || columns % pieces)
    throw std::invalid_argument("across must be square and divide the columns of x");
  const Index n = columns / pieces;
  if (n & (n - 1)) throw std::invalid_argument("each piece must be a power of two");
  const float unit = 1.0f / std::sqrt(static_cast<float>(n));
  const Index chunk = std::max<Index>(1, (1 << 16) / std::max<Index>(columns, 1));
  parallel((rows + chunk - 1) / chunk, [&](Index piece) {
    std::vector<float> space;
    for (Index r = piece * chunk; r < std::min(rows, (piece + 1) * chunk); ++r) {
      float* row = x.data() + r * columns;
      if (back && pieces > 1) mix(row, across.data(), pieces, n, true, space);
      for (Index c = 0; c < pieces; ++c) walsh(row + c * n, n);
      for (Index i = 0; i < columns; ++i) row[i] *= unit;
      if (!back && pieces > 1) mix(row, across.data(), pieces, n, false, space);
    }
  });
}

}  // namespace

void bind_hadamard(nb::module_& module) {
  using namespace nb::literals;
  module.def("hadamard_rows", &hadamard_rows, "x"_a.noconvert(), "across"_a, "back"_a,
             nb::call_guard<nb::gil_scoped_release>());
}

}  // namespace tercile
