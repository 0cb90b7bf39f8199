// What every binding file shares: array types, and the list of functions that module.cpp calls to fill the module.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

namespace tercile {
namespace nb = nanobind;

template <typename T, int dimensions>
using Array = nb::ndarray<T, nb::ndim<dimensions>, nb::c_contig, nb::device::cpu>;

void bind_quantization(nb::module_& module);
void bind_packing(nb::module_& module);
void bind_kll(nb::module_& module);
void bind_relative(nb::module_& module);
void bind_tdigest(nb::module_& module);
void bind_partition(nb::module_& module);
void bind_weighted_summary(nb::module_& module);
void bind_boosting(nb::module_& module);
void bind_integer(nb::module_& module);
void bind_columns(nb::module_& module);
void bind_trellis(nb::module_& module);
void bind_pairs(nb::module_& module);
void bind_hadamard(nb::module_& module);
void bind_runtime(nb::module_& module);
void bind_search(nb::module_& module);

}  // namespace tercile
