// What codes have in common whose values are found for a column at once: strips of rows, a search, and a way back.
//
// A matrix is cut into strips of rows, all about as tall. Each column of a strip stands by itself.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <utility>
#include <vector>

#include "bind.hpp"

namespace tercile {

using Index = std::ptrdiff_t;

// Finds codes, with its own memory; one for each thread.
class ColumnSearch {
 public:
  virtual ~ColumnSearch() = default;

  // Codes, and the values they stand for, that make sum_i weight[i] * (target[i] - value[i])^2 least; weight may be null.
  virtual void run(const float* target, const float* weight, Index length, std::uint8_t* codes, float* value) = 0;
};

class ColumnCode {
 public:
  explicit ColumnCode(Array<const std::uint8_t, 1> bits) : bits(bits.data(), bits.data() + bits.shape(0)) {
    if (this->bits.empty()) throw std::invalid_argument("bits must hold at least one row");
  }
  virtual ~ColumnCode() = default;

  const std::vector<std::uint8_t> bits;  // of each row of the tallest strip

  virtual std::unique_ptr<ColumnSearch> search(Index longest) const = 0;

  // Values of a column of codes; codes and values lie `stride` apart.
  virtual void values_of(const std::uint8_t* codes, Index length, Index stride, float* values) const = 0;

  // Rows [first, second) of each strip.
  std::vector<std::pair<Index, Index>> strips(Index rows) const {
    const Index height = strip_height(rows);
    std::vector<std::pair<Index, Index>> cut;
    for (Index first = 0; first < rows; first += height) cut.emplace_back(first, std::min(rows, first + height));
    return cut;
  }

 protected:
  virtual Index strip_height(Index rows) const {
    const Index tallest = static_cast<Index>(bits.size()), count = std::max<Index>(1, (rows + tallest - 1) / tallest);
    return (rows + count - 1) / count;
  }
};

}  // namespace tercile
