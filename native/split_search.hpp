// The three ways of Chen and Guestrin 2016 to find the best split of every node of a level in one column: exact
// greedy (their algorithm 1), and approximate with candidates proposed once a tree (global) or once a node (local;
// algorithm 2). All are aware of sparsity (algorithm 3): only entries that are there are visited, and those that
// are missing are tried on either side.
#pragma once
#include <limits>

#include "column_blocks.hpp"
#include "weighted_summary.hpp"

namespace tercile {

// First and second derivatives of the loss, of one row or summed.
struct Sum {
  double g = 0.0, h = 0.0;
  Sum& operator+=(const Sum& o) {
    g += o.g;
    h += o.h;
    return *this;
  }
};
inline Sum operator+(Sum a, const Sum& b) { return a += b; }
inline Sum operator-(const Sum& a, const Sum& b) { return {a.g - b.g, a.h - b.h}; }

struct Penalty {
  double lambda, least_gain, least_weight;
  double score(const Sum& s) const { return s.h + lambda > 0.0 ? s.g * s.g / (s.h + lambda) : 0.0; }
};

struct Split {
  double gain = 0.0;
  double after = 0.0;  // what the gain is the small difference of
  int feature = -1;
  float threshold = 0.0f;  // rows below it go left
  bool missing_left = false;
  Sum left;
};

// The nodes that may be split at one depth, numbered from 0; `slot` says in which of them a row is, or `width` if it
// is in none.
struct Level {
  std::size_t width = 0;
  std::vector<int> slot;
  std::vector<Sum> total;
  std::vector<std::uint32_t> rows;
  std::vector<double> score;
};

// Gains that differ by less than sums of many terms are off by count as equal, and the first of them wins: that a
// weight of 2 is the same as a row that comes twice should not depend on how rounding falls.
constexpr double kRounding = 1e-10;

// Candidates of one column, one node.
class Chooser {
 public:
  Chooser(const Penalty& penalty, const Level& level, std::size_t slot, int feature, Sum missing, bool any_missing,
          Split& best)
      : penalty_(penalty), whole_(level.total[slot]), score_(level.score[slot]), feature_(feature), missing_(missing),
        any_missing_(any_missing), best_(best) {}

  // `below`: what is there and goes left of the threshold.
  void consider(const Sum& below, float threshold) {
    if (!any_missing_) {
      offer(below, threshold, below.h > 0.5 * whole_.h);  // a value missing later goes where most went
      return;
    }
    offer(below, threshold, false);
    offer(below + missing_, threshold, true);
  }

  // What is there against what is missing.
  void consider_presence() {
    if (any_missing_) offer(whole_ - missing_, std::numeric_limits<float>::infinity(), false);
  }

 private:
  void offer(const Sum& left, float threshold, bool missing_left) {
    const Sum right = whole_ - left;
    if (left.h < penalty_.least_weight || right.h < penalty_.least_weight || left.h <= 0.0 || right.h <= 0.0) return;
    const double after = penalty_.score(left) + penalty_.score(right), gain = after - score_;
    if (gain > std::max(best_.gain, penalty_.least_gain) + kRounding * after)
      best_ = {gain, after, feature_, threshold, missing_left, left};
  }

  const Penalty& penalty_;
  Sum whole_;
  double score_;
  int feature_;
  Sum missing_;
  bool any_missing_;
  Split& best_;
};

// A threshold that parts two neighbours: half-way, unless rounding puts that on the lower one.
inline float between(float low, float high) {
  const float middle = static_cast<float>(0.5 * (static_cast<double>(low) + static_cast<double>(high)));
  return middle > low ? middle : high;
}

// Thresholds that part what a summary stands for into at most `bins` pieces of about equal weight. Where the summary
// shows that nothing lies between two of its values the threshold is half-way, else it is the upper one.
inline std::vector<float> proposals(const Summary& summary, std::size_t bins) {
  const Summary s = pruned(summary, bins);
  const double nothing = 1e-9 * total_weight(s);
  std::vector<float> cuts;
  for (std::size_t i = 1; i < s.size(); ++i) {
    const auto low = static_cast<float>(s[i - 1].value), high = static_cast<float>(s[i].value);
    cuts.push_back(s[i].before() - s[i - 1].after() <= nothing ? between(low, high) : high);
  }
  return cuts;
}

// Four times as fine as the bins: each of the few prunings then costs a small part of a bin.
inline SummaryLevels bin_sketch(std::size_t bins) { return SummaryLevels(4 * bins); }

// Candidates of a column over all rows, weighted by their second derivatives.
inline std::vector<float> propose_globally(const ColumnBlocks& columns, const Sum* gradient, std::size_t feature,
                                           std::size_t bins) {
  SummaryLevels sketch = bin_sketch(bins);
  std::vector<char> scratch;
  std::vector<Weighed> weighed;
  for (std::size_t block = 0; block < columns.blocks(); ++block) {
    const Run run = columns.run(block, feature, scratch);
    const Sum* here = gradient + columns.first_row(block);
    weighed.clear();
    for (std::size_t i = 0; i < run.size; ++i)
      if (const double h = here[run.rows[i]].h; h > 0.0) weighed.emplace_back(run.values[i], h);
    sketch.add_sorted(weighed.data(), weighed.size());
  }
  return proposals(sketch.all(), bins);
}

// Bins of every node are added up first, then scanned. `sums` is (bins, width): sums[bin * width + slot].
inline void scan_bins(const Penalty& penalty, const Level& level, std::size_t slot, int feature, const Sum* sums,
                      std::size_t stride, const std::vector<float>& cuts, std::uint32_t present, Split& best) {
  Sum there;
  for (std::size_t bin = 0; bin <= cuts.size(); ++bin) there += sums[bin * stride];
  Chooser choose(penalty, level, slot, feature, level.total[slot] - there, present < level.rows[slot], best);
  Sum below;
  for (std::size_t bin = 0; bin < cuts.size(); ++bin) {
    const Sum& s = sums[bin * stride];
    if (s.h == 0.0 && s.g == 0.0) continue;  // the same rows on each side as at the threshold before
    below += s;
    choose.consider(below, cuts[bin]);
  }
  choose.consider_presence();
}

inline void search_global(const ColumnBlocks& columns, const Sum* gradient, const Level& level, const Penalty& penalty,
                          std::size_t feature, const std::vector<float>& cuts, std::vector<Split>& best) {
  const std::size_t width = level.width, stride = width + 1;
  const bool complete = columns.complete(feature);
  // With few nodes one sum would be added to again and again, each time waiting for the last: take turns among four.
  constexpr std::size_t kTurns = 4;
  const bool few = width <= 4;
  std::vector<Sum> sums((cuts.size() + 1) * stride), turns(kTurns * stride);
  std::vector<std::uint32_t> present(stride);
  std::vector<char> scratch;
  for (std::size_t block = 0; block < columns.blocks(); ++block) {
    const Run run = columns.run(block, feature, scratch);
    const Sum* gradient_here = gradient + columns.first_row(block);
    const int* slot_here = level.slot.data() + columns.first_row(block);
    std::size_t i = 0;
    for (std::size_t bin = 0; bin <= cuts.size(); ++bin) {
      const std::size_t end =
          bin == cuts.size()
              ? run.size
              : static_cast<std::size_t>(std::lower_bound(run.values + i, run.values + run.size, cuts[bin]) - run.values);
      Sum* at = sums.data() + bin * stride;
      if (few && end - i > 16) {
        std::fill(turns.begin(), turns.end(), Sum{});
        for (; i + kTurns <= end; i += kTurns)
          for (std::size_t t = 0; t < kTurns; ++t) {
            const std::uint32_t r = run.rows[i + t];
            turns[t * stride + slot_here[r]] += gradient_here[r];
          }
        for (std::size_t t = 0; t < kTurns; ++t)
          for (std::size_t s = 0; s < stride; ++s) at[s] += turns[t * stride + s];
      }
      for (; i < end; ++i) {
        const std::uint32_t r = run.rows[i];
        at[slot_here[r]] += gradient_here[r];
      }
    }
    if (!complete)
      for (std::size_t j = 0; j < run.size; ++j) ++present[slot_here[run.rows[j]]];
  }
  for (std::size_t s = 0; s < width; ++s)
    scan_bins(penalty, level, s, static_cast<int>(feature), sums.data() + s, stride, cuts,
              complete ? level.rows[s] : present[s], best[s]);
}

inline void search_local(const ColumnBlocks& columns, const Sum* gradient, const Level& level, const Penalty& penalty,
                         std::size_t feature, std::size_t bins, std::vector<Split>& best) {
  const std::size_t width = level.width;
  std::vector<SummaryLevels> sketches(width, bin_sketch(bins));
  std::vector<std::vector<Weighed>> weighed(width + 1);
  std::vector<std::uint32_t> present(width + 1);
  std::vector<char> scratch;
  for (std::size_t block = 0; block < columns.blocks(); ++block) {
    const Run run = columns.run(block, feature, scratch);
    const std::size_t first = columns.first_row(block);
    for (auto& one : weighed) one.clear();
    for (std::size_t i = 0; i < run.size; ++i) {
      const std::size_t r = first + run.rows[i];
      ++present[level.slot[r]];
      if (const double h = gradient[r].h; h > 0.0) weighed[level.slot[r]].emplace_back(run.values[i], h);
    }
    for (std::size_t s = 0; s < width; ++s) sketches[s].add_sorted(weighed[s].data(), weighed[s].size());
  }
  std::vector<std::vector<float>> cuts(width + 1);
  std::vector<std::vector<Sum>> sums(width + 1, std::vector<Sum>(1));
  for (std::size_t s = 0; s < width; ++s) {
    cuts[s] = proposals(sketches[s].all(), bins);
    sums[s].resize(cuts[s].size() + 1);
  }
  std::vector<std::size_t> bin(width + 1);
  for (std::size_t block = 0; block < columns.blocks(); ++block) {
    const Run run = columns.run(block, feature, scratch);
    const std::size_t first = columns.first_row(block);
    std::fill(bin.begin(), bin.end(), 0);
    for (std::size_t i = 0; i < run.size; ++i) {
      const std::size_t r = first + run.rows[i];
      const int s = level.slot[r];
      while (bin[s] < cuts[s].size() && run.values[i] >= cuts[s][bin[s]]) ++bin[s];
      sums[s][bin[s]] += gradient[r];
    }
  }
  for (std::size_t s = 0; s < width; ++s)
    scan_bins(penalty, level, s, static_cast<int>(feature), sums[s].data(), 1, cuts[s], present[s], best[s]);
}

// Every boundary between two different values. All rows have to be one block.
inline void search_exact(const ColumnBlocks& columns, const Sum* gradient, const Level& level, const Penalty& penalty,
                         std::size_t feature, std::vector<Split>& best) {
  const std::size_t width = level.width;
  std::vector<char> scratch;
  const Run run = columns.run(0, feature, scratch);
  std::vector<Sum> there(level.total);
  std::vector<std::uint32_t> present(level.rows);
  there.resize(width + 1);
  present.resize(width + 1);
  if (!columns.complete(feature)) {
    std::fill(there.begin(), there.end(), Sum{});
    std::fill(present.begin(), present.end(), 0);
    for (std::size_t i = 0; i < run.size; ++i) {
      const int s = level.slot[run.rows[i]];
      there[s] += gradient[run.rows[i]];
      ++present[s];
    }
  }
  std::vector<Chooser> choosers;
  for (std::size_t s = 0; s < width; ++s)
    choosers.emplace_back(penalty, level, s, static_cast<int>(feature), level.total[s] - there[s],
                          present[s] < level.rows[s], best[s]);
  std::vector<Sum> below(width);
  std::vector<float> last(width, std::numeric_limits<float>::quiet_NaN());
  for (std::size_t i = 0; i < run.size; ++i) {
    const std::uint32_t r = run.rows[i];
    const auto s = static_cast<std::size_t>(level.slot[r]);
    if (s == width) continue;
    const float v = run.values[i];
    if (v > last[s]) choosers[s].consider(below[s], between(last[s], v));  // never at the first: nothing is above NaN
    below[s] += gradient[r];
    last[s] = v;
  }
  for (auto& choose : choosers) choose.consider_presence();
}

}  // namespace tercile
