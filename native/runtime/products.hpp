// How products are cut into pieces.
#pragma once
#include <algorithm>
#include <vector>

#include "../parallel.hpp"
#include "matrix.hpp"

namespace tercile {

constexpr std::size_t kFewRows = 4;  // up to this many rows of activations, products go code by code

template <typename T>
using Buffer = std::vector<T>;

// Calls body(first row, last row) for pieces of the matrix that are worth a thread.
template <typename Body>
void by_rows(std::size_t rows, std::size_t piece_rows, Body body) {
  parallel((rows + piece_rows - 1) / piece_rows, [&](std::ptrdiff_t piece) {
    const std::size_t first = piece * piece_rows;
    body(first, std::min(rows, first + piece_rows));
  });
}

}  // namespace tercile
