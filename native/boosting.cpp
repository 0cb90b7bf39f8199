// Regression trees on first and second derivatives (Chen and Guestrin 2016), grown level by level over column blocks.
#include <memory>

#include "bind.hpp"
#include "parallel.hpp"
#include "split_search.hpp"

namespace tercile {
namespace {

struct Tree {
  std::vector<int> feature, left, right;  // a leaf has feature -1
  std::vector<float> threshold;
  std::vector<std::uint8_t> missing_left;
  std::vector<double> value, gain, cover;

  int add(const Sum& sum, const Penalty& penalty, double rate) {
    feature.push_back(-1);
    left.push_back(-1);
    right.push_back(-1);
    threshold.push_back(0.0f);
    missing_left.push_back(0);
    value.push_back(sum.h + penalty.lambda > 0.0 ? -rate * sum.g / (sum.h + penalty.lambda) : 0.0);
    gain.push_back(0.0);
    cover.push_back(sum.h);
    return static_cast<int>(feature.size()) - 1;
  }
};

// Where the rows of split nodes go: those with a missing value first, then, column by column, those with one.
void route(const ColumnBlocks& columns, const Tree& tree, int first_child, const std::vector<int>& parent, int* position) {
  std::vector<std::uint8_t> used(columns.features());
  std::ptrdiff_t rows = static_cast<std::ptrdiff_t>(columns.rows());
  for (std::ptrdiff_t r = 0; r < rows; ++r) {
    const int node = position[r];
    if (tree.feature[node] < 0) continue;
    used[tree.feature[node]] = 1;
    position[r] = tree.missing_left[node] ? tree.left[node] : tree.right[node];
  }
  std::vector<char> scratch;
  for (std::size_t f = 0; f < columns.features(); ++f) {
    if (!used[f]) continue;
    for (std::size_t block = 0; block < columns.blocks(); ++block) {
      const Run run = columns.run(block, f, scratch);
      int* here = position + columns.first_row(block);
      for (std::size_t i = 0; i < run.size; ++i) {
        int& node = here[run.rows[i]];
        if (node < first_child) continue;
        const int from = parent[node];
        if (tree.feature[from] == static_cast<int>(f))
          node = run.values[i] < tree.threshold[from] ? tree.left[from] : tree.right[from];
      }
    }
  }
}

// `search(feature, level, best)` is one of the three of split_search.hpp. `position` gets the leaf of every row.
template <typename Search>
Tree grow(const ColumnBlocks& columns, const Sum* gradient, const Penalty& penalty, double rate, int depth, int* position,
          Search search) {
  const std::size_t rows = columns.rows();
  const nb::gil_scoped_release others_may_run;
  Tree tree;
  Sum all;
  for (std::size_t r = 0; r < rows; ++r) all += gradient[r];
  tree.add(all, penalty, rate);
  std::fill(position, position + rows, 0);
  std::vector<int> frontier{0}, parent{-1};
  Level level;
  level.slot.resize(rows);
  for (int d = 0; d < depth && !frontier.empty(); ++d) {
    level.width = frontier.size();
    std::vector<int> slot_of(tree.feature.size(), static_cast<int>(level.width));
    for (std::size_t s = 0; s < frontier.size(); ++s) slot_of[frontier[s]] = static_cast<int>(s);
    level.total.assign(level.width + 1, Sum{});
    level.rows.assign(level.width + 1, 0);
    for (std::size_t r = 0; r < rows; ++r) {
      const int s = level.slot[r] = slot_of[position[r]];
      level.total[s] += gradient[r];
      ++level.rows[s];
    }
    level.score.clear();
    for (const auto& total : level.total) level.score.push_back(penalty.score(total));

    std::vector<std::vector<Split>> found(columns.features(), std::vector<Split>(level.width));
    parallel(static_cast<std::ptrdiff_t>(columns.features()),
             [&](std::ptrdiff_t f) { search(static_cast<std::size_t>(f), level, found[f]); });

    std::vector<int> next;
    const int first_child = static_cast<int>(tree.feature.size());
    for (std::size_t s = 0; s < level.width; ++s) {
      Split split;
      for (const auto& of_column : found)  // in order, so that threads change nothing
        if (of_column[s].gain > split.gain + kRounding * of_column[s].after) split = of_column[s];
      if (split.feature < 0) continue;
      const int node = frontier[s];
      for (const Sum& part : {split.left, level.total[s] - split.left}) {
        next.push_back(tree.add(part, penalty, rate));
        parent.push_back(node);
      }
      tree.feature[node] = split.feature;
      tree.threshold[node] = split.threshold;
      tree.missing_left[node] = split.missing_left;
      tree.left[node] = next[next.size() - 2];
      tree.right[node] = next.back();
      tree.gain[node] = split.gain;
    }
    if (!next.empty()) route(columns, tree, first_child, parent, position);
    frontier = std::move(next);
  }
  return tree;
}

// The blocks, and the arrays that keep their memory alive.
struct Table {
  std::vector<Array<const std::uint8_t, 1>> kept;
  std::unique_ptr<ColumnBlocks> columns;
};

template <typename T>
std::vector<T> copied(const Array<const T, 1>& a) {
  return std::vector<T>(a.data(), a.data() + a.shape(0));
}

using Gradients = Array<const double, 2>;
using Positions = Array<int, 1>;

const Sum* checked(const Table& table, const Gradients& gradient, const Positions& position) {
  const std::size_t rows = table.columns->rows();
  if (gradient.shape(0) != rows || gradient.shape(1) != 2 || position.shape(0) != rows)
    throw std::invalid_argument("gradient must be (rows, 2) and position (rows,)");
  static_assert(sizeof(Sum) == 2 * sizeof(double));
  return reinterpret_cast<const Sum*>(gradient.data());
}

nb::tuple arrays(const Tree& t) {
  return nb::make_tuple(t.feature, t.threshold, t.left, t.right, t.missing_left, t.value, t.gain, t.cover);
}

// All trees one after another; `root[t]` is where tree t starts and its children are counted from there.
void predict(const float* x, std::size_t rows, std::size_t features, const int* feature, const float* threshold,
             const int* left, const int* right, const std::uint8_t* missing_left, const double* value,
             const std::int64_t* root, std::size_t trees, double* out) {
  constexpr std::size_t kRows = 1024;
  parallel(static_cast<std::ptrdiff_t>((rows + kRows - 1) / kRows), [&](std::ptrdiff_t piece) {
    const std::size_t from = static_cast<std::size_t>(piece) * kRows, to = std::min(rows, from + kRows);
    for (std::size_t t = 0; t < trees; ++t) {
      const std::int64_t start = root[t];
      for (std::size_t r = from; r < to; ++r) {
        std::int64_t node = start;
        while (feature[node] >= 0) {
          const float v = x[r * features + static_cast<std::size_t>(feature[node])];
          const bool go_left = v == v ? v < threshold[node] : missing_left[node] != 0;
          node = start + (go_left ? left[node] : right[node]);
        }
        out[r] += value[node];
      }
    }
  });
}

}  // namespace

void bind_boosting(nb::module_& module) {
  using namespace nb::literals;
  module.def(
      "sorted_columns",
      [](Array<const float, 2> x) {
        std::vector<std::uint32_t> counts;
        auto* data = new std::vector<char>(sorted_columns(x.data(), x.shape(0), x.shape(1), counts));
        nb::capsule owner(data, [](void* p) noexcept { delete static_cast<std::vector<char>*>(p); });
        nb::ndarray<nb::numpy, std::uint8_t, nb::ndim<1>> bytes(data->data(), {data->size()}, owner);
        return nb::make_tuple(bytes, counts);
      },
      "x"_a, "The columns of a block of rows, each sorted: bytes of all runs, and how long each is.");

  nb::class_<Table>(module, "ColumnBlocks")
      .def(
          "__init__",
          [](Table* self, std::size_t features, Array<const std::uint32_t, 1> heights, Array<const std::uint32_t, 1> counts,
             Array<const std::uint64_t, 1> offsets, std::vector<Array<const std::uint8_t, 1>> memory, int file) {
            std::vector<const char*> starts;
            for (const auto& block : memory) starts.push_back(reinterpret_cast<const char*>(block.data()));
            if (file < 0 && starts.size() != heights.shape(0)) throw std::invalid_argument("one array for each block");
            auto columns = std::make_unique<ColumnBlocks>(features, copied(heights), copied(counts), copied(offsets),
                                                          std::move(starts), file);
            new (self) Table{std::move(memory), std::move(columns)};
          },
          "features"_a, "heights"_a, "counts"_a, "offsets"_a, "memory"_a, "file"_a)
      .def(
          "propose",
          [](const Table& table, Gradients gradient, Positions position, std::size_t bins) {
            const Sum* sums = checked(table, gradient, position);
            std::vector<std::vector<float>> cuts(table.columns->features());
            const nb::gil_scoped_release others_may_run;
            parallel(static_cast<std::ptrdiff_t>(cuts.size()), [&](std::ptrdiff_t f) {
              cuts[f] = propose_globally(*table.columns, sums, static_cast<std::size_t>(f), bins);
            });
            return cuts;
          },
          "gradient"_a, "position"_a, "bins"_a)
      .def(
          "grow_global",
          [](const Table& table, Gradients gradient, Positions position, double lambda, double least_gain,
             double least_weight, double rate, int depth, const std::vector<std::vector<float>>& cuts) {
            const Sum* sums = checked(table, gradient, position);
            if (cuts.size() != table.columns->features()) throw std::invalid_argument("cuts must be one list a feature");
            const Penalty penalty{lambda, least_gain, least_weight};
            return arrays(grow(*table.columns, sums, penalty, rate, depth, position.data(),
                               [&](std::size_t f, const Level& level, std::vector<Split>& best) {
                                 search_global(*table.columns, sums, level, penalty, f, cuts[f], best);
                               }));
          },
          "gradient"_a, "position"_a, "reg_lambda"_a, "least_gain"_a, "least_weight"_a, "rate"_a, "depth"_a, "cuts"_a)
      .def(
          "grow_local",
          [](const Table& table, Gradients gradient, Positions position, double lambda, double least_gain,
             double least_weight, double rate, int depth, std::size_t bins) {
            const Sum* sums = checked(table, gradient, position);
            const Penalty penalty{lambda, least_gain, least_weight};
            return arrays(grow(*table.columns, sums, penalty, rate, depth, position.data(),
                               [&](std::size_t f, const Level& level, std::vector<Split>& best) {
                                 search_local(*table.columns, sums, level, penalty, f, bins, best);
                               }));
          },
          "gradient"_a, "position"_a, "reg_lambda"_a, "least_gain"_a, "least_weight"_a, "rate"_a, "depth"_a, "bins"_a)
      .def(
          "grow_exact",
          [](const Table& table, Gradients gradient, Positions position, double lambda, double least_gain,
             double least_weight, double rate, int depth) {
            const Sum* sums = checked(table, gradient, position);
            if (table.columns->blocks() != 1) throw std::invalid_argument("exact search needs all rows in one block");
            const Penalty penalty{lambda, least_gain, least_weight};
            return arrays(grow(*table.columns, sums, penalty, rate, depth, position.data(),
                               [&](std::size_t f, const Level& level, std::vector<Split>& best) {
                                 search_exact(*table.columns, sums, level, penalty, f, best);
                               }));
          },
          "gradient"_a, "position"_a, "reg_lambda"_a, "least_gain"_a, "least_weight"_a, "rate"_a, "depth"_a);

  module.def(
      "predict_trees",
      [](Array<const float, 2> x, Array<const int, 1> feature, Array<const float, 1> threshold, Array<const int, 1> left,
         Array<const int, 1> right, Array<const std::uint8_t, 1> missing_left, Array<const double, 1> value,
         Array<const std::int64_t, 1> root, Array<double, 1> out) {
        const std::size_t nodes = feature.shape(0);
        if (threshold.shape(0) != nodes || left.shape(0) != nodes || right.shape(0) != nodes ||
            missing_left.shape(0) != nodes || value.shape(0) != nodes || out.shape(0) != x.shape(0))
          throw std::invalid_argument("the arrays of the trees must be of one length, and out of the length of x");
        const nb::gil_scoped_release others_may_run;
        predict(x.data(), x.shape(0), x.shape(1), feature.data(), threshold.data(), left.data(), right.data(),
                missing_left.data(), value.data(), root.data(), root.shape(0), out.data());
      },
      "x"_a, "feature"_a, "threshold"_a, "left"_a, "right"_a, "missing_left"_a, "value"_a, "root"_a, "out"_a,
      "Adds what all trees say of each row to out.");
}

}  // namespace tercile
