// Which product of a few rows a matrix takes, for AVX2 and NEON.
#pragma once
#include "packed_choice.hpp"
#include "packed_few.hpp"

namespace tercile::TERCILE_TARGET {

template <typename Product, int rows, int tokens>
static void dot_rows(const PackedRows& w, const Product& product, std::size_t row, std::size_t token, float* space,
                     float* y, std::size_t y_step) {
  using Codes = typename Product::Codes;
  FewRows<Product, rows, tokens> few{w, product, token, {}, {}, Codes::within(w.row_bytes), {}, {}};
  if (w.tall == 1) {
    scales_of_row(w, row, 0, rows * w.across, 1.0f, space);  // they follow each other
  } else {
    for (int r = 0; r < rows; ++r) scales_of_row(w, row + r, 0, w.across, 1.0f, space + r * w.across);
  }
  for (int r = 0; r < rows; ++r) {
    few.words[r] = w.words + (row + r) * w.row_bytes;
    few.scales[r] = space + r * w.across;
  }
  alignas(64) std::uint8_t copies[rows][kLastBytes];
  const std::size_t copied = few.within * Codes::kBytes;
  for (int r = 0; r < rows && copied < w.row_bytes; ++r) {
    copy_last(few.words[r] + copied, w.row_bytes - copied, copies[r]);
    few.copies[r] = copies[r] - copied;
  }
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r)
#pragma GCC unroll 4
    for (int t = 0; t < tokens; ++t) few.total[r][t] = Register{};
  few.all();
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r)
#pragma GCC unroll 4
    for (int t = 0; t < tokens; ++t)
      y[(token + t) * y_step + row + r] = product.end(sum_of(few.total[r][t]), token + t, row + r);
}

template <typename Product>
static bool dot_all(const PackedRows& w, const Product& product, std::size_t first, std::size_t last, std::size_t m,
                    float* space, float* y, std::size_t y_step) {
  for (std::size_t token = 0; token < m;) {
    std::size_t row = first;
    const std::size_t some = m - token == 1 ? 1 : 2;
    for (; some == 1 && row + kTogether <= last; row += kTogether)
      dot_rows<Product, kTogether, 1>(w, product, row, token, space, y, y_step);
    for (; some == 2 && row + 4 <= last; row += 4) dot_rows<Product, 4, 2>(w, product, row, token, space, y, y_step);
    for (; row < last; ++row)
      for (std::size_t t = token; t < token + some; ++t) dot_rows<Product, 1, 1>(w, product, row, t, space, y, y_step);
    token += some;
  }
  return true;
}

static bool dot_floats(const PackedRows& w, std::size_t first, std::size_t last, const FloatRows& x, float* space,
                       float* y, std::size_t y_step) {
  if (!suits(w)) return false;
  const Table table = table_of(w);
  const Look how = look_of(w);
#define TERCILE_LOOK(b, p, l) \
  if (how == l) return dot_all(w, FloatProduct<Codes<b, p>, l>{w, x, table}, first, last, x.m, space, y, y_step)
#define TERCILE_CALL(b, p)                \
  if constexpr (b <= 4) {                 \
    TERCILE_LOOK(b, p, Look::halves);     \
    TERCILE_LOOK(b, p, Look::bytes);      \
  } else {                                \
    TERCILE_LOOK(b, p, Look::linear);     \
    TERCILE_LOOK(b, p, Look::memory);     \
  }                                       \
  return false
  TERCILE_BY_CODES(w, TERCILE_CALL)
#undef TERCILE_CALL
#undef TERCILE_LOOK
}

static bool dot_wholes(const PackedRows& w, std::size_t first, std::size_t last, const WholeRows& x, float* space,
                       float* y, std::size_t y_step) {
  if (!suits(w)) return dot_wholes_plain(w, first, last, x, space, y, y_step);
#define TERCILE_CALL(b, p)                                                                                             \
  if (!w.whole) return dot_all(w, WholeProduct<Codes<b, p>, false>{w, x, {}}, first, last, x.m, space, y, y_step);      \
  return dot_all(w, WholeProduct<Codes<b, p>, true>{w, x, {table16(w.whole), w.whole}}, first, last, x.m, space, y, y_step)
  TERCILE_BY_CODES(w, TERCILE_CALL)
#undef TERCILE_CALL
}

}  // namespace tercile::TERCILE_TARGET
