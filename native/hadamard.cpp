// Rows times a Hadamard matrix of any size: n = m * 2^a, a fast Walsh-Hadamard transform over each of m pieces of 2^a
// neighbours, and an m x m matrix across the pieces. Every sum is taken in one order, so all machines give the same bits.
#include <cmath>
#include <stdexcept>
#include <vector>

#include "bind.hpp"
#include "parallel.hpp"

namespace tercile {
namespace {

// In place on each row of x: pieces first and then across, or with `back` the reverse. across is orthogonal.
void hadamard_rows(Array<float, 2> x, Array<const float, 2> across, bool back) {
  const std::size_t rows = x.shape(0), columns = x.shape(1), pieces = across.shape(0);
  if (pieces < 1 || across.shape(1) != pieces || columns % pieces)
    throw std::invalid_argument("across must be square and divide the columns of x");
  const std::size_t n = columns / pieces;
  if (n & (n - 1)) throw std::invalid_argument("each piece must be a power of two");
  const float unit = 1.0f / std::sqrt(static_cast<float>(n));
  in_chunks(rows, columns, [&](std::size_t first, std::size_t last) {
    std::vector<float> space(columns);
    for (std::size_t r = first; r < last; ++r)
      kernels().hadamard_row(x.data() + r * columns, pieces, n, unit, across.data(), back, space.data());
  });
}

}  // namespace

void bind_hadamard(nb::module_& module) {
  using namespace nb::literals;
  module.def("hadamard_rows", &hadamard_rows, "x"_a.noconvert(), "across"_a, "back"_a,
             nb::call_guard<nb::gil_scoped_release>());
}

}  // namespace tercile
