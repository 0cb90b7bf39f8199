// KLL quantile sketch (Karnin, Lang and Liberty 2016) of doubles, with the sampler at the bottom.
//
// Level h holds items that stand for 2^h values each. A level that is full is sorted, and every other item, starting
// at the first or the second by a fair coin, moves up with twice the weight. Capacities shrink by 2/3 a level
// downwards from k at the top. Below the level where that would leave fewer than kSmallest items, compacting is
// replaced by what it comes to in the end: one uniformly drawn item out of each 2^shift. A long stream therefore
// costs one look at each value (its NaN check, minimum and maximum) and one insertion for each 2^shift.
//
// Every coin adds an error to a rank that is -w, 0 or +w with mean 0, where w is the weight of what was compacted,
// and every sampled block one within +-w/2 of its mean; `variance` adds up w^2 and w^2/4. By Hoeffding's lemma the
// error of any rank asked for is sub-Gaussian with that variance, whatever the values and their order.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>

#include "bind.hpp"

namespace tercile {
namespace {

constexpr int kSmallest = 16;
constexpr int kMostLevels = 60;

class Kll {
 public:
  Kll(int k, std::uint64_t seed) : k_(k), random_(seed), levels_(1) {
    if (k < 8 || k > 65535) throw std::invalid_argument("k must be 8 to 65535, got " + std::to_string(k));
    double capacity = k;
    for (auto& c : capacities_) {
      c = std::max<std::size_t>(kSmallest, static_cast<std::size_t>(std::ceil(capacity)));
      capacity *= 2.0 / 3.0;
      if (capacity >= kSmallest) ++depth_;
    }
  }

  int k() const { return k_; }
  std::uint64_t count() const { return count_; }
  double minimum() const { return minimum_; }
  double maximum() const { return maximum_; }
  double variance() const { return variance_; }
  std::size_t items() const {
    std::size_t total = pending_weight_ > 0;
    for (const auto& level : levels_) total += level.size();
    return total;
  }

  // Returns the index of the first NaN, having changed nothing, or -1.
  template <typename T>
  std::ptrdiff_t update(const T* x, std::size_t n) {
    if (n == 0) return -1;
    // Eight lanes that do not wait for each other. A NaN fails v == v.
    constexpr std::size_t lanes = 8;
    T low[lanes], high[lanes];
    int odd[lanes] = {};
    std::fill(low, low + lanes, x[0]);
    std::fill(high, high + lanes, x[0]);
    std::size_t i = 0;
    for (; i + lanes <= n; i += lanes)
      for (std::size_t j = 0; j < lanes; ++j) {
        const T v = x[i + j];
        low[j] = v < low[j] ? v : low[j];
        high[j] = v > high[j] ? v : high[j];
        odd[j] |= !(v == v);
      }
    for (; i < n; ++i) {
      low[0] = std::min(low[0], x[i]);
      high[0] = std::max(high[0], x[i]);
      odd[0] |= !(x[i] == x[i]);
    }
    if (std::any_of(odd, odd + lanes, [](int flag) { return flag != 0; }))
      return std::find_if(x, x + n, [](T v) { return !(v == v); }) - x;
    see(static_cast<double>(*std::min_element(low, low + lanes)),
        static_cast<double>(*std::max_element(high, high + lanes)));
    count_ += n;
    i = 0;
    while (i < n) {
      if (shift_ == 0) {
        auto& bottom = levels_[0];
        const std::size_t capacity = bottom_capacity();
        const std::size_t room = capacity > bottom.size() ? capacity - bottom.size() : 0;
        const std::size_t take = std::min(room, n - i);
        bottom.insert(bottom.end(), x + i, x + i + take);
        i += take;
        if (bottom.size() >= capacity) compress();
      } else if (pending_weight_ == 0 && n - i >= (std::size_t{1} << shift_)) {
        const std::uint64_t block = std::uint64_t{1} << shift_;
        push_bottom(static_cast<double>(x[i + (next() >> (64 - shift_))]));
        i += block;
      } else {
        sample(static_cast<double>(x[i++]), 1);
      }
    }
    return -1;
  }

  void update_weighted(const double* x, const std::int64_t* weight, std::size_t n) {
    for (std::size_t i = 0; i < n; ++i) {
      see(x[i], x[i]);
      count_ += weight[i];
      insert(x[i], static_cast<std::uint64_t>(weight[i]));
    }
  }

  void merge(const Kll& other) {
    if (other.k_ != k_)
      throw std::invalid_argument("cannot merge a sketch with k=" + std::to_string(other.k_) + " into one with k=" +
                                  std::to_string(k_));
    if (other.count_ == 0) return;
    if (other.count_ > std::numeric_limits<std::uint64_t>::max() / 4 - count_)
      throw std::invalid_argument("the merged count would overflow");
    const Kll copy = other;  // `other` may be this very sketch
    see(copy.minimum_, copy.maximum_);
    count_ += copy.count_;
    variance_ += copy.variance_;
    while (shift_ < copy.shift_) raise_shift();
    if (levels_.size() < copy.levels_.size()) levels_.resize(copy.levels_.size());
    for (std::size_t h = shift_; h < copy.levels_.size(); ++h) {
      levels_[h].insert(levels_[h].end(), copy.levels_[h].begin(), copy.levels_[h].end());
      if (static_cast<int>(h) > shift_) std::sort(levels_[h].begin(), levels_[h].end());
    }
    // What is lighter than an item of the bottom level goes through the sampler, once all levels are in order again.
    const int settled = std::min(shift_, static_cast<int>(copy.levels_.size()));
    for (int h = copy.shift_; h < settled; ++h)
      for (double v : copy.levels_[h]) sample(v, std::uint64_t{1} << h);
    if (copy.pending_weight_ > 0) insert(copy.pending_, copy.pending_weight_);
    compress();
  }

  // Values in order with the weight of all up to and including each.
  void view(std::vector<double>& values, std::vector<double>& cumulative) const {
    std::vector<std::pair<double, std::uint64_t>> all;
    all.reserve(items());
    for (std::size_t h = 0; h < levels_.size(); ++h)
      for (double v : levels_[h]) all.emplace_back(v, std::uint64_t{1} << h);
    if (pending_weight_ > 0) all.emplace_back(pending_, pending_weight_);
    std::sort(all.begin(), all.end());
    std::uint64_t total = 0;
    for (const auto& [value, weight] : all) {
      total += weight;
      values.push_back(value);
      cumulative.push_back(static_cast<double>(total));
    }
  }

  std::string save() const {
    std::string out;
    auto put = [&out](auto value) { out.append(reinterpret_cast<const char*>(&value), sizeof value); };
    put(static_cast<std::uint32_t>(k_));
    put(static_cast<std::uint32_t>(shift_));
    put(static_cast<std::uint32_t>(levels_.size()));
    put(count_);
    put(pending_weight_);
    put(random_);
    put(pending_);
    put(minimum_);
    put(maximum_);
    put(variance_);
    for (const auto& level : levels_) put(static_cast<std::uint32_t>(level.size()));
    for (const auto& level : levels_)
      if (!level.empty()) out.append(reinterpret_cast<const char*>(level.data()), level.size() * sizeof(double));
    return out;
  }

  // Checks everything that later code relies on, so that hostile bytes are refused and never acted upon.
  static Kll load(const char* data, std::size_t size) {
    std::size_t at = 0;
    auto get = [&](auto& value) {
      if (size - at < sizeof value) throw std::invalid_argument("the bytes of the sketch end too early");
      std::memcpy(&value, data + at, sizeof value);
      at += sizeof value;
    };
    std::uint32_t k, shift, levels;
    get(k);
    get(shift);
    get(levels);
    if (k < 8 || k > 65535 || levels < 1 || levels > kMostLevels || shift >= levels) fail();
    Kll sketch(static_cast<int>(k), 0);
    sketch.shift_ = static_cast<int>(shift);
    get(sketch.count_);
    get(sketch.pending_weight_);
    get(sketch.random_);
    get(sketch.pending_);
    get(sketch.minimum_);
    get(sketch.maximum_);
    get(sketch.variance_);
    sketch.levels_.resize(levels);
    std::vector<std::uint32_t> sizes(levels);
    std::size_t total = 0;
    for (auto& s : sizes) {
      get(s);
      total += s;
    }
    if (size - at != total * sizeof(double)) fail();
    std::uint64_t weight = sketch.pending_weight_;
    if (sketch.pending_weight_ >= (std::uint64_t{1} << shift)) fail();
    for (std::uint32_t h = 0; h < levels; ++h) {
      auto& level = sketch.levels_[h];
      if (h < shift && sizes[h] > 0) fail();
      level.resize(sizes[h]);
      if (sizes[h] > 0) std::memcpy(level.data(), data + at, sizes[h] * sizeof(double));
      at += sizes[h] * sizeof(double);
      for (double v : level)
        if (!(v >= sketch.minimum_ && v <= sketch.maximum_)) fail();
      if (h > shift && !std::is_sorted(level.begin(), level.end())) fail();
      if (sizes[h] > (std::numeric_limits<std::uint64_t>::max() / 64 >> h)) fail();
      weight += std::uint64_t{sizes[h]} << h;
    }
    if (weight != sketch.count_ || !(sketch.variance_ >= 0.0) || !std::isfinite(sketch.variance_)) fail();
    if (sketch.pending_weight_ > 0 && !(sketch.pending_ >= sketch.minimum_ && sketch.pending_ <= sketch.maximum_)) fail();
    return sketch;
  }

 private:
  [[noreturn]] static void fail() { throw std::invalid_argument("the bytes of the sketch are damaged"); }

  std::uint64_t next() {  // SplitMix64
    std::uint64_t z = (random_ += 0x9E3779B97F4A7C15ull);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
  }

  void see(double low, double high) {
    minimum_ = count_ == 0 ? low : std::min(minimum_, low);
    maximum_ = count_ == 0 ? high : std::max(maximum_, high);
  }

  std::size_t capacity(std::size_t level) const { return capacities_[levels_.size() - 1 - level]; }

  // The bottom is where everything enters: a longer buffer there makes for fewer, larger sorts.
  std::size_t bottom_capacity() const { return std::max<std::size_t>(capacity(shift_), 64); }

  void push_bottom(double value) {
    const double half = std::ldexp(0.5, shift_);
    variance_ += half * half;
    levels_[shift_].push_back(value);
    if (levels_[shift_].size() >= bottom_capacity()) compress();
  }

  // One item of weight below 2^shift for the sampler, split where a block ends: each value of a block is drawn with
  // a chance that is its share of the block.
  void sample(double value, std::uint64_t weight) {
    while (weight > 0) {
      const std::uint64_t block = std::uint64_t{1} << shift_;
      if (pending_weight_ >= block) {  // a raised shift never makes blocks smaller, so this is a full one
        pending_weight_ = 0;
        push_bottom(pending_);
        continue;
      }
      const std::uint64_t part = std::min(weight, block - pending_weight_);
      pending_weight_ += part;
      weight -= part;
      if (next() % pending_weight_ < part) pending_ = value;
      if (pending_weight_ == block) {
        pending_weight_ = 0;
        push_bottom(pending_);
      }
    }
  }

  // An item of any weight: its binary digits are items on the levels, what is below the sampler goes through it.
  void insert(double value, std::uint64_t weight) {
    const std::uint64_t small = weight & ((std::uint64_t{1} << shift_) - 1);
    const std::uint64_t large = weight >> shift_;
    const int base = shift_;
    for (int bit = 0; bit < 64 && (large >> bit) != 0; ++bit) {
      if (((large >> bit) & 1) == 0) continue;
      const std::size_t h = base + bit;
      if (levels_.size() <= h) levels_.resize(h + 1);
      auto& level = levels_[h];
      if (static_cast<int>(h) == shift_)
        level.push_back(value);
      else
        level.insert(std::upper_bound(level.begin(), level.end(), value), value);
    }
    if (small > 0) sample(value, small);
    compress();
  }

  void compress() {
    for (std::size_t h = shift_; h < levels_.size(); ++h) {
      const std::size_t most = static_cast<int>(h) == shift_ ? bottom_capacity() : capacity(h);
      if (levels_[h].size() >= most) compact(h);
    }
    while (static_cast<int>(levels_.size()) - shift_ > depth_) raise_shift();
  }

  void compact(std::size_t h) {
    if (h + 1 == levels_.size()) levels_.emplace_back();
    auto& level = levels_[h];
    auto& above = levels_[h + 1];
    if (static_cast<int>(h) == shift_) std::sort(level.begin(), level.end());
    const std::size_t pairs = level.size() / 2;
    if (pairs == 0) return;
    const std::size_t offset = next() >> 63;
    const std::size_t middle = above.size();
    for (std::size_t i = 0; i < pairs; ++i) above.push_back(level[2 * i + offset]);
    std::inplace_merge(above.begin(), above.begin() + static_cast<std::ptrdiff_t>(middle), above.end());
    if (level.size() % 2 == 1) level.front() = level.back();  // the odd one out stays, and with it the exact count
    level.resize(level.size() % 2);
    variance_ += std::ldexp(1.0, 2 * static_cast<int>(h));
  }

  void raise_shift() {
    if (levels_.size() < static_cast<std::size_t>(shift_) + 2) levels_.emplace_back();
    compact(shift_);
    std::vector<double> left;
    left.swap(levels_[shift_]);
    ++shift_;
    for (double v : left) sample(v, std::uint64_t{1} << (shift_ - 1));
  }

  int k_, depth_ = 2, shift_ = 0;
  std::uint64_t count_ = 0, pending_weight_ = 0, random_;
  double pending_ = 0.0, minimum_ = std::numeric_limits<double>::quiet_NaN(),
         maximum_ = std::numeric_limits<double>::quiet_NaN(), variance_ = 0.0;
  std::size_t capacities_[kMostLevels + 4];  // from the top level down
  std::vector<std::vector<double>> levels_;
};

}  // namespace

void bind_kll(nb::module_& module) {
  using namespace nb::literals;
  nb::class_<Kll>(module, "Kll")
      .def(nb::init<int, std::uint64_t>(), "k"_a, "seed"_a)
      .def("update", [](Kll& s, Array<const double, 1> x) { return s.update(x.data(), x.shape(0)); }, "x"_a)
      .def("update", [](Kll& s, Array<const float, 1> x) { return s.update(x.data(), x.shape(0)); }, "x"_a)
      .def(
          "update_weighted",
          [](Kll& s, Array<const double, 1> x, Array<const std::int64_t, 1> weight) {
            if (x.shape(0) != weight.shape(0)) throw std::invalid_argument("weight must be as long as x");
            s.update_weighted(x.data(), weight.data(), x.shape(0));
          },
          "x"_a, "weight"_a)
      .def("merge", &Kll::merge, "other"_a)
      .def("copy", [](const Kll& s) { return Kll(s); })
      .def("view",
           [](const Kll& s) {
             std::vector<double> values, cumulative;
             s.view(values, cumulative);
             return std::make_pair(values, cumulative);
           })
      .def("save",
           [](const Kll& s) {
             const std::string out = s.save();
             return nb::bytes(out.data(), out.size());
           })
      .def_static("load", [](nb::bytes data) { return Kll::load(data.c_str(), data.size()); }, "data"_a)
      .def_prop_ro("k", &Kll::k)
      .def_prop_ro("count", &Kll::count)
      .def_prop_ro("minimum", &Kll::minimum)
      .def_prop_ro("maximum", &Kll::maximum)
      .def_prop_ro("variance", &Kll::variance)
      .def_prop_ro("items", &Kll::items);
}

}  // namespace tercile
