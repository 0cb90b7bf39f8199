// The table of kernels: what each instruction set provides, and nothing else.
//
// Rule for everything under native/kernels/: raw pointers and scalars only. A standard-library template used there
// would be compiled once for each instruction set, and the linker may keep the AVX-512 copy for everybody.
#pragma once
#include <cstddef>
#include <cstdint>

namespace tercile {

// A scalar grid as kernels see it: `count` sorted levels and the `count - 1` midpoints between them. When `uniform`,
// level i is first + i * step, and rounding is arithmetic instead of a search.
struct Levels {
  const float* levels;
  const float* midpoints;
  int count;
  bool uniform;
  float first;
  float step;
};

// Rows of a tile of the column loop: what a core keeps in its own cache beside a row of the factor.
constexpr int kTileRows = 64;

// Vectors as an index keeps them: `dimension` values a row, one row after another.
struct StoredRows {
  enum Kind { float32, float16, int8, table };
  const void* data;
  std::size_t dimension;  // for product codes: bytes a row
  Kind kind;
  bool squared;         // squared differences, else products with their sign changed
  const float* scale;   // of int8, one a dimension, padded with zeros to a multiple of 16: value = offset + scale * code
  const float* offset;
};

struct Kernels {
  const char* name;

  // out[i] = index of the level nearest to x[i].
  void (*nearest)(const float* x, std::size_t n, const Levels& levels, std::uint8_t* out);

  // One tile of kTileRows rows, transposed: w, error and index are (columns, kTileRows), scale and offset (groups,
  // kTileRows). factor is the upper Cholesky factor M of the Hessian, H = M'M, row-major; below its diagonal anything
  // may stand. Columns are taken from the last to the first: column p is rounded at
  //     w[p] + sum over q > p of error[q] * M[p][q] / M[p][p],    error[q] = w[q] - rounded w[q],
  // which makes row p of M as small as it can be made. group_of says which group a column is in.
  void (*solve_tile)(const float* w, int columns, const float* factor, const float* scale, const float* offset,
                     const int* group_of, const Levels& levels, float* error, std::uint8_t* index);

  // One sweep of coordinate descent over a tile laid out as for solve_tile, with hessian H (columns, columns) itself and
  // its diagonal above 0. From the last column to the first, column p is rounded anew at
  //     rounded w[p] + sum over q of error[q] * H[p][q] / H[p][p],
  // the best place while the others stay. Updates error and index. If not `round`, the weight goes to that place itself:
  // error then holds w - place, and index stays.
  void (*descend_tile)(const float* w, int columns, const float* hessian, const float* scale, const float* offset,
                       const int* group_of, const Levels& levels, bool round, float* error, std::uint8_t* index);

  // error[c] = sum_i weight[i] * (x[i] - quantized(x[i]; scale[c], offset[c]))^2 / max_i x[i]^2 for each candidate c.
  // weight may be null.
  void (*range_errors)(const float* x, const float* weight, std::size_t n, const float* scale, const float* offset,
                       int candidates, const Levels& levels, float* error);

  // One step of the search of a trellis with 2^memory states, `bits` (1 to 5, at most memory - 4) of new code:
  //     after[s] = min over the states that lead to s of before - drop + weight * (values[s] - target)^2.
  // from[g] says which led to the 2^bits neighbours s = (g << bits) + ...: state (from[g] << (memory - bits)) + g, the
  // first of equals.
  void (*trellis_step)(int memory, int bits, const float* before, const float* values, float target, float weight,
                       float drop, float* after, std::uint8_t* from);

  // out[i][j] = sum over c of x[i][c] * w[j][c], m rows against n, both of k columns. Fastest if k is a multiple of 32.
  void (*integer_products)(const std::int16_t* x, const std::int16_t* w, std::size_t m, std::size_t n, std::size_t k,
                           std::int32_t* out);

  // out[i][j] = zero + ((sums[i][j] + bias[j]) * multiplier[j] / 2^shift[j], halves up), held between low and high.
  void (*requantize)(const std::int32_t* sums, std::size_t m, std::size_t n, const std::int32_t* bias,
                     const std::int32_t* multiplier, const std::int32_t* shift, std::int32_t zero, std::int32_t low,
                     std::int32_t high, std::uint8_t* out);

  // out[i] = zero + (((a[i] - a_zero) * a_multiplier + (b[i] - b_zero) * b_multiplier) / 2^shift, halves up), held
  // between low and high.
  void (*integer_sum)(const std::uint8_t* a, const std::uint8_t* b, std::size_t n, std::int32_t a_zero,
                      std::int32_t b_zero, std::int32_t a_multiplier, std::int32_t b_multiplier, std::int32_t shift,
                      std::int32_t zero, std::int32_t low, std::int32_t high, std::uint8_t* out);

  // out[q][i] = distance of query q, padded with zeros to a multiple of 16, from row which[i]; out rows hold a multiple
  // of 4. For product codes a query is its table of 256 numbers a byte, and the distance their sum.
  void (*row_distances)(const float* query, std::size_t queries, std::size_t stride, const StoredRows& rows,
                        const std::uint32_t* which, std::size_t count, float* out, std::size_t out_stride);

  // How near lists may come to a query: mean distance of their rows less z standard deviations, as if the rows lay
  // around the centre in all directions alike. product is that of query and centre; norms are squared lengths.
  void (*list_bounds)(const float* product, std::size_t lists, float query_norm, const float* center_norm,
                      const float* spread, const float* variance, const float* lateral, float z, bool squared,
                      float* out);

  // out[r][16 * block + lane] = product of x[r] with one of the vectors packed as [block][dimension][16].
  void (*packed_products)(const float* x, std::size_t rows, std::size_t dimension, const float* packed,
                          std::size_t blocks, float* out);

  // A row of pieces * n numbers times a Hadamard matrix, in place: a transform of each piece of n = 2^a neighbours times
  // unit, then y[c] = sum over d of across[c][d] * x[d] over the pieces; with `back` the inverse in the inverse order.
  // space: as many numbers as the row has.
  void (*hadamard_row)(float* x, std::size_t pieces, std::size_t n, float unit, const float* across, bool back,
                       float* space);
};

extern const Kernels kernels_plain;
#if defined(__x86_64__) || defined(_M_X64)
extern const Kernels kernels_avx2;
extern const Kernels kernels_avx512;
#endif

}  // namespace tercile
