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

struct Kernels {
  const char* name;

  // out[i] = index of the level nearest to x[i].
  void (*nearest)(const float* x, std::size_t n, const Levels& levels, std::uint8_t* out);

  // One tile of the GPTQ column loop, transposed: w is (columns, rows), contiguous in rows. For each column in turn:
  // round every row to scale * level + offset, and take the error, spread by the row of the upper Cholesky factor of
  // the inverse Hessian, off the columns still to come. scale and offset are (groups, rows); group_of says which
  // group a column is in. Leaves the scaled errors in `error` (columns, rows) and level indices in `index`.
  void (*solve_tile)(float* w, int columns, int rows, const float* factor, int factor_stride, const float* scale,
                     const float* offset, const int* group_of, const Levels& levels, float* error,
                     std::uint8_t* index);

  // error[c] = sum_i weight[i] * (x[i] - quantized(x[i]; scale[c], offset[c]))^2 for each candidate c.
  // weight may be null.
  void (*range_errors)(const float* x, const float* weight, std::size_t n, const float* scale, const float* offset,
                       int candidates, const Levels& levels, float* error);
};

extern const Kernels kernels_plain;
#if defined(__x86_64__) || defined(_M_X64)
extern const Kernels kernels_avx2;
extern const Kernels kernels_avx512;
#endif

}  // namespace tercile
