// Counts of positive numbers in bins of equal relative width: the store behind the relative-error sketch (DDSketch).
//
// A positive double is 2^e (1 + s). Its bin is floor(multiplier * (e + P(s))) with a cubic P that stands in for log2:
// P(0) = 0, P(1) = 1, and the multiplier is chosen so that the steepest bin is just narrow enough. No logarithm is
// taken, and the loop below works on several numbers at a time.
//
// The bins between the lowest and the highest in use lie side by side. Subnormal numbers count as zero.
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <stdexcept>
#include <vector>

#include "sketches/arrays.hpp"
#include "sketches/busy.hpp"

namespace tercile {
namespace {

// P(s) = ((A s + B) s + C) s. P'(s) (1 + s), how fast P rises beside a logarithm, is least, and 10/7, at s = 0.
constexpr double A = 6.0 / 35.0, B = -3.0 / 5.0, C = 10.0 / 7.0;
constexpr double kTwo52 = 4503599627370496.0;

class LogBins {
 public:
  explicit LogBins(double accuracy) {
    if (!(accuracy >= 1e-4 && accuracy <= 0.5)) throw std::invalid_argument("accuracy must be 0.0001 to 0.5");
    multiplier_ = 1.0 / (std::log1p(2.0 * accuracy / (1.0 - accuracy)) * C);
  }

  // The index of the bin of a normal positive number.
  std::int32_t index(double x) const {
    const auto bits = std::bit_cast<std::uint64_t>(x);
    const double exponent = std::bit_cast<double>((bits >> 52) | std::bit_cast<std::uint64_t>(kTwo52)) - kTwo52;
    const double s = std::bit_cast<double>((bits & ((std::uint64_t{1} << 52) - 1)) | 0x3ff0000000000000ull) - 1.0;
    return static_cast<std::int32_t>(multiplier_ * (exponent + ((A * s + B) * s + C) * s));  // never negative
  }

  // The lower edge of a bin: where multiplier * (e + P(s)) equals its index.
  double edge(std::int32_t bin) const {
    const double level = bin / multiplier_;
    const double exponent = std::floor(level);
    const double target = level - exponent;
    double s = target;
    for (int i = 0; i < 8; ++i) s -= (((A * s + B) * s + C) * s - target) / ((3 * A * s + 2 * B) * s + C);
    return std::ldexp(1.0 + s, static_cast<int>(exponent) - 1023);
  }

  // Counts |x| of the finite numbers: those above 0 in `positive`, those below in `negative`; returns the weight at 0,
  // at -inf and at +inf. NaN must not occur. weight may be null.
  static std::array<double, 3> update(LogBins& positive, LogBins& negative, const double* x, const double* weight,
                                      std::size_t n) {
    constexpr std::size_t block = 512;
    constexpr std::uint64_t sign = std::uint64_t{1} << 63, least = std::uint64_t{1} << 52;
    constexpr std::uint64_t infinity = 0x7ff0000000000000ull;
    const Hold hold(positive.busy_), other_hold(negative.busy_);
    std::array<double, 3> apart{};
    std::int32_t bins[block];
    double magnitude[block];
    for (std::size_t start = 0; start < n; start += block) {
      const std::size_t size = std::min(block, n - start);
      std::uint64_t odd = 0;  // any number that is not positive, normal and finite
      std::int32_t low = std::numeric_limits<std::int32_t>::max(), high = -1;
      for (std::size_t i = 0; i < size; ++i) {
        const auto bits = std::bit_cast<std::uint64_t>(x[start + i]);
        odd |= (bits < least) | (bits >= infinity);
        magnitude[i] = x[start + i];
      }
      if (!odd) {
        for (std::size_t i = 0; i < size; ++i) bins[i] = positive.index(magnitude[i]);
        for (std::size_t i = 0; i < size; ++i) {
          low = std::min(low, bins[i]);
          high = std::max(high, bins[i]);
        }
        positive.reach(low, high);
        double* counts = positive.counts_.data() - positive.first_;
        if (weight)
          for (std::size_t i = 0; i < size; ++i) counts[bins[i]] += weight[start + i];
        else
          for (std::size_t i = 0; i < size; ++i) counts[bins[i]] += 1.0;
        continue;
      }
      for (std::size_t i = 0; i < size; ++i) {
        const auto bits = std::bit_cast<std::uint64_t>(x[start + i]);
        const double w = weight ? weight[start + i] : 1.0;
        if ((bits & ~sign) < least)
          apart[0] += w;
        else if ((bits & ~sign) == infinity)
          apart[(bits & sign) ? 1 : 2] += w;
        else
          ((bits & sign) ? negative : positive).add(std::bit_cast<double>(bits & ~sign), w);
      }
    }
    return apart;
  }

  void merge(const LogBins& other) {
    const Hold hold(busy_), other_hold(other.busy_);
    if (other.counts_.empty()) return;
    reach(other.first_, other.first_ + static_cast<std::int32_t>(other.counts_.size()) - 1);
    for (std::size_t i = 0; i < other.counts_.size(); ++i)
      counts_[static_cast<std::size_t>(other.first_ - first_) + i] += other.counts_[i];
  }

  void put(std::int32_t bin, double weight) {
    if (bin < 0 || bin > highest()) throw std::invalid_argument("a bin is out of range");
    reach(bin, bin);
    counts_[static_cast<std::size_t>(bin - first_)] += weight;
  }

  std::int32_t highest() const { return index(std::numeric_limits<double>::max()); }
  std::int32_t first() const { return first_; }
  std::vector<double> counts() const {
    const Hold hold(busy_);
    return counts_;
  }
  LogBins copy() const {
    const Hold hold(busy_);
    return *this;
  }

 private:
  void add(double x, double weight) {
    const std::int32_t bin = index(x);
    reach(bin, bin);
    counts_[static_cast<std::size_t>(bin - first_)] += weight;
  }

  // Makes room for the bins low to high, and some more on a side that has to grow.
  void reach(std::int32_t low, std::int32_t high) {
    const auto size = static_cast<std::int32_t>(counts_.size());
    if (size > 0 && low >= first_ && high < first_ + size) return;
    constexpr std::int32_t spare = 64;
    const std::int32_t from = size > 0 && low >= first_ ? first_ : std::max(0, low - spare);
    const std::int32_t to = size > 0 && high < first_ + size ? first_ + size : high + spare;
    std::vector<double> grown(static_cast<std::size_t>(to - from), 0.0);
    if (size > 0) std::copy(counts_.begin(), counts_.end(), grown.begin() + (first_ - from));
    counts_.swap(grown);
    first_ = from;
  }

  Busy busy_;
  double multiplier_;
  std::int32_t first_ = 0;
  std::vector<double> counts_;
};

}  // namespace

void bind_relative(nb::module_& module) {
  using namespace nb::literals;
  nb::class_<LogBins>(module, "LogBins")
      .def(nb::init<double>(), "accuracy"_a)
      .def_static(
          "update",
          [](LogBins& positive, LogBins& negative, Array<const double, 1> x,
             std::optional<Array<const double, 1>> weight) {
            if (weight && weight->shape(0) != x.shape(0)) throw std::invalid_argument("weight must be as long as x");
            const nb::gil_scoped_release release;
            const auto apart = LogBins::update(positive, negative, x.data(), weight ? weight->data() : nullptr, x.shape(0));
            return std::make_tuple(apart[0], apart[1], apart[2]);
          },
          "positive"_a, "negative"_a, "x"_a, "weight"_a.none(),
          "Weight at 0, at -inf and at +inf; all other numbers are counted in the bins.")
      .def("merge", &LogBins::merge, "other"_a)
      .def("put", &LogBins::put, "bin"_a, "weight"_a)
      .def("copy", &LogBins::copy)
      .def("index", &LogBins::index, "x"_a)
      .def("edge", &LogBins::edge, "bin"_a)
      .def_prop_ro("first", &LogBins::first)
      .def_prop_ro("highest", &LogBins::highest)
      .def("counts", [](const LogBins& b) { return owned(b.counts()); });
}

}  // namespace tercile
