// Where the rows of a trellis lie: they start anywhere in the stream, and their values depend on the codes of the rows
// above.
#pragma once
#include <cstdint>
#include <stdexcept>
#include <vector>

namespace tercile {

struct TrellisRows {
  int memory;
  std::size_t height;               // of a strip; state is 0 before its first row
  std::vector<std::uint8_t> bits;   // of each row
  std::vector<std::size_t> start;   // first bit of each row

  TrellisRows(int memory, std::size_t height, const std::uint8_t* row_bits, std::size_t rows, std::size_t columns,
              std::size_t bytes)
      : memory(memory), height(height), bits(row_bits, row_bits + rows) {
    std::size_t at = 0;
    for (const std::uint8_t width : bits) {
      if (width < 1 || width > 5) throw std::invalid_argument("row_bits must be 1 to 5");
      start.push_back(at);
      at += width * columns;
    }
    if ((at + 7) / 8 > bytes) throw std::invalid_argument("words are too short");
  }

  // The row from which on codes have to be read to know the state at `row`.
  std::size_t warm(std::size_t row) const {
    const std::size_t first = row / height * height;
    for (int known = 0; row > first && known < memory; --row) known += bits[row - 1];
    return row;
  }
};

}  // namespace tercile
