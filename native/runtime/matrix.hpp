// A stored matrix that is multiplied as it is stored.
#pragma once
#include <memory>
#include <optional>
#include <vector>

#include "../bind.hpp"
#include "../parallel.hpp"
#include "packed.hpp"
#include "rotation.hpp"
#include "trellis_rows.hpp"

namespace tercile {

// Activations rounded to eight bits, row by row, zeros behind the columns. Matrices that read the same share one; of one
// caller, as its tiles are made when first asked for.
struct Rounded {
  std::size_t m = 0, columns = 0, step = 0;
  std::vector<std::int8_t> values;  // (m, step)
  std::vector<float> scales;        // (m,)

  // Scales of their own for each row where scale is 0; turned first, if there is a rotation.
  Rounded(const float* x, std::size_t m, std::size_t columns, float scale, const Rotation* rotation = nullptr);

  // (m, step) bytes as multiply_bytes wants them.
  const std::int8_t* tiles(int planes) const;

 private:
  mutable std::vector<std::int8_t> tiles_[9];  // by planes
};

// Where a product goes: y[t * step + r] (+)= it + bias[r].
struct Output {
  float* y;
  std::size_t step;
  const float* bias = nullptr;
  bool add = false;
};

class PackedMatrix {
 public:
  PackedMatrix(Array<const std::uint32_t, 2> words, std::size_t rows, std::size_t columns, int bits,
               Array<const float, 1> table, std::optional<Array<const std::uint8_t, 1>> whole, int base, float unit,
               bool linear, std::optional<Array<const float, 2>> scale, std::optional<Array<const std::uint16_t, 2>> half,
               std::optional<Array<const float, 2>> offset, std::size_t tall, std::size_t wide, int memory,
               std::optional<Array<const std::uint8_t, 1>> row_bits, std::size_t height);

  std::size_t rows() const { return w_.rows; }
  std::size_t columns() const { return w_.columns; }
  const PackedRows& view() const { return w_; }
  const TrellisRows* trellis() const { return trellis_.get(); }
  std::size_t bytes() const { return words_.shape(0) * words_.shape(1) * 4; }
  std::size_t nbytes() const;  // held beside the arrays that it was made of

  // m rows of activations, `columns` apart, times the transposed matrix.
  void multiply(const float* x, std::size_t m, const Output& to) const;
  void multiply(const Rounded& x, const Output& to) const;

  // Decodes rows by number.
  void rows(const std::int64_t* ids, std::size_t n, float* out) const;

 private:
  void few(const float* x, std::size_t m, const Output& to) const;
  void few(const Rounded& x, const Output& to) const;
  void panels(const float* x, std::size_t m, const Output& to) const;
  void panels(const Rounded& x, const Output& to) const;
  void find_lanes();

  PackedRows w_;
  Array<const std::uint32_t, 2> words_;
  Array<const float, 1> table_;
  std::optional<Array<const std::uint8_t, 1>> whole_;
  std::optional<Array<const float, 2>> scale_;
  std::optional<Array<const std::uint16_t, 2>> half_;
  std::optional<Array<const float, 2>> offset_;
  std::vector<std::int32_t> lanes_;
  std::unique_ptr<TrellisRows> trellis_;
};

}  // namespace tercile
