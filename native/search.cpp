// Vector search: scans of rows that pass a filter, scans of lists of rows, and the choice of lists.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <vector>

#include "bind.hpp"
#include "cpu.hpp"
#include "parallel.hpp"
#include "search_heaps.hpp"
#include "sketches/arrays.hpp"

namespace tercile {
namespace {

// Rows whose distances from a group of queries are computed at once. A table of product codes is larger than a row by
// so much that it has to meet many before the next query's takes its place in the cache.
constexpr std::size_t kBlock = 64, kTableBlock = 1024;

using Bytes = Array<const std::uint8_t, 2>;
using Floats = Array<const float, 1>;
using Queries = Array<const float, 2>;
using Distances = Array<float, 2>;
using Places = Array<std::int64_t, 2>;

StoredRows stored(const Bytes& data, const Queries& queries, int kind, bool squared, const Floats& scale,
                  const Floats& offset) {
  if (kind < 0 || kind > 3) throw std::invalid_argument("kind must be 0 to 3");
  const std::size_t width[] = {4, 2, 1, 1};
  const std::size_t dimension = data.shape(1) / width[kind];
  const std::size_t padded = (dimension + 15) / 16 * 16;
  if (queries.shape(1) < (kind == StoredRows::table ? 256 * dimension : padded))
    throw std::invalid_argument("queries must be padded to a multiple of 16, or be tables of 256 numbers a byte");
  if (kind == StoredRows::int8 && (scale.size() < padded || offset.size() < padded))
    throw std::invalid_argument("scale and offset must be padded to a multiple of 16");
  return {data.data(), dimension, StoredRows::Kind(kind), squared, scale.data(), offset.data()};
}

std::vector<Heap> heaps(const Queries& queries, const Distances& best, const Places& place) {
  if (best.shape(0) != queries.shape(0) || place.shape(0) != best.shape(0) || place.shape(1) != best.shape(1) ||
      best.shape(1) < 1)
    throw std::invalid_argument("best and place need a row for each query");
  std::vector<Heap> made;
  for (std::size_t q = 0; q < best.shape(0); ++q)
    made.push_back({best.data() + q * best.shape(1), place.data() + q * best.shape(1), best.shape(1)});
  return made;
}

// Meets `count` rows with `queries` padded queries; heap[q] is that of query q.
template <typename HeapOf>
void meet(const StoredRows& rows, const float* query, std::size_t queries, std::size_t stride,
          const std::uint32_t* which, std::size_t count, std::int64_t base, std::vector<float>& out, HeapOf heap_of) {
  const Kernels& k = kernels();
  const std::size_t block = rows.kind == StoredRows::table ? kTableBlock : kBlock;
  out.resize(queries * block);
  const std::size_t row_bytes = rows.dimension * (rows.kind == StoredRows::float32 ? 4 : rows.kind == StoredRows::float16 ? 2 : 1);
  for (std::size_t from = 0; from < count; from += block) {
    const std::size_t here = std::min(block, count - from);
    for (std::size_t next = from + here; next < std::min(from + here + block, count); ++next) {
      const char* row = static_cast<const char*>(rows.data) + which[next] * row_bytes;
      for (std::size_t byte = 0; byte < row_bytes; byte += 64) __builtin_prefetch(row + byte, 0, 2);
    }
    k.row_distances(query, queries, stride, rows, which + from, here, out.data(), block);
    for (std::size_t q = 0; q < queries; ++q) {
      const float* distance = out.data() + q * block;
      Heap& heap = heap_of(q);
      float farthest = heap.farthest();
      for (std::size_t r = 0; r < here; ++r) {
        if (distance[r] < farthest) {
          heap.replace(distance[r], base + which[from + r]);
          farthest = heap.farthest();
        }
      }
    }
  }
}

template <typename Body>
void share_queries(std::size_t queries, Body body) {
  const std::size_t shares = std::min<std::size_t>(std::size_t(threads()), queries);
  if (!shares) return;
  parallel(std::ptrdiff_t(shares), [&](std::ptrdiff_t share) {
    body(queries * std::size_t(share) / shares, queries * std::size_t(share + 1) / shares);
  });
}

void search_rows(Queries queries, Bytes data, int kind, bool squared, Floats scale, Floats offset,
                 Array<const std::uint32_t, 1> which, std::int64_t base, Distances best, Places place) {
  const StoredRows rows = stored(data, queries, kind, squared, scale, offset);
  std::vector<Heap> all = heaps(queries, best, place);
  for (std::size_t i = 0; i < which.size(); ++i)
    if (which.data()[i] >= data.shape(0)) throw std::invalid_argument("a row is out of range");
  share_queries(all.size(), [&](std::size_t first, std::size_t last) {
    std::vector<float> out;
    meet(rows, queries.data() + first * queries.shape(1), last - first, queries.shape(1), which.data(), which.size(), base,
         out, [&](std::size_t q) -> Heap& { return all[first + q]; });
  });
}

std::int64_t search_lists(Queries queries, Bytes data, int kind, bool squared, Floats scale, Floats offset,
                          Array<const std::int64_t, 1> begins, Array<const std::uint8_t, 1> mask,
                          Array<const std::int64_t, 1> starts, Array<const std::int32_t, 1> lists, Distances best,
                          Places place) {
  const StoredRows rows = stored(data, queries, kind, squared, scale, offset);
  std::vector<Heap> all = heaps(queries, best, place);
  const std::size_t count = begins.size() - 1;
  if (!begins.size() || std::size_t(begins.data()[count]) > data.shape(0) || (mask.size() && mask.size() < data.shape(0)))
    throw std::invalid_argument("lists or mask do not fit the rows");
  if (starts.size() != all.size() + 1 || std::size_t(starts.data()[all.size()]) != lists.size())
    throw std::invalid_argument("starts must have a number for each query and one more");
  for (std::size_t i = 0; i < lists.size(); ++i)
    if (lists.data()[i] < 0 || std::size_t(lists.data()[i]) >= count) throw std::invalid_argument("no such list");
  std::atomic<std::int64_t> met{0};
  share_queries(all.size(), [&](std::size_t first, std::size_t last) {
    // Queries by list, so that each list is read once.
    std::vector<std::size_t> at(count + 2, 0);
    const auto *from = lists.data() + starts.data()[first], *to = lists.data() + starts.data()[last];
    for (const auto* list = from; list != to; ++list) ++at[std::size_t(*list) + 2];
    std::partial_sum(at.begin(), at.end(), at.begin());
    std::vector<std::uint32_t> of_list(std::size_t(to - from));
    for (std::size_t q = first; q < last; ++q)
      for (std::int64_t i = starts.data()[q]; i < starts.data()[q + 1]; ++i)
        of_list[at[std::size_t(lists.data()[i]) + 1]++] = std::uint32_t(q);
    std::vector<float> out, near;
    std::vector<std::uint32_t> passing;
    const std::size_t stride = queries.shape(1);
    for (std::size_t list = 0; list < count; ++list) {
      const std::size_t asked = at[list + 1] - at[list];
      if (!asked) continue;
      const std::size_t begin = std::size_t(begins.data()[list]), end = std::size_t(begins.data()[list + 1]);
      passing.resize(end - begin);
      std::size_t passed = 0;
      if (mask.size()) {
        for (std::size_t row = begin; row < end; ++row) {
          passing[passed] = std::uint32_t(row);
          passed += mask.data()[row] != 0;
        }
      } else {
        std::iota(passing.begin(), passing.end(), std::uint32_t(begin));
        passed = end - begin;
      }
      if (!passed) continue;
      met += std::int64_t(asked * passed);
      if (rows.kind == StoredRows::table) {  // a table is too large to be copied, and queries share nothing
        for (std::size_t i = 0; i < asked; ++i) {
          const std::size_t q = of_list[at[list] + i];
          meet(rows, queries.data() + q * stride, 1, stride, passing.data(), passed, 0, out,
               [&](std::size_t) -> Heap& { return all[q]; });
        }
        continue;
      }
      near.resize(asked * stride);
      for (std::size_t i = 0; i < asked; ++i)
        std::copy_n(queries.data() + of_list[at[list] + i] * stride, stride, near.data() + i * stride);
      meet(rows, near.data(), asked, stride, passing.data(), passed, 0, out,
           [&](std::size_t q) -> Heap& { return all[of_list[at[list] + q]]; });
    }
  });
  return met;
}

// Bounds of every list for every query; products are those of queries and centres, shape (queries, at least lists).
void search_bounds(Queries products, Floats query_norms, Floats center_norms, Floats spread, Floats variance,
                   Floats lateral, float z, bool squared, Distances out) {
  const std::size_t lists = center_norms.size();
  if (products.shape(1) < lists || out.shape(1) != lists || out.shape(0) != products.shape(0) ||
      query_norms.size() != out.shape(0) || spread.size() != lists || variance.size() != lists || lateral.size() != lists)
    throw std::invalid_argument("shapes of products, centres and out do not fit each other");
  for (std::size_t q = 0; q < out.shape(0); ++q)
    kernels().list_bounds(products.data() + q * products.shape(1), lists, query_norms.data()[q], center_norms.data(),
                          spread.data(), variance.data(), lateral.data(), z, squared, out.data() + q * lists);
}

using Chosen = std::pair<std::vector<std::int64_t>, std::vector<std::int32_t>>;  // where each query's lists start; lists

// For each query the lists that may hold something nearer than its farthest so far, those of least `order` first, until
// `wanted` rows pass in them. Their bounds become infinite: a list is chosen once.
Chosen search_choose(Distances bounds, Queries order, Array<const std::int64_t, 1> passing, Queries best,
                     std::int64_t wanted) {
  constexpr std::size_t run = 32;
  constexpr float never = std::numeric_limits<float>::infinity();
  const std::size_t lists = bounds.shape(1), runs = (lists + run - 1) / run;
  if (passing.size() != lists || best.shape(0) != bounds.shape(0) || order.shape(0) != bounds.shape(0) ||
      order.shape(1) != lists)
    throw std::invalid_argument("passing needs a number for each list, order and best a row for each query");
  Chosen chosen{{0}, {}};
  std::vector<float> empty(lists), key(runs * run, never), least(runs);
  for (std::size_t c = 0; c < lists; ++c) empty[c] = passing.data()[c] > 0 ? 0 : never;
  const auto least_of = [&](std::size_t r) {
    float found = never;
    for (std::size_t i = r * run; i < (r + 1) * run; ++i) found = key[i] < found ? key[i] : found;
    return found;
  };
  for (std::size_t q = 0; q < bounds.shape(0); ++q) {
    float* bound = bounds.data() + q * lists;
    const float* place = order.data() + q * lists;
    const float farthest = best.data()[q * best.shape(1)];
    for (std::size_t c = 0; c < lists; ++c) key[c] = bound[c] < farthest ? place[c] + empty[c] : never;
    for (std::size_t r = 0; r < runs; ++r) least[r] = least_of(r);
    for (std::int64_t found = 0; found < wanted;) {
      const std::size_t r = std::size_t(std::min_element(least.begin(), least.end()) - least.begin());
      if (least[r] == never) break;
      std::size_t list = r * run;
      while (key[list] != least[r]) ++list;
      chosen.second.push_back(std::int32_t(list));
      found += passing.data()[list];
      key[list] = bound[list] = never;
      least[r] = least_of(r);
    }
    chosen.first.push_back(std::int64_t(chosen.second.size()));
  }
  return chosen;
}

// Distances in double precision of the rows found, infinite where place is -1.
void search_exact(Queries queries, Bytes data, int kind, bool squared, Floats scale, Floats offset, std::int64_t base,
                  Array<const std::int64_t, 2> place, Array<double, 2> out) {
  const StoredRows rows = stored(data, queries, kind, squared, scale, offset);
  if (place.shape(0) != queries.shape(0) || out.shape(0) != place.shape(0) || out.shape(1) != place.shape(1))
    throw std::invalid_argument("place and out need a row for each query");
  std::vector<float> one(4);
  for (std::size_t q = 0; q < place.shape(0); ++q) {
    const float* query = queries.data() + q * queries.shape(1);
    for (std::size_t i = 0; i < place.shape(1); ++i) {
      const std::int64_t row = place.data()[q * place.shape(1) + i] - base;
      if (row < 0 || row >= std::int64_t(data.shape(0))) continue;
      double sum = 0;
      if (kind == StoredRows::float32) {
        const float* x = static_cast<const float*>(rows.data) + std::size_t(row) * rows.dimension;
        double part[4] = {};  // sums that do not wait for each other
        for (std::size_t d = 0; d < rows.dimension; ++d) {
          const double difference = double(x[d]) - query[d];
          part[d % 4] += squared ? difference * difference : -double(x[d]) * query[d];
        }
        sum = (part[0] + part[1]) + (part[2] + part[3]);
      } else {  // stored in fewer bits: nothing to be had beyond what the kernel sees
        const std::uint32_t which = std::uint32_t(row);
        kernels_plain.row_distances(query, 1, queries.shape(1), rows, &which, 1, one.data(), 4);
        sum = one[0];
      }
      out.data()[q * place.shape(1) + i] = sum;
    }
  }
}

void search_distances(Queries queries, Bytes data, int kind, bool squared, Floats scale, Floats offset,
                      const std::string& kernel_set, Distances out) {
  const StoredRows rows = stored(data, queries, kind, squared, scale, offset);
  if (out.shape(0) != queries.shape(0) || out.shape(1) < (data.shape(0) + 3) / 4 * 4)
    throw std::invalid_argument("out needs a row for each query, of a multiple of four");
  std::vector<std::uint32_t> which(data.shape(0));
  std::iota(which.begin(), which.end(), 0U);
  for (const Kernels* set : available_kernels())
    if (kernel_set == set->name)
      return set->row_distances(queries.data(), queries.shape(0), queries.shape(1), rows, which.data(), which.size(),
                                out.data(), out.shape(1));
  throw std::invalid_argument("this processor has no kernels named " + kernel_set);
}

void search_products(Queries x, Array<const float, 3> packed, Distances out) {
  if (packed.shape(1) != x.shape(1) || packed.shape(2) != 16 || out.shape(0) != x.shape(0) ||
      out.shape(1) != 16 * packed.shape(0))
    throw std::invalid_argument("shapes of x, packed and out do not fit each other");
  kernels().packed_products(x.data(), x.shape(0), x.shape(1), packed.data(), packed.shape(0), out.data());
}

// label[i] = the nearest centre of x[i]; packed as for search_products, half_norms half their squared norms, infinite
// for lanes that are empty.
void search_nearest(Queries x, Array<const float, 3> packed, Floats half_norms, Array<std::int32_t, 1> label) {
  const std::size_t lanes = 16 * packed.shape(0), dimension = x.shape(1);
  if (packed.shape(1) != dimension || packed.shape(2) != 16 || half_norms.size() != lanes || label.size() != x.shape(0))
    throw std::invalid_argument("shapes of x, packed, half_norms and label do not fit each other");
  constexpr std::size_t rows = 64;
  parallel(std::ptrdiff_t((x.shape(0) + rows - 1) / rows), [&](std::ptrdiff_t piece) {
    const std::size_t first = std::size_t(piece) * rows, here = std::min(rows, x.shape(0) - first);
    std::vector<float> products(here * lanes);
    kernels().packed_products(x.data() + first * dimension, here, dimension, packed.data(), packed.shape(0), products.data());
    for (std::size_t r = 0; r < here; ++r) {
      const float* product = products.data() + r * lanes;
      // Sixteen minima side by side, each with the block where it was met.
      float least[16];
      std::int32_t block_of[16];
      std::fill_n(least, 16, std::numeric_limits<float>::infinity());
      std::fill_n(block_of, 16, 0);
      for (std::size_t block = 0; block < packed.shape(0); ++block) {
        for (std::size_t lane = 0; lane < 16; ++lane) {
          const float score = half_norms.data()[16 * block + lane] - product[16 * block + lane];
          block_of[lane] = score < least[lane] ? std::int32_t(block) : block_of[lane];
          least[lane] = score < least[lane] ? score : least[lane];
        }
      }
      std::size_t best = 0;
      for (std::size_t lane = 1; lane < 16; ++lane) {
        const bool tie = least[lane] == least[best] && block_of[lane] < block_of[best];
        if (least[lane] < least[best] || tie) best = lane;
      }
      label.data()[first + r] = block_of[best] * 16 + std::int32_t(best);
    }
  });
}

void search_sums(Queries x, Array<const std::int32_t, 1> label, Array<double, 2> sum, Array<std::int64_t, 1> count) {
  if (label.size() != x.shape(0) || sum.shape(1) != x.shape(1) || count.size() != sum.shape(0))
    throw std::invalid_argument("shapes of x, label, sum and count do not fit each other");
  for (std::size_t i = 0; i < x.shape(0); ++i) {
    const std::int32_t list = label.data()[i];
    if (list < 0 || std::size_t(list) >= sum.shape(0)) throw std::invalid_argument("no such list");
    double* to = sum.data() + std::size_t(list) * x.shape(1);
    const float* from = x.data() + i * x.shape(1);
    for (std::size_t d = 0; d < x.shape(1); ++d) to[d] += from[d];
    ++count.data()[list];
  }
}

}  // namespace

void bind_search(nb::module_& module) {
  using namespace nb::literals;
  const auto free = nb::call_guard<nb::gil_scoped_release>();
  module.def("search_rows", &search_rows, "queries"_a, "data"_a, "kind"_a, "squared"_a, "scale"_a, "offset"_a, "which"_a,
             "base"_a, "best"_a.noconvert(), "place"_a.noconvert(), free);
  module.def("search_lists", &search_lists, "queries"_a, "data"_a, "kind"_a, "squared"_a, "scale"_a, "offset"_a,
             "begins"_a, "mask"_a, "starts"_a, "lists"_a, "best"_a.noconvert(), "place"_a.noconvert(), free);
  module.def("search_bounds", &search_bounds, "products"_a, "query_norms"_a, "center_norms"_a, "spread"_a, "variance"_a,
             "lateral"_a, "z"_a, "squared"_a, "out"_a.noconvert(), free);
  const auto arrays = [](const Chosen& chosen) { return std::make_pair(owned(chosen.first), owned(chosen.second)); };
  module.def(
      "search_choose",
      [](Distances bounds, Queries order, Array<const std::int64_t, 1> passing, Queries best, std::int64_t wanted) {
        const Chosen chosen = search_choose(bounds, order, passing, best, wanted);
        return std::make_pair(owned(chosen.first), owned(chosen.second));
      },
      "bounds"_a.noconvert(), "order"_a, "passing"_a, "best"_a, "wanted"_a);
  module.def("search_exact", &search_exact, "queries"_a, "data"_a, "kind"_a, "squared"_a, "scale"_a, "offset"_a,
             "base"_a, "place"_a, "out"_a.noconvert(), free);
  module.def("search_distances", &search_distances, "queries"_a, "data"_a, "kind"_a, "squared"_a, "scale"_a, "offset"_a,
             "kernel_set"_a, "out"_a.noconvert(), "Distances of every row by one set of kernels, for tests.");
  module.def("search_products", &search_products, "x"_a, "packed"_a, "out"_a.noconvert(), free);
  module.def("search_nearest", &search_nearest, "x"_a, "packed"_a, "half_norms"_a, "label"_a.noconvert(), free);
  module.def("search_sums", &search_sums, "x"_a, "label"_a, "sum"_a.noconvert(), "count"_a.noconvert(), free);
}

}  // namespace tercile
