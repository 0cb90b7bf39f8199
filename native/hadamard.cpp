// Rotations, as Python sees them.
#include "hadamard.hpp"

#include "bind.hpp"

namespace tercile {
namespace {

void hadamard_rows(Array<float, 2> x, Array<const float, 2> across, bool back) {
  if (across.shape(1) != across.shape(0)) throw std::invalid_argument("across must be square");
  Hadamard(across.data(), across.shape(0), x.shape(1)).turn(x.data(), x.shape(0), back);
}

}  // namespace

void bind_hadamard(nb::module_& module) {
  using namespace nb::literals;
  module.def("hadamard_rows", &hadamard_rows, "x"_a.noconvert(), "across"_a, "back"_a,
             nb::call_guard<nb::gil_scoped_release>());
}

}  // namespace tercile
