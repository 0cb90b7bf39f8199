// A column put in order of its groups: each group's values side by side, NaN left out.
#include <cstdint>
#include <memory>
#include <stdexcept>

#include "sketches/arrays.hpp"

namespace tercile {
namespace {

// Two passes, as in a counting sort: how many of each group, then every value to its place. starts[g] to starts[g + 1]
// is group g; order within a group is kept.
template <typename T>
auto partition(Array<const T, 1> x, Array<const std::int32_t, 1> codes, std::int64_t groups) {
  const std::size_t n = x.shape(0);
  if (codes.shape(0) != n) throw std::invalid_argument("codes must be as long as x");
  if (groups < 1) throw std::invalid_argument("groups must be 1 or more");
  const T* value = x.data();
  const std::int32_t* code = codes.data();
  std::vector<std::int64_t> starts(static_cast<std::size_t>(groups) + 1, 0);
  auto* ordered = new std::vector<T>();
  nb::capsule owner(ordered, [](void* p) noexcept { delete static_cast<std::vector<T>*>(p); });
  {
    const nb::gil_scoped_release release;
    for (std::size_t i = 0; i < n; ++i)
      if (code[i] < 0 || code[i] >= groups) throw std::invalid_argument("codes must lie in [0, groups)");
    for (std::size_t i = 0; i < n; ++i) starts[static_cast<std::size_t>(code[i]) + 1] += value[i] == value[i];
    for (std::size_t g = 1; g < starts.size(); ++g) starts[g] += starts[g - 1];
    ordered->resize(static_cast<std::size_t>(starts.back()));
    std::vector<std::int64_t> next(starts.begin(), starts.end() - 1);
    for (std::size_t i = 0; i < n; ++i)
      if (value[i] == value[i]) (*ordered)[static_cast<std::size_t>(next[static_cast<std::size_t>(code[i])]++)] = value[i];
  }
  return std::make_pair(Owned<T>(ordered->data(), {ordered->size()}, owner), owned(starts));
}

}  // namespace

void bind_partition(nb::module_& module) {
  using namespace nb::literals;
  module.def("partition", &partition<double>, "x"_a, "codes"_a, "groups"_a,
             "Values in order of their group without NaN, and where each group starts.");
  module.def("partition", &partition<float>, "x"_a, "codes"_a, "groups"_a);
}

}  // namespace tercile
