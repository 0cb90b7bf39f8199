// KLL quantile sketch (Karnin, Lang and Liberty 2016) of doubles, 64-bit integers or strings of bytes, with the
// sampler at the bottom.
//
// Level h holds items that stand for 2^h values each. Compacting a level means: sort it, and every other item, starting
// at the first or the second by a fair coin, moves up with twice the weight. Capacities shrink by 2/3 a level downwards
// from k at the top, to 8. As in DataSketches nothing is compacted before all levels together are full, and then the
// lowest that is over its own capacity. Below `depth_` levels compacting is replaced by what it comes to in the end:
// one uniformly drawn item out of each 2^shift.
//
// A long array is summarised by itself first, in scratch memory that is given back: one value out of each 2^s is drawn,
// with s so small that this hardly shows, and sorted runs of 8,192 of them are merged and halved in a binary counter
// until as few are left as a level has room for. It is the same compacting with a k of 8,192, so an array
// costs far less accuracy than its values one by one. What is left at its end goes the same way at a lower level.
//
// Every coin adds an error to a rank that is -w, 0 or +w with mean 0, where w is the weight of what was compacted,
// and every sampled block one within +-w/2 of its mean; `variance` adds up w^2 and w^2/4. By Hoeffding's lemma the
// error of any rank asked for is sub-Gaussian with that variance, whatever the values and their order.
#pragma once
#include <cmath>
#include <limits>
#include <span>
#include <stdexcept>
#include <utility>

#include "busy.hpp"
#include "order.hpp"

namespace tercile {

constexpr std::size_t kSmallestLevel = 8;
constexpr int kMostLevels = 60;

class Coins {  // SplitMix64
 public:
  explicit Coins(std::uint64_t state) : state(state) {}
  std::uint64_t next() {
    std::uint64_t z = (state += 0x9E3779B97F4A7C15ull);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
  }
  std::size_t coin() { return next() >> 63; }
  std::uint64_t below_power(int bits) { return bits == 0 ? 0 : next() >> (64 - bits); }

  std::uint64_t state;
};

template <typename T>
class Kll {
 public:
  using Key = typename Keyed<T>::Key;

  // All that a sketch is made of. `levels` from weight 1 up, all but the lowest one in use ("shift") sorted.
  struct State {
    int k = 0, shift = 0;
    std::uint64_t count = 0, pending_weight = 0, random = 0;
    double variance = 0.0;
    T pending{}, minimum{}, maximum{};
    std::vector<std::vector<T>> levels;
  };

  Kll(int k, std::uint64_t seed) : coins_(seed) {
    if (k < 8 || k > 65535) throw std::invalid_argument("k must be 8 to 65535, got " + std::to_string(k));
    state_.k = k;
    state_.levels.resize(1);
    set_capacities();
  }

  // Checks everything that later code relies on, so that a hostile state is refused and never acted upon.
  explicit Kll(State state) : coins_(state.random), state_(std::move(state)) {
    const auto& s = state_;
    const int levels = static_cast<int>(s.levels.size());
    if (s.k < 8 || s.k > 65535 || levels < 1 || levels > kMostLevels || s.shift < 0 || s.shift >= levels) fail();
    if (s.pending_weight >= (std::uint64_t{1} << s.shift)) fail();
    if (!(s.variance >= 0.0) || !std::isfinite(s.variance)) fail();
    std::uint64_t weight = s.pending_weight;
    auto inside = [&s](const T& v) { return s.minimum <= v && v <= s.maximum; };
    for (int h = 0; h < levels; ++h) {
      const auto& level = s.levels[h];
      if (h < s.shift && !level.empty()) fail();
      if (!std::all_of(level.begin(), level.end(), inside)) fail();
      if (h > s.shift && !std::is_sorted(level.begin(), level.end())) fail();
      if (level.size() > (std::numeric_limits<std::uint64_t>::max() / 64 >> h)) fail();
      weight += std::uint64_t{level.size()} << h;
    }
    if (weight != s.count || (s.pending_weight > 0 && !inside(s.pending))) fail();
    set_capacities();
  }

  State state() const {
    const Hold hold(busy_);
    State copy = state_;
    copy.random = coins_.state;
    return copy;
  }
  // Without a lock: for numbers that are read while nothing runs.
  const State& peek() const { return state_; }

  Kll copy() const {
    const Hold hold(busy_);
    return *this;
  }

  std::size_t items() const {
    std::size_t total = state_.pending_weight > 0;
    for (const auto& level : state_.levels) total += level.size();
    return total;
  }

  // x is anything with operator[] that gives what a T is made from; low and high are its least and largest value.
  template <typename Values>
  void update(const Values& x, std::size_t n, const T& low, const T& high) {
    if (n == 0) return;
    const Hold hold(busy_);
    see(low, high);
    state_.count += n;
    std::size_t at = 0;
    while (at < n) {
      const int shift = state_.shift;
      const std::size_t left = n - at;
      if (shift == 0 && items() + left < room()) {
        auto& bottom = state_.levels[0];
        for (; at < n; ++at) bottom.push_back(static_cast<T>(x[at]));
      } else if ((left >> shift) < 32) {  // too few to sort: through the sampler
        const std::uint64_t block = std::uint64_t{1} << shift;
        const std::size_t part = std::min<std::size_t>(left, block - state_.pending_weight);
        const std::size_t pick = part == 1 ? 0 : coins_.next() % part;
        sample(static_cast<T>(x[at + pick]), part);
        at += part;
      } else {
        at += digest(x, at, left);
      }
    }
  }

  void update_weighted(const T* x, const std::int64_t* weight, std::size_t n) {
    const Hold hold(busy_);
    for (std::size_t i = 0; i < n; ++i) {
      see(x[i], x[i]);
      state_.count += weight[i];
      insert(x[i], static_cast<std::uint64_t>(weight[i]));
    }
  }

  void merge(const Kll& from) {
    if (&from == this) return merge(from.copy());
    const Hold hold(busy_), other_hold(from.busy_);
    if (from.state_.count == 0) return;
    const State& other = from.state_;
    see(other.minimum, other.maximum);
    state_.count += other.count;
    state_.variance += other.variance;
    auto& levels = state_.levels;
    while (state_.shift < other.shift) raise_shift();
    if (levels.size() < other.levels.size()) levels.resize(other.levels.size());
    const int shift = state_.shift;
    for (int h = shift; h < static_cast<int>(other.levels.size()); ++h) {
      if (h == shift)
        levels[h].insert(levels[h].end(), other.levels[h].begin(), other.levels[h].end());
      else
        add_sorted(h, other.levels[h]);  // above our shift is above theirs: sorted
    }
    // What is lighter than an item of the bottom level goes through the sampler, once all levels are in order again.
    const int settled = std::min(shift, static_cast<int>(other.levels.size()));
    for (int h = other.shift; h < settled; ++h)
      for (const T& v : other.levels[h]) sample(v, std::uint64_t{1} << h);
    if (other.pending_weight > 0) insert(other.pending, other.pending_weight);
    compress();
  }

  // Fewer items: compacts until at most `most` are kept, which must be 64 or more, with no sampler and at most 60 levels.
  void shrink(std::size_t most) {
    const Hold hold(busy_);
    while (items() > most) {
      std::size_t fullest = state_.shift;
      for (std::size_t h = state_.shift; h < state_.levels.size(); ++h)
        if (state_.levels[h].size() > 1) {
          fullest = h;
          break;
        }
      compact(fullest);
    }
  }

  // Values in order with the weight of all up to and including each.
  void view(std::vector<T>& values, std::vector<double>& cumulative) const {
    const Hold hold(busy_);
    std::vector<std::pair<T, std::uint64_t>> all;
    all.reserve(items());
    for (std::size_t h = 0; h < state_.levels.size(); ++h)
      for (const T& v : state_.levels[h]) all.emplace_back(v, std::uint64_t{1} << h);
    if (state_.pending_weight > 0) all.emplace_back(state_.pending, state_.pending_weight);
    std::sort(all.begin(), all.end());
    std::uint64_t total = 0;
    for (auto& [value, weight] : all) {
      total += weight;
      values.push_back(std::move(value));
      cumulative.push_back(static_cast<double>(total));
    }
  }

 private:
  [[noreturn]] static void fail() { throw std::invalid_argument("the bytes of the sketch are damaged"); }

  void set_capacities() {
    double capacity = state_.k;
    std::size_t total = 0;
    for (int d = 0; d <= kMostLevels; ++d) {
      capacities_[d] = std::max<std::size_t>(kSmallestLevel, static_cast<std::size_t>(std::lround(capacity)));
      total += capacities_[d];
      rooms_[d] = total;
      capacity *= 2.0 / 3.0;
    }
    depth_ = std::bit_width(static_cast<unsigned>(state_.k)) + 3;
  }

  void see(const T& low, const T& high) {
    if (state_.count == 0 || low < state_.minimum) state_.minimum = low;
    if (state_.count == 0 || state_.maximum < high) state_.maximum = high;
  }

  std::size_t capacity(std::size_t level) const { return capacities_[state_.levels.size() - 1 - level]; }
  std::size_t room() const { return rooms_[state_.levels.size() - 1 - state_.shift]; }

  // The lowest level that takes n values in at most twice its capacity, counted from a top of which 2 k items carry the
  // whole count. Twice, as all levels together hold three times k, and what is kept finer is nearer to the truth.
  int landing(std::size_t n) const {
    int top = static_cast<int>(state_.levels.size()) - 1;
    while ((state_.count >> top) > 2 * static_cast<std::uint64_t>(state_.k) && top < kMostLevels - 2) ++top;
    int h = state_.shift;
    while (h < top && (n >> h) > 2 * capacities_[top - h]) ++h;
    return h;
  }

  // Takes as many values as make whole items of the level where they land; returns how many these were.
  template <typename Values>
  std::size_t digest(const Values& x, std::size_t start, std::size_t n) {
    const int level = landing(n);
    const std::size_t items = n >> level;
    const std::size_t taken = items << level;
    // Drawing m of n values moves a rank by n / (2 sqrt(m)) or less: with m = 8 k^2 a small part of what k costs. As
    // what counts is the error beside all values so far, later arrays are drawn from more thinly.
    const double enough = std::max(8.0 * state_.k * state_.k, 32768.0);
    int s = 0;
    while (s < level && static_cast<double>(state_.count >> (s + 1)) >= enough) ++s;
    const std::size_t drawn = taken >> s;
    state_.variance += s == 0 ? 0.0 : static_cast<double>(drawn) * std::ldexp(0.25, 2 * s);

    constexpr std::size_t length = 8192;
    std::vector<std::vector<Key>> runs(static_cast<std::size_t>(level - s) + 1);
    std::vector<Key> run, scratch;
    for (std::size_t done = 0; done < drawn; done += run.size()) {
      run.resize(std::min(length, drawn - done));
      const std::size_t base = start + (done << s);
      for (std::size_t i = 0; i < run.size(); ++i)
        run[i] = to_key(static_cast<T>(x[base + (i << s) + coins_.below_power(s)]));
      sort_keys(run.data(), run.size(), scratch);
      if (run.size() < length) break;  // the last one, shorter: below
      std::size_t up = 0;
      std::vector<Key> carry = run;
      for (; up + 1 < runs.size() && !runs[up].empty(); ++up) carry = halve(carry, std::exchange(runs[up], {}), s + up);
      runs[up] = runs[up].empty() ? std::move(carry) : merged(runs[up], carry);
    }
    std::vector<Key> carry;
    if (drawn % length != 0) carry = std::move(run);
    // From the lightest run up. Lengths come out even: what remains above is a multiple of `length` and of 2^(level-s).
    for (std::size_t up = 0; up + 1 < runs.size(); ++up) carry = halve(carry, runs[up], s + up);
    carry = merged(carry, runs.back());

    std::vector<T> kept;
    kept.reserve(carry.size());
    for (const Key& key : carry) kept.push_back(from_key<T>(key));
    if (static_cast<int>(state_.levels.size()) <= level) state_.levels.resize(static_cast<std::size_t>(level) + 1);
    if (level == state_.shift)
      state_.levels[level].insert(state_.levels[level].end(), kept.begin(), kept.end());
    else
      add_sorted(level, kept);
    compress();
    return taken;
  }

  static std::vector<Key> merged(const std::vector<Key>& a, const std::vector<Key>& b) {
    std::vector<Key> out(a.size() + b.size());
    merge_sorted(a.data(), a.size(), b.data(), b.size(), out.data());
    return out;
  }

  // Every other of the sorted union of two runs of weight 2^h each, which hold an even number together.
  std::vector<Key> halve(const std::vector<Key>& a, const std::vector<Key>& b, std::size_t h) {
    const std::size_t total = a.size() + b.size();
    if (total == 0) return {};
    const std::size_t offset = coins_.coin();
    state_.variance += std::ldexp(1.0, 2 * static_cast<int>(h));
    std::vector<Key> both = merged(a, b);
    for (std::size_t i = 0; i < total / 2; ++i) both[i] = both[2 * i + offset];
    both.resize(total / 2);
    return both;
  }

  void add_sorted(std::size_t h, const std::vector<T>& more) {
    if (more.empty()) return;
    auto& level = state_.levels[h];
    if (level.empty()) {
      level = more;
      return;
    }
    scratch_.resize(level.size() + more.size());
    merge_sorted(level.data(), level.size(), more.data(), more.size(), scratch_.data());
    level.swap(scratch_);
  }

  // An item of weight up to 2^shift for the sampler, split where a block ends: each value of a block is drawn with a
  // chance that is its share of the block.
  void sample(const T& value, std::uint64_t weight) {
    auto& pending = state_.pending_weight;
    while (weight > 0) {
      const std::uint64_t block = std::uint64_t{1} << state_.shift;
      if (pending < block) {  // a raised shift never makes blocks smaller, so otherwise this is a full one
        const std::uint64_t part = std::min(weight, block - pending);
        pending += part;
        weight -= part;
        if (part == pending || coins_.next() % pending < part) state_.pending = value;
      }
      if (pending < block) return;
      pending = 0;
      if (block > 1) state_.variance += std::ldexp(0.25, 2 * state_.shift);
      auto& bottom = state_.levels[state_.shift];
      bottom.push_back(state_.pending);
      if (bottom.size() >= capacity(state_.shift)) compress();
    }
  }

  // An item of any weight: its binary digits are items on the levels, what is below the sampler goes through it.
  void insert(const T& value, std::uint64_t weight) {
    const int base = state_.shift;
    const std::uint64_t small = weight & ((std::uint64_t{1} << base) - 1);
    const std::uint64_t large = weight >> base;
    for (int bit = 0; (large >> bit) != 0; ++bit) {
      if (((large >> bit) & 1) == 0) continue;
      const std::size_t h = static_cast<std::size_t>(base + bit);
      if (state_.levels.size() <= h) state_.levels.resize(h + 1);
      auto& level = state_.levels[h];
      if (static_cast<int>(h) == base)
        level.push_back(value);
      else
        level.insert(std::upper_bound(level.begin(), level.end(), value), value);
    }
    if (small > 0) sample(value, small);
    compress();
  }

  void compress() {
    auto& levels = state_.levels;
    for (;;) {
      while (static_cast<int>(levels.size()) - state_.shift > depth_) raise_shift();
      if (items() < room()) return;
      std::size_t h = static_cast<std::size_t>(state_.shift);
      while (h + 1 < levels.size() && levels[h].size() < capacity(h)) ++h;
      compact(h);
    }
  }

  void compact(std::size_t h) {
    auto& levels = state_.levels;
    if (h + 1 == levels.size()) levels.emplace_back();
    auto& level = levels[h];
    if (static_cast<int>(h) == state_.shift) std::sort(level.begin(), level.end());
    const std::size_t pairs = level.size() / 2;
    if (pairs == 0) return;
    const std::size_t offset = coins_.coin();
    // The odd one out stays, and with it the exact count.
    std::vector<T> rest;
    if (level.size() % 2 == 1) rest.push_back(level.back());
    for (std::size_t i = 0; i < pairs; ++i) level[i] = level[2 * i + offset];
    level.resize(pairs);
    add_sorted(h + 1, level);
    levels[h] = std::move(rest);
    state_.variance += std::ldexp(1.0, 2 * static_cast<int>(h));
  }

  void raise_shift() {
    if (state_.levels.size() < static_cast<std::size_t>(state_.shift) + 2) state_.levels.emplace_back();
    compact(state_.shift);
    std::vector<T> left;
    left.swap(state_.levels[state_.shift]);
    ++state_.shift;
    for (const T& v : left) sample(v, std::uint64_t{1} << (state_.shift - 1));
  }

  Busy busy_;
  Coins coins_;
  State state_;
  int depth_ = 2;
  std::size_t capacities_[kMostLevels + 1], rooms_[kMostLevels + 1];  // from the top level down
  std::vector<T> scratch_;
};

}  // namespace tercile
