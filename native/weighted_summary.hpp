// XGBoost's weighted quantile summary (Chen and Guestrin 2016, appendix), and a sketch of a stream made of such.
//
// A summary keeps some of the values of a multiset, its least and largest among them. With each it keeps three
// weights: `low`, no more than what is smaller (the paper's r-); `high`, no less than what is at or below (r+);
// `weight`, no more than what is equal (w). What is between two neighbours is known only in sum: it weighs at most
// before(right) - after(left). The largest such gap, as a share of all weight, is the paper's epsilon, and since both
// ranks are answered by the middle of what is possible, half of it is the largest error.
//
// Merging adds no error: the epsilon of the union is at most the larger of the two. Pruning to b + 1 entries adds 1/b.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "sketches/order.hpp"

namespace tercile {

struct SummaryEntry {
  double value, low, high, weight;
  double after() const { return low + weight; }    // no more than what is at or below
  double before() const { return high - weight; }  // no less than what is smaller
};

using Summary = std::vector<SummaryEntry>;
using Weighed = std::pair<double, double>;  // a value and its weight, above 0

// Every value of a sorted run with its exact ranks.
inline Summary exact_summary(const Weighed* run, std::size_t n) {
  Summary out;
  double below = 0.0;
  for (std::size_t i = 0; i < n;) {
    const double value = run[i].first;
    double equal = 0.0;
    for (; i < n && run[i].first == value; ++i) equal += run[i].second;
    out.push_back({value, below, below + equal, equal});
    below += equal;
  }
  return out;
}

inline double total_weight(const Summary& s) { return s.empty() ? 0.0 : s.back().high; }

// The summary of both together. A value that the other does not keep lies between two of its entries: what is
// surely below it there is after(left one), what may be below it before(right one).
inline Summary merged(const Summary& a, const Summary& b) {
  if (a.empty()) return b;
  if (b.empty()) return a;
  Summary out;
  out.reserve(a.size() + b.size());
  const double whole_a = total_weight(a), whole_b = total_weight(b);
  std::size_t i = 0, j = 0;
  auto only = [&out](const SummaryEntry& mine, const Summary& other, std::size_t next, double whole) {
    const double surely = next == 0 ? 0.0 : other[next - 1].after();
    const double perhaps = next == other.size() ? whole : other[next].before();
    out.push_back({mine.value, mine.low + surely, mine.high + std::max(surely, perhaps), mine.weight});
  };
  while (i < a.size() || j < b.size()) {
    if (j == b.size() || (i < a.size() && a[i].value < b[j].value)) {
      only(a[i], b, j, whole_b);
      ++i;
    } else if (i == a.size() || b[j].value < a[i].value) {
      only(b[j], a, i, whole_a);
      ++j;
    } else {
      out.push_back({a[i].value, a[i].low + b[j].low, a[i].high + b[j].high, a[i].weight + b[j].weight});
      ++i;
      ++j;
    }
  }
  return out;
}

// Keeps the answers to b + 1 evenly spaced ranks, with what was known of them (the paper's prune).
inline Summary pruned(const Summary& s, std::size_t b) {
  if (s.size() <= b + 1) return s;
  Summary out{s.front()};
  const double whole = total_weight(s);
  std::size_t at = 0;
  for (std::size_t i = 1; i < b; ++i) {
    const double rank = whole * static_cast<double>(i) / static_cast<double>(b);
    while (at + 1 < s.size() && 0.5 * (s[at].after() + s[at + 1].before()) < rank) ++at;
    if (s[at].value != out.back().value) out.push_back(s[at]);
  }
  if (s.back().value != out.back().value) out.push_back(s.back());
  return out;
}

// The largest weight of which a summary does not say on which side of some point it lies.
inline double largest_gap(const Summary& s) {
  double gap = 0.0;
  for (std::size_t i = 0; i < s.size(); ++i) {
    gap = std::max(gap, s[i].high - s[i].after());
    if (i + 1 < s.size()) gap = std::max(gap, s[i + 1].before() - s[i].after());
  }
  return gap;
}

// Sorts by value; where all weigh the same only the values need moving.
inline void in_order(std::vector<Weighed>& run) {
  if (run.empty()) return;
  const double weight = run[0].second;
  if (!std::all_of(run.begin(), run.end(), [weight](const Weighed& one) { return one.second == weight; }))
    return std::sort(run.begin(), run.end());
  std::vector<std::uint64_t> keys(run.size()), scratch;
  for (std::size_t i = 0; i < run.size(); ++i) keys[i] = to_key(run[i].first);
  sort_keys(keys.data(), keys.size(), scratch);
  for (std::size_t i = 0; i < run.size(); ++i) run[i].first = from_key<double>(keys[i]);
}

// A stream's summary. Values gather in a buffer of 2b; a full one is sorted and pruned to b + 1 entries: a summary of
// level 1. Two of level l are merged and pruned to one of level l + 1, as digits carry in a binary counter. What is on
// level l was pruned l times, so its epsilon is at most l / b, and so is that of all levels together.
class SummaryLevels {
 public:
  explicit SummaryLevels(std::size_t b) : b_(b) {}

  void add(double value, double weight) {
    buffer_.emplace_back(value, weight);
    if (buffer_.size() >= 2 * b_) flush();
  }

  // A run in order of its values goes in at once, as one summary of level 1.
  void add_sorted(const Weighed* run, std::size_t n) {
    if (n > 0) carry(exact_summary(run, n), 1);
  }

  void merge(const SummaryLevels& other) {
    const SummaryLevels copy = other;  // `other` may be this very sketch
    for (std::size_t l = 0; l < copy.levels_.size(); ++l)
      if (!copy.levels_[l].empty()) carry(copy.levels_[l], l + 1);
    for (const auto& [value, weight] : copy.buffer_) add(value, weight);
  }

  Summary all() const {
    std::vector<Weighed> sorted = buffer_;
    in_order(sorted);
    Summary out = exact_summary(sorted.data(), sorted.size());
    for (const auto& level : levels_) out = merged(out, level);
    return out;
  }

  std::size_t b() const { return b_; }
  const std::vector<Weighed>& buffer() const { return buffer_; }
  const std::vector<Summary>& levels() const { return levels_; }
  std::vector<Weighed>& buffer() { return buffer_; }
  std::vector<Summary>& levels() { return levels_; }

 private:
  void flush() {
    in_order(buffer_);
    Summary fresh = exact_summary(buffer_.data(), buffer_.size());
    buffer_.clear();
    carry(std::move(fresh), 1);
  }

  // Nothing is thrown away as long as a level holds all its values: a stream of few different ones stays exact.
  void carry(Summary summary, std::size_t level) {
    summary = pruned(summary, b_);
    while (true) {
      if (levels_.size() < level) levels_.resize(level);
      Summary& here = levels_[level - 1];
      if (here.empty()) {
        here = std::move(summary);
        return;
      }
      summary = merged(here, summary);
      if (summary.size() <= b_ + 1) {
        here = std::move(summary);
        return;
      }
      here.clear();
      summary = pruned(summary, b_);
      ++level;
    }
  }

  std::size_t b_;
  std::vector<Weighed> buffer_;
  std::vector<Summary> levels_;  // levels_[l - 1] is level l, empty or of at most b + 1 entries
};

}  // namespace tercile
