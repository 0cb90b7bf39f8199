// Products with stored matrices, as Python sees them.
#include <atomic>
#include <stdexcept>
#include <string>

#include "runtime/block.hpp"

namespace tercile {
namespace {

// y = x times the transposed matrix, and what is beside it.
void multiply(const PackedLayer& layer, Array<const float, 2> x, Array<float, 2> y) {
  if (x.shape(1) != layer.columns() || y.shape(0) != x.shape(0) || y.shape(1) != layer.rows())
    throw std::invalid_argument("x must be (m, columns) and y (m, rows)");
  layer.multiply(Activations(x.data(), x.shape(0), x.shape(1)), {y.data(), y.shape(1)});
}

void rows(const PackedMatrix& matrix, Array<const std::int64_t, 1> ids, Array<float, 2> out) {
  if (out.shape(0) != ids.shape(0) || out.shape(1) != matrix.columns())
    throw std::invalid_argument("out must be (n, columns)");
  for (std::size_t i = 0; i < ids.shape(0); ++i)
    if (ids.data()[i] < 0 || static_cast<std::size_t>(ids.data()[i]) >= matrix.rows())
      throw std::invalid_argument("ids are out of range");
  matrix.rows(ids.data(), ids.shape(0), out.data());
}

// Reads every byte, one after another: the order in which memory is fastest.
std::int64_t read_bytes(Array<const std::uint8_t, 1> bytes) {
  constexpr std::size_t kPiece = 1 << 20;
  std::atomic<std::int64_t> all{0};
  parallel(bytes.shape(0) / kPiece,
           [&](std::ptrdiff_t piece) { all ^= packed_kernels().read_words(bytes.data() + piece * kPiece, kPiece); });
  return all;
}

}  // namespace

void bind_runtime(nb::module_& module) {
  using namespace nb::literals;
  const auto free = nb::call_guard<nb::gil_scoped_release>();
  nb::class_<PackedMatrix>(module, "PackedMatrix")
      .def(nb::init<Array<const std::uint32_t, 2>, std::size_t, std::size_t, int, Array<const float, 1>,
                    std::optional<Array<const std::uint8_t, 1>>, int, float, bool, std::optional<Array<const float, 2>>,
                    std::optional<Array<const std::uint16_t, 2>>, std::optional<Array<const float, 2>>, std::size_t,
                    std::size_t, int, std::optional<Array<const std::uint8_t, 1>>, std::size_t>(),
           "words"_a.noconvert(), "rows"_a, "columns"_a, "bits"_a, "table"_a, "whole"_a.none(), "base"_a, "unit"_a,
           "linear"_a, "scale"_a.none(), "half"_a.none(), "offset"_a.none(), "tall"_a, "wide"_a, "memory"_a,
           "row_bits"_a.none(), "height"_a)
      .def_prop_ro("nbytes", &PackedMatrix::nbytes, "Bytes held beside the arrays that it was made of.")
      .def("rows", &rows, "ids"_a, "out"_a.noconvert(), free);
  nb::class_<PackedLayer>(module, "PackedLayer")
      .def(nb::init<const PackedMatrix*, std::optional<Array<const float, 1>>, std::optional<Array<const float, 2>>, bool,
                    float, const PackedMatrix*, const PackedMatrix*>(),
           "matrix"_a, "signs"_a.none(), "across"_a.none(), "rounded"_a, "step"_a, "right"_a.none(),
           "left"_a.none(), nb::keep_alive<1, 2>(), nb::keep_alive<1, 7>(), nb::keep_alive<1, 8>())
      .def("multiply", &multiply, "x"_a, "y"_a.noconvert(), free);
  module.def("packed_kernels", [] { return std::string(packed_kernels().name); },
             "Name of the instruction set that products with stored matrices use.");
  module.def("read_bytes", &read_bytes, "bytes"_a, free, "Reads memory as fast as it comes, to measure how fast that is.");
  bind_encoder(module);
  bind_llama_block(module);
}

}  // namespace tercile
