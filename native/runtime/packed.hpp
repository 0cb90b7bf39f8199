// What kernels know of a stored matrix and of what it is multiplied with, and the table of kernels that multiply.
//
// The rule of kernels.hpp holds here too: raw pointers and scalars, no standard-library template under native/kernels/.
#pragma once
#include <cstddef>
#include <cstdint>

namespace tercile {

// Codes are handled in runs of 64: eight whole bytes for each bit of width, wherever a row starts.
constexpr std::size_t kRun = 64;

inline std::size_t runs_of(std::size_t columns) { return (columns + kRun - 1) / kRun; }

// A matrix of codes of one width, row by row; block (r / tall, c / wide) has a scale, and an offset if there are any:
//     value = scale * table[code] + offset.
struct PackedRows {
  const std::uint8_t* words;
  std::size_t row_bytes;
  std::size_t rows, columns;
  int bits;
  const float* table;         // 256 values
  const std::uint8_t* whole;  // table[code] is close to unit * (whole[code] - base); null where the code itself is whole
  int base;
  float unit;
  bool linear;                // table[code] = code - base
  const float* scale;         // one of the two, (block rows, across)
  const std::uint16_t* half_scale;
  const float* offset;        // or null
  std::size_t tall, wide, across;
  // Products of few rows read runs of 64 * planes codes. Where planes > 1 a run is 64 bytes, and codes c, c + planes,
  // c + 2 planes and so on, for each c below planes, are multiplied together.
  int planes;
  // Where blocks are no multiple of a run: which block each 16th of a run is in, counted from the block in which the run
  // starts; (runs, 16). Else null.
  const std::int32_t* lane_block;
};

// Rows of activations for products with codes as they are stored.
struct FloatRows {
  const float* x;      // (m, step), zeros behind the columns, as `arrange` orders them
  std::size_t m, step;
  const float* sums;   // (m, across): sum over each block's columns; null without offsets
};

// Rows of activations rounded to eight bits.
struct WholeRows {
  const std::int8_t* x;       // (m, step), zeros behind the columns, as `arrange_bytes` orders them
  std::size_t m, step;
  const float* scale;         // (m,)
  const std::int32_t* start;  // (m, parts, 16): -base * sum of each lane of x, over the runs of a part
  std::size_t parts;          // blocks where they are of whole runs, else runs
  const float* sums;          // as above, times the scale
};

// Columns of a panel of bytes that share a block, and what is multiplied with them.
struct PanelParts {
  std::size_t count;
  const std::uint32_t* columns;  // multiples of 4
  const std::int32_t* start;     // (m, start_step): -base * sum of x
  std::size_t start_step;
  const float* scale;            // (count, panel_rows)
};

struct PackedKernels {
  const char* name;
  bool by_plane;  // whether products read codes of 1, 2 and 4 bits plane by plane

  // Codes of a row from `first`, a multiple of 64, on: writes `count` of them and up to 63 more.
  void (*codes)(const PackedRows& w, std::size_t row, std::size_t first, std::size_t count, std::uint8_t* out);

  // out[i] = table[codes[i]].
  void (*values)(const PackedRows& w, const std::uint8_t* codes, std::size_t count, float* out);

  // Scales of `count` blocks of a row times a factor.
  void (*scales)(const PackedRows& w, std::size_t row, std::size_t first, std::size_t count, float factor, float* out);

  // A row of floats, or of bytes that are zeros up to a whole run, in the order of products.
  void (*arrange)(const PackedRows& w, const float* x, float* out);
  void (*arrange_bytes)(const PackedRows& w, const std::int8_t* x, std::int8_t* out, std::int32_t* start,
                        std::size_t runs_in_part);

  // y[t * y_step + r] = product of activation t with row r, for rows [first, last). False where blocks do not suit.
  // space: 8 * across + 16 floats.
  bool (*dot_floats)(const PackedRows& w, std::size_t first, std::size_t last, const FloatRows& x, float* space, float* y,
                     std::size_t y_step);
  bool (*dot_wholes)(const PackedRows& w, std::size_t first, std::size_t last, const WholeRows& x, float* space, float* y,
                     std::size_t y_step);

  // Sums, and x / scale rounded to -127 ... 127; scale is the largest magnitude / 127 if it is given as 0. Returns it.
  float (*dot)(const float* a, const float* b, std::size_t n);
  std::int32_t (*sum_bytes)(const std::int8_t* x, std::size_t n);
  float (*round_row)(const float* x, std::size_t columns, float scale, std::int8_t* out);

  // value[i] = value[i] * scale + offset.
  void (*affine)(float* value, std::size_t n, float scale, float offset);

  // Dense products. A panel holds `panel_rows` rows of a matrix side by side: (columns, panel_rows) floats, or
  // (columns / 4, panel_rows, 4) bytes.
  std::size_t panel_rows;
  void (*panel_floats)(const float* rows, std::size_t step, std::size_t columns, float* panel);
  // y[t][r] (+)= sum over c of x[t][c] * panel[c][r], t < m.
  void (*multiply_floats)(const float* x, std::size_t x_step, std::size_t m, const float* panel, std::size_t columns,
                          bool add, float* y, std::size_t y_step);
  // The next four are null where there is no instruction for them. Panels of bytes, from bytes (columns is a multiple
  // of 64), or from words of 1, 2, 4 or 8 bits: within each dword's codes, those of plane 0, then those of plane 1 and so
  // on. `some` rows from `row` on, or fewer, are there; words that are wanted next lie `ahead` bytes from those of now.
  void (*panel_bytes)(const std::uint8_t* rows, std::size_t step, std::size_t columns, std::uint8_t* panel);
  void (*panel_words)(const PackedRows& w, std::size_t row, std::size_t some, std::size_t first, std::size_t count,
                      std::ptrdiff_t ahead, std::uint8_t* panel);
  // Activations in tiles for multiply_bytes, (m, columns) bytes in all; columns is a multiple of 64.
  void (*tile_bytes)(int planes, const std::int8_t* x, std::size_t x_step, std::size_t m, std::size_t columns,
                     std::int8_t* out);
  // y[t][r] += sum over parts of scale[part][r] * (start[t][part] + sum over the part's c of panel[c][r] * x[t][c]), the
  // sum over c in whole numbers; the panel starts at column `from`.
  void (*multiply_bytes)(const std::int8_t* tiles, std::size_t columns, std::size_t from, std::size_t m,
                         const std::uint8_t* panel, const PanelParts& parts, float* y, std::size_t y_step);
  // y[t][r] (+)= scale[t] * sum[t][r] + bias[r]; a scale or a bias that is null is not there.
  void (*finish)(const float* sum, std::size_t sum_step, std::size_t m, std::size_t rows, const float* scale,
                 const float* bias, bool add, float* y, std::size_t y_step);

  // Exclusive or of all words; bytes is a multiple of 256.
  std::int32_t (*read_words)(const std::uint8_t* from, std::size_t bytes);

  // One row of a trellis: state[c] = (state[c] << bits | code c) & mask, codes from bit `at` of the words on. States are
  // there up to a whole run.
  void (*shift_in)(const std::uint8_t* words, std::size_t bytes, std::size_t at, int bits, std::size_t columns,
                   std::uint16_t mask, std::uint16_t* state);
  void (*look_up_floats)(const std::uint16_t* state, std::size_t n, const float* table, float* out);
  // table has 2^memory bytes.
  void (*look_up_bytes)(const std::uint16_t* state, std::size_t n, int memory, const std::uint8_t* table,
                        std::uint8_t* out);

  // As in kernels.hpp, with sums that may be contracted.
  void (*hadamard_row)(float* x, std::size_t pieces, std::size_t n, float unit, const float* across, bool back,
                       float* space);
};

// The kernels in use for products with stored matrices; follows TERCILE_KERNELS.
const PackedKernels& packed_kernels();

extern const PackedKernels packed_kernels_plain;
#if defined(__x86_64__) || defined(_M_X64)
extern const PackedKernels packed_kernels_avx2;
extern const PackedKernels packed_kernels_avxvnni;
extern const PackedKernels packed_kernels_avx512;
#elif defined(__aarch64__)
extern const PackedKernels packed_kernels_neon;
extern const PackedKernels packed_kernels_dotprod;
#endif

}  // namespace tercile
