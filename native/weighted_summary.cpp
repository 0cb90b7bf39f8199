// The weighted quantile sketch as Python sees it: weighted_summary.hpp with a promise, a count and bytes.
#include "weighted_summary.hpp"

#include <cstring>
#include <limits>
#include <stdexcept>

#include "bind.hpp"

namespace tercile {
namespace {

constexpr std::size_t kMostLevels = 64;
constexpr double kRounding = 1e-9;  // what sums of many weights may be off by, as a share

class WeightedSummary {
 public:
  // The fewest entries for which `expected` values need so few levels L that L / b, halved, is at most eps.
  WeightedSummary(double eps, std::uint64_t expected) : eps_(eps), expected_(expected), levels_(entries(eps, expected)) {}

  static std::size_t entries(double eps, std::uint64_t expected) {
    if (!(eps >= 1e-6 && eps <= 0.25)) throw std::invalid_argument("eps must be 1e-6 to 0.25");
    for (int levels = 1;; ++levels) {
      const auto b = static_cast<std::size_t>(std::ceil(levels / (2.0 * eps)));
      if (std::ldexp(2.0 * static_cast<double>(b), levels) > static_cast<double>(expected)) return b;
    }
  }

  void update(const double* x, const double* weight, std::size_t n) {
    for (std::size_t i = 0; i < n; ++i) {
      const double w = weight ? weight[i] : 1.0;
      levels_.add(x[i] + 0.0, w);  // -0 becomes 0
      weight_ += w;
      ++count_;
    }
  }

  void merge(const WeightedSummary& other) {
    if (other.eps_ != eps_ || other.expected_ != expected_) throw std::invalid_argument("cannot merge: eps differs");
    const std::uint64_t count = other.count_;
    const double weight = other.weight_;
    levels_.merge(other.levels_);
    count_ += count;
    weight_ += weight;
  }

  double eps() const { return eps_; }
  std::uint64_t expected() const { return expected_; }
  std::uint64_t count() const { return count_; }
  double weight() const { return weight_; }
  Summary view() const { return levels_.all(); }

  std::string save() const {
    std::string out;
    auto put = [&out](auto value) { out.append(reinterpret_cast<const char*>(&value), sizeof value); };
    put(eps_);
    put(expected_);
    put(count_);
    put(weight_);
    put(static_cast<std::uint32_t>(levels_.buffer().size()));
    put(static_cast<std::uint32_t>(levels_.levels().size()));
    for (const auto& level : levels_.levels()) put(static_cast<std::uint32_t>(level.size()));
    for (const auto& [value, weight] : levels_.buffer()) {
      put(value);
      put(weight);
    }
    for (const auto& level : levels_.levels())
      if (!level.empty()) out.append(reinterpret_cast<const char*>(level.data()), level.size() * sizeof(SummaryEntry));
    return out;
  }

  // Checks everything that later code relies on, so that hostile bytes are refused and never acted upon.
  static WeightedSummary load(const char* data, std::size_t size) {
    std::size_t at = 0;
    auto get = [&](auto& value) {
      if (size - at < sizeof value) throw std::invalid_argument("the bytes of the sketch end too early");
      std::memcpy(&value, data + at, sizeof value);
      at += sizeof value;
    };
    double eps, weight;
    std::uint64_t expected, count;
    std::uint32_t waiting, depth;
    get(eps);
    get(expected);
    get(count);
    get(weight);
    get(waiting);
    get(depth);
    if (!(eps >= 1e-6 && eps <= 0.25) || expected < 1 || expected > (std::uint64_t{1} << 53) || depth > kMostLevels) fail();
    WeightedSummary out(eps, expected);
    const std::size_t b = out.levels_.b();
    std::vector<std::uint32_t> sizes(depth);
    std::size_t total = 0;
    for (auto& s : sizes) {
      get(s);
      if (s > b + 1) fail();
      total += s;
    }
    if (waiting >= 2 * b || size - at != waiting * sizeof(Weighed) + total * sizeof(SummaryEntry)) fail();
    double sum = 0.0;
    for (std::uint32_t i = 0; i < waiting; ++i) {
      double value, w;
      get(value);
      get(w);
      if (!(value == value) || !(w > 0.0) || !std::isfinite(w)) fail();
      out.levels_.buffer().emplace_back(value, w);
      sum += w;
    }
    for (std::uint32_t s : sizes) {
      Summary level(s);
      for (auto& entry : level) get(entry);
      check(level);
      sum += total_weight(level);
      out.levels_.levels().push_back(std::move(level));
    }
    if (!std::isfinite(weight) || std::abs(sum - weight) > kRounding * (1.0 + weight) || count < waiting + total) fail();
    if ((count > 0) != (waiting + total > 0) || count > (std::uint64_t{1} << 53)) fail();
    out.count_ = count;
    out.weight_ = weight;
    return out;
  }

 private:
  [[noreturn]] static void fail() { throw std::invalid_argument("the bytes of the sketch are damaged"); }

  // What the appendix asks of a summary: values rise, weights are positive, bounds do not cross and do not fall.
  static void check(const Summary& s) {
    const double room = kRounding * (1.0 + total_weight(s));
    for (std::size_t i = 0; i < s.size(); ++i) {
      const auto& e = s[i];
      if (!(e.value == e.value) || !std::isfinite(e.low) || !std::isfinite(e.high) || !(e.weight > 0.0)) fail();
      if (!(e.low >= 0.0) || !(e.after() <= e.high + room)) fail();
      if (i == 0 && e.low != 0.0) fail();
      if (i + 1 == s.size() && std::abs(e.after() - e.high) > room) fail();
      if (i > 0 && (!(s[i - 1].value < e.value) || s[i - 1].after() > e.low + room || s[i - 1].high > e.before() + room))
        fail();
    }
  }

  double eps_;
  std::uint64_t expected_, count_ = 0;
  double weight_ = 0.0;
  SummaryLevels levels_;
};

}  // namespace

void bind_weighted_summary(nb::module_& module) {
  using namespace nb::literals;
  nb::class_<WeightedSummary>(module, "WeightedSummary")
      .def(nb::init<double, std::uint64_t>(), "eps"_a, "expected"_a)
      .def("update", [](WeightedSummary& s, Array<const double, 1> x) { s.update(x.data(), nullptr, x.shape(0)); }, "x"_a)
      .def(
          "update_weighted",
          [](WeightedSummary& s, Array<const double, 1> x, Array<const double, 1> weight) {
            if (x.shape(0) != weight.shape(0)) throw std::invalid_argument("weight must be as long as x");
            s.update(x.data(), weight.data(), x.shape(0));
          },
          "x"_a, "weight"_a)
      .def("merge", &WeightedSummary::merge, "other"_a)
      .def("copy", [](const WeightedSummary& s) { return WeightedSummary(s); })
      .def("view",
           [](const WeightedSummary& s) {
             std::vector<double> columns[4];
             for (const auto& e : s.view()) {
               columns[0].push_back(e.value);
               columns[1].push_back(e.low);
               columns[2].push_back(e.high);
               columns[3].push_back(e.weight);
             }
             return nb::make_tuple(columns[0], columns[1], columns[2], columns[3]);
           })
      .def_prop_ro("gap", [](const WeightedSummary& s) { return largest_gap(s.view()); })
      .def("save",
           [](const WeightedSummary& s) {
             const std::string out = s.save();
             return nb::bytes(out.data(), out.size());
           })
      .def_static("load", [](nb::bytes data) { return WeightedSummary::load(data.c_str(), data.size()); }, "data"_a)
      .def_prop_ro("eps", &WeightedSummary::eps)
      .def_prop_ro("expected", &WeightedSummary::expected)
      .def_prop_ro("count", &WeightedSummary::count)
      .def_prop_ro("weight", &WeightedSummary::weight);
}

}  // namespace tercile
