#include "bind.hpp"
#include "cpu.hpp"

NB_MODULE(_native, module) {
  nanobind::set_leak_warnings(false);  // grids live as long as the process: that is no leak
  module.doc() = "Compiled kernels of tercile; the Python modules that use them say what each one computes.";
  module.def("kernels", [] { return std::string(tercile::kernels().name); }, "Name of the instruction set in use.");
  module.def(
      "available_kernels",
      [] {
        std::vector<std::string> names;
        for (const auto* set : tercile::available_kernels()) names.emplace_back(set->name);
        return names;
      },
      "Names of the instruction sets that this processor can run, plain first.");
  tercile::bind_quantization(module);
  tercile::bind_packing(module);
  tercile::bind_kll(module);
  tercile::bind_relative(module);
  tercile::bind_tdigest(module);
  tercile::bind_partition(module);
  tercile::bind_weighted_summary(module);
  tercile::bind_boosting(module);
  tercile::bind_integer(module);
  tercile::bind_columns(module);
  tercile::bind_trellis(module);
  tercile::bind_pairs(module);
  tercile::bind_hadamard(module);
  tercile::bind_runtime(module);
  tercile::bind_search(module);
}
