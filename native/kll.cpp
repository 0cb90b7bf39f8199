// Python's view of the KLL sketches. native/sketches/kll.hpp says how they work.
#include "bind.hpp"
#include "sketches/arrays.hpp"
#include "sketches/kll_bytes.hpp"

namespace tercile {
namespace {

// Strings of bytes as Arrow lays them out: string i is data[offsets[i]] to data[offsets[i + 1]].
struct Strings {
  const char* data;
  const std::int64_t* offsets;
  std::string_view view(std::size_t i) const {
    return {data + offsets[i], static_cast<std::size_t>(offsets[i + 1] - offsets[i])};
  }
  std::string operator[](std::size_t i) const { return std::string(view(i)); }
};

template <typename T, typename S>
void update(Kll<T>& sketch, Array<const S, 1> x) {
  const nb::gil_scoped_release release;
  if (x.shape(0) == 0) return;
  const auto [low, high] = ends(x.data(), x.shape(0));
  sketch.update(x.data(), x.shape(0), static_cast<T>(low), static_cast<T>(high));
}

template <typename T>
auto levels_of(const Kll<T>& sketch) {
  if constexpr (std::is_same_v<T, std::string>) {
    std::vector<std::vector<nb::bytes>> levels;
    for (const auto& level : sketch.peek().levels) {
      auto& copy = levels.emplace_back();
      for (const auto& v : level) copy.emplace_back(v.data(), v.size());
    }
    return levels;
  } else {
    std::vector<Owned<T>> levels;
    for (const auto& level : sketch.state().levels) levels.push_back(owned(level));
    return levels;
  }
}

template <typename T>
nb::object item(const T& value) {
  if constexpr (std::is_same_v<T, std::string>)
    return nb::bytes(value.data(), value.size());
  else
    return nb::cast(value);
}

template <typename T>
nb::class_<Kll<T>> bind(nb::module_& module, const char* name) {
  using namespace nb::literals;
  using Sketch = Kll<T>;
  return nb::class_<Sketch>(module, name)
      .def(nb::init<int, std::uint64_t>(), "k"_a, "seed"_a)
      .def("merge", &Sketch::merge, "other"_a, nb::call_guard<nb::gil_scoped_release>())
      .def("shrink", &Sketch::shrink, "most"_a)
      .def("copy", &Sketch::copy)
      .def("save",
           [](const Sketch& s) {
             const std::string out = save(s);
             return nb::bytes(out.data(), out.size());
           })
      .def_static("load", [](nb::bytes data) { return load<T>(data.c_str(), data.size()); }, "data"_a)
      .def("levels", &levels_of<T>)
      .def_prop_ro("k", [](const Sketch& s) { return s.peek().k; })
      .def_prop_ro("count", [](const Sketch& s) { return s.peek().count; })
      .def_prop_ro("minimum", [](const Sketch& s) { return item(s.peek().minimum); })
      .def_prop_ro("maximum", [](const Sketch& s) { return item(s.peek().maximum); })
      .def_prop_ro("pending", [](const Sketch& s) { return item(s.peek().pending); })
      .def_prop_ro("pending_weight", [](const Sketch& s) { return s.peek().pending_weight; })
      .def_prop_ro("variance", [](const Sketch& s) { return s.peek().variance; })
      .def_prop_ro("items", &Sketch::items);
}

template <typename T>
void bind_numbers(nb::class_<Kll<T>>& type) {
  using namespace nb::literals;
  using Sketch = Kll<T>;
  type.def("view",
           [](const Sketch& s) {
             std::vector<T> values;
             std::vector<double> cumulative;
             s.view(values, cumulative);
             return std::make_pair(owned(values), owned(cumulative));
           })
      .def(
          "update_weighted",
          [](Sketch& s, Array<const T, 1> x, Array<const std::int64_t, 1> weight) {
            if (x.shape(0) != weight.shape(0)) throw std::invalid_argument("weight must be as long as x");
            s.update_weighted(x.data(), weight.data(), x.shape(0));
          },
          "x"_a, "weight"_a)
      .def_static(
          "from_levels",
          [](int k, std::uint64_t seed, double variance, T minimum, T maximum, std::vector<Array<const T, 1>> levels) {
            typename Sketch::State state;
            state.k = k;
            state.random = seed;
            state.variance = variance;
            state.minimum = minimum;
            state.maximum = maximum;
            for (std::size_t h = 0; h < levels.size() && h < kMostLevels; ++h) {
              state.levels.emplace_back(levels[h].data(), levels[h].data() + levels[h].shape(0));
              state.count += std::uint64_t{levels[h].shape(0)} << h;
            }
            return Sketch(std::move(state));
          },
          "k"_a, "seed"_a, "variance"_a, "minimum"_a, "maximum"_a, "levels"_a,
          "A sketch with `levels[h]` of weight 2^h each, all but the first sorted.");
}

}  // namespace

void bind_kll(nb::module_& module) {
  using namespace nb::literals;
  module.def(
      "first_nan",
      [](Array<const double, 1> x) { return first_nan(x.data(), x.shape(0)); }, "x"_a,
      "Index of the first NaN, or -1.");
  module.def("first_nan", [](Array<const float, 1> x) { return first_nan(x.data(), x.shape(0)); }, "x"_a);

  auto doubles = bind<double>(module, "Kll");
  bind_numbers(doubles);
  doubles.def("update", &update<double, double>, "x"_a);
  doubles.def("update", &update<double, float>, "x"_a);

  auto integers = bind<std::int64_t>(module, "KllIntegers");
  bind_numbers(integers);
  integers.def("update", &update<std::int64_t, std::int64_t>, "x"_a);

  auto strings = bind<std::string>(module, "KllStrings");
  strings
      .def("view",
           [](const Kll<std::string>& s) {
             std::vector<std::string> values;
             std::vector<double> cumulative;
             s.view(values, cumulative);
             std::vector<nb::bytes> bytes;
             for (const auto& v : values) bytes.emplace_back(v.data(), v.size());
             return std::make_pair(bytes, owned(cumulative));
           })
      .def(
          "update",
          [](Kll<std::string>& s, Array<const std::uint8_t, 1> data, Array<const std::int64_t, 1> offsets) {
            if (offsets.shape(0) < 2) return;
            const std::size_t n = offsets.shape(0) - 1;
            const Strings x{reinterpret_cast<const char*>(data.data()), offsets.data()};
            for (std::size_t i = 0; i <= n; ++i) {
              const bool falls = i > 0 && offsets.data()[i] < offsets.data()[i - 1];
              if (falls || offsets.data()[i] < 0 || offsets.data()[i] > static_cast<std::int64_t>(data.shape(0)))
                throw std::invalid_argument("offsets must rise within data");
            }
            const nb::gil_scoped_release release;
            std::string_view low = x.view(0), high = low;
            for (std::size_t i = 1; i < n; ++i) {
              low = std::min(low, x.view(i));
              high = std::max(high, x.view(i));
            }
            s.update(x, n, std::string(low), std::string(high));
          },
          "data"_a, "offsets"_a)
      .def(
          "update_weighted",
          [](Kll<std::string>& s, std::vector<nb::bytes> x, Array<const std::int64_t, 1> weight) {
            if (x.size() != weight.shape(0)) throw std::invalid_argument("weight must be as long as x");
            for (std::size_t i = 0; i < x.size(); ++i) {
              const std::string value(x[i].c_str(), x[i].size());
              s.update_weighted(&value, weight.data() + i, 1);
            }
          },
          "x"_a, "weight"_a);
}

}  // namespace tercile
