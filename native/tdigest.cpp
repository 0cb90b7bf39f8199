// The merging t-digest (Dunning and Ertl 2019), with the span of every centroid.
//
// Values are sorted 8,192 at a time and merged with the centroids in one pass. A centroid goes on growing as long as it
// covers less than one step of two scale functions: compression / (2 pi) * asin(2 q - 1), which rules in the middle, and
// compression / 50 * log(q / (1 - q)), which keeps the ends fine. Beside its mean and weight each keeps the least and the
// largest value in it, so that a rank has bounds that always hold: what lies wholly below a point is below it, what lies
// wholly above is not.
#include <algorithm>
#include <cmath>
#include <numbers>
#include <optional>
#include <stdexcept>
#include <vector>

#include "sketches/arrays.hpp"
#include "sketches/busy.hpp"
#include "sketches/order.hpp"

namespace tercile {
namespace {

struct Centroid {
  double mean, weight, low, high;
};

class TDigest {
 public:
  explicit TDigest(double compression) : compression_(compression) {
    if (!(compression >= 10 && compression <= 65535)) throw std::invalid_argument("compression must be 10 to 65535");
  }

  // weight may be null. NaN must not occur.
  void update(const double* x, const double* weight, std::size_t n) {
    const Hold hold(busy_);
    constexpr std::size_t block = 8192;
    std::vector<std::uint64_t> keys, scratch;
    std::vector<Centroid> fresh;
    for (std::size_t start = 0; start < n; start += block) {
      const std::size_t size = std::min(block, n - start);
      fresh.resize(size);
      if (weight) {
        for (std::size_t i = 0; i < size; ++i) {
          const double v = x[start + i];
          fresh[i] = {v, weight[start + i], v, v};
        }
        sort(fresh);
      } else {
        keys.resize(size);
        for (std::size_t i = 0; i < size; ++i) keys[i] = to_key(x[start + i]);
        sort_keys(keys.data(), size, scratch);
        for (std::size_t i = 0; i < size; ++i) {
          const double v = from_key<double>(keys[i]);
          fresh[i] = {v, 1.0, v, v};
        }
      }
      absorb(fresh);
    }
  }

  void merge(const TDigest& other) {
    const auto theirs = other.centroids();
    const Hold hold(busy_);
    absorb(theirs);
  }

  TDigest copy() const {
    const Hold hold(busy_);
    return *this;
  }

  std::vector<Centroid> centroids() const {
    const Hold hold(busy_);
    return centroids_;
  }
  double total() const { return total_; }
  double compression() const { return compression_; }
  void put(std::vector<Centroid> sorted) {
    centroids_ = std::move(sorted);
    total_ = 0.0;
    for (const auto& c : centroids_) total_ += c.weight;
  }

 private:
  static void sort(std::vector<Centroid>& centroids) { std::stable_sort(centroids.begin(), centroids.end(), before); }

  void absorb(const std::vector<Centroid>& sorted) {
    std::vector<Centroid> all(centroids_.size() + sorted.size());
    std::merge(centroids_.begin(), centroids_.end(), sorted.begin(), sorted.end(), all.begin(), before);
    for (const auto& c : sorted) total_ += c.weight;
    centroids_.clear();
    if (all.empty()) return;
    Centroid open = all.front();
    double sum = open.mean * open.weight, done = 0.0, limit = total_ * end_of_step(0.0);
    auto close = [&] {
      if (open.low == open.high || !std::isfinite(sum))
        open.mean = std::isinf(open.low) ? open.low : std::isinf(open.high) ? open.high : open.low;
      else
        open.mean = std::clamp(sum / open.weight, open.low, open.high);
      centroids_.push_back(open);
    };
    for (std::size_t i = 1; i < all.size(); ++i) {
      const Centroid& c = all[i];
      // Infinities stay by themselves, or they would swallow the mean of their neighbours.
      const bool alike = std::isfinite(c.mean * c.weight) && std::isfinite(sum) ? true : c.mean == open.mean;
      if (alike && done + open.weight + c.weight <= limit) {
        open.weight += c.weight;
        sum += c.mean * c.weight;
        open.low = std::min(open.low, c.low);
        open.high = std::max(open.high, c.high);
      } else {
        close();
        done += open.weight;
        open = c;
        sum = c.mean * c.weight;
        limit = total_ * end_of_step(done / total_);
      }
    }
    close();
    // Rounding of means may swap neighbours whose spans overlap.
    if (!std::is_sorted(centroids_.begin(), centroids_.end(), before)) sort(centroids_);
  }

  static bool before(const Centroid& a, const Centroid& b) { return a.mean < b.mean; }

  // The q that is one step of either scale function after q, whichever comes first.
  double end_of_step(double q) const {
    q = std::min(q, 1.0);
    const double angle = std::asin(2.0 * q - 1.0) + 2.0 * std::numbers::pi / compression_;
    const double middle = angle >= std::numbers::pi / 2 ? 1.0 : (std::sin(angle) + 1.0) / 2.0;
    const double odds = q * std::exp(50.0 / compression_);  // times 1 / (1 - q): the log of the odds moves by a step
    return std::min(middle, odds / (1.0 - q + odds));
  }

  Busy busy_;
  double compression_, total_ = 0.0;
  std::vector<Centroid> centroids_;
};

}  // namespace

void bind_tdigest(nb::module_& module) {
  using namespace nb::literals;
  nb::class_<TDigest>(module, "TDigest")
      .def(nb::init<double>(), "compression"_a)
      .def(
          "update",
          [](TDigest& s, Array<const double, 1> x, std::optional<Array<const double, 1>> weight) {
            if (weight && weight->shape(0) != x.shape(0)) throw std::invalid_argument("weight must be as long as x");
            const nb::gil_scoped_release release;
            s.update(x.data(), weight ? weight->data() : nullptr, x.shape(0));
          },
          "x"_a, "weight"_a.none())
      .def("merge", [](TDigest& s, const TDigest& other) { s.merge(other); }, "other"_a)
      .def("copy", &TDigest::copy)
      .def(
          "put",
          [](TDigest& s, Array<const double, 2> rows) {
            if (rows.shape(1) != 4) throw std::invalid_argument("rows must be (n, 4)");
            std::vector<Centroid> centroids(rows.shape(0));
            std::copy(rows.data(), rows.data() + rows.size(), reinterpret_cast<double*>(centroids.data()));
            s.put(std::move(centroids));
          },
          "rows"_a, "Takes (n, 4) rows of mean, weight, low and high in place of what it had.")
      .def("rows",
                   [](const TDigest& s) {
                     const auto c = s.centroids();
                     const auto* first = reinterpret_cast<const double*>(c.data());
                     return owned(std::vector<double>(first, first + 4 * c.size()));
                   })
      .def_prop_ro("total", &TDigest::total)
      .def_prop_ro("compression", &TDigest::compression);
}

}  // namespace tercile
