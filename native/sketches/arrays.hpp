// Arrays that Python gets to own, and one look at an array of numbers.
#pragma once
#include <algorithm>
#include <utility>
#include <vector>

#include "../bind.hpp"

namespace tercile {

template <typename T>
using Owned = nb::ndarray<nb::numpy, T, nb::ndim<1>>;

template <typename T>
Owned<T> owned(const std::vector<T>& values) {
  auto* copy = new std::vector<T>(values);
  nb::capsule owner(copy, [](void* p) noexcept { delete static_cast<std::vector<T>*>(p); });
  return Owned<T>(copy->data(), {copy->size()}, owner);
}

// Least and largest of n > 0 numbers, in lanes that do not wait for each other.
template <typename T>
std::pair<T, T> ends(const T* x, std::size_t n) {
  constexpr std::size_t lanes = 16;
  T low[lanes], high[lanes];
  std::fill(low, low + lanes, x[0]);
  std::fill(high, high + lanes, x[0]);
  std::size_t i = 0;
  for (; i + lanes <= n; i += lanes)
    for (std::size_t j = 0; j < lanes; ++j) {
      low[j] = x[i + j] < low[j] ? x[i + j] : low[j];
      high[j] = x[i + j] > high[j] ? x[i + j] : high[j];
    }
  for (; i < n; ++i) {
    low[0] = std::min(low[0], x[i]);
    high[0] = std::max(high[0], x[i]);
  }
  return {*std::min_element(low, low + lanes), *std::max_element(high, high + lanes)};
}

// Index of the first NaN, or -1.
template <typename T>
std::ptrdiff_t first_nan(const T* x, std::size_t n) {
  constexpr std::size_t block = 1024;
  for (std::size_t start = 0; start < n; start += block) {
    const std::size_t stop = std::min(n, start + block);
    int odd = 0;
    for (std::size_t i = start; i < stop; ++i) odd |= x[i] != x[i];
    if (odd)
      for (std::size_t i = start; i < stop; ++i)
        if (x[i] != x[i]) return static_cast<std::ptrdiff_t>(i);
  }
  return -1;
}

}  // namespace tercile
