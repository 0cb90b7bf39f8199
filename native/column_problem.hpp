// What GPTQ and coordinate descent are given, transposed: weight and index are (columns, rows), factor or hessian
// (columns, columns), scale and offset (groups, rows).
#pragma once
#include <cstddef>
#include <cstdint>
#include <stdexcept>

#include "bind.hpp"

namespace tercile {

inline void check_columns(const Array<const float, 2>& weight, const Array<const float, 2>& factor,
                   const Array<const float, 2>& scale, const Array<const float, 2>& offset,
                   const Array<const std::int32_t, 1>& group_of, const Array<std::uint8_t, 2>& index) {
  const std::size_t columns = weight.shape(0), rows = weight.shape(1), groups = scale.shape(0);
  if (factor.shape(0) != columns || factor.shape(1) != columns || group_of.shape(0) != columns)
    throw std::invalid_argument("factor and group_of must match the columns of weight");
  if (scale.shape(1) != rows || offset.shape(1) != rows || offset.shape(0) != groups)
    throw std::invalid_argument("scale and offset must be (groups, rows)");
  if (index.shape(0) != columns || index.shape(1) != rows)
    throw std::invalid_argument("index must have the shape of weight");
  for (std::size_t c = 0; c < columns; ++c)
    if (group_of.data()[c] < 0 || static_cast<std::size_t>(group_of.data()[c]) >= groups)
      throw std::invalid_argument("group_of is out of range");
}

}  // namespace tercile
