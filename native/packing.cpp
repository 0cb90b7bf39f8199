// Codes of any width packed row by row into 32-bit words with no gap but the tail of a row's last word.
//
// Grids with 2^b levels are a plain bit stream, little end first: code i of a row takes bits [b*i, b*i + b).
// Grids whose level count is no power of two (ternary) are packed in that base: `per_word` codes are the digits of one
// word, least significant first, which stores a ternary code in 1.6 bits.
#include <stdexcept>

#include "bind.hpp"
#include "parallel.hpp"

namespace tercile {
namespace {

void check(std::size_t code_rows, std::size_t columns, std::size_t word_rows, std::size_t words, std::size_t needed) {
  if (code_rows != word_rows || words < needed)
    throw std::invalid_argument("words (" + std::to_string(word_rows) + ", " + std::to_string(words) +
                                ") do not fit codes (" + std::to_string(code_rows) + ", " + std::to_string(columns) + ")");
}

void check_bits(std::size_t code_rows, std::size_t columns, std::size_t word_rows, std::size_t words, int bits) {
  if (bits < 1 || bits > 8) throw std::invalid_argument("bits must be 1 to 8, got " + std::to_string(bits));
  check(code_rows, columns, word_rows, words, (columns * bits + 31) / 32);
}

void check_digits(std::size_t code_rows, std::size_t columns, std::size_t word_rows, std::size_t words, int base,
                  int per_word) {
  if (base < 2 || base > 256 || per_word < 1 || per_word > 32)
    throw std::invalid_argument("base must be 2 to 256 and per_word 1 to 32");
  check(code_rows, columns, word_rows, words, (columns + per_word - 1) / per_word);
}

// Runs body(row) for every row, several to a piece where rows are short.
template <typename Body>
void each_row(std::ptrdiff_t rows, std::ptrdiff_t columns, Body body) {
  const std::ptrdiff_t chunk = std::max<std::ptrdiff_t>(1, (1 << 16) / std::max<std::ptrdiff_t>(columns, 1));
  parallel((rows + chunk - 1) / chunk, [&](std::ptrdiff_t piece) {
    for (std::ptrdiff_t r = piece * chunk; r < std::min(rows, (piece + 1) * chunk); ++r) body(r);
  });
}

void pack_bits(Array<const std::uint8_t, 2> codes, int bits, Array<std::uint32_t, 2> words) {
  check_bits(codes.shape(0), codes.shape(1), words.shape(0), words.shape(1), bits);
  const std::ptrdiff_t rows = codes.shape(0), columns = codes.shape(1), width = words.shape(1);
  each_row(rows, columns, [&](std::ptrdiff_t r) {
    const std::uint8_t* from = codes.data() + r * columns;
    std::uint32_t* to = words.data() + r * width;
    std::uint64_t buffer = 0;
    int filled = 0;
    for (std::ptrdiff_t c = 0; c < columns; ++c) {
      buffer |= static_cast<std::uint64_t>(from[c]) << filled;
      filled += bits;
      if (filled >= 32) {
        *to++ = static_cast<std::uint32_t>(buffer);
        buffer >>= 32;
        filled -= 32;
      }
    }
    if (filled) *to = static_cast<std::uint32_t>(buffer);
  });
}

void unpack_bits(Array<const std::uint32_t, 2> words, int bits, Array<std::uint8_t, 2> codes) {
  check_bits(codes.shape(0), codes.shape(1), words.shape(0), words.shape(1), bits);
  const std::ptrdiff_t rows = codes.shape(0), columns = codes.shape(1), width = words.shape(1);
  const std::uint32_t mask = (1u << bits) - 1u;
  each_row(rows, columns, [&](std::ptrdiff_t r) {
    const std::uint32_t* from = words.data() + r * width;
    std::uint8_t* to = codes.data() + r * columns;
    std::uint64_t buffer = 0;
    int filled = 0;
    for (std::ptrdiff_t c = 0; c < columns; ++c) {
      if (filled < bits) {
        buffer |= static_cast<std::uint64_t>(*from++) << filled;
        filled += 32;
      }
      to[c] = static_cast<std::uint8_t>(buffer & mask);
      buffer >>= bits;
      filled -= bits;
    }
  });
}

void pack_digits(Array<const std::uint8_t, 2> codes, int base, int per_word, Array<std::uint32_t, 2> words) {
  check_digits(codes.shape(0), codes.shape(1), words.shape(0), words.shape(1), base, per_word);
  const std::ptrdiff_t rows = codes.shape(0), columns = codes.shape(1), width = words.shape(1);
  each_row(rows, columns, [&](std::ptrdiff_t r) {
    const std::uint8_t* from = codes.data() + r * columns;
    for (std::ptrdiff_t word = 0; word < width; ++word) {
      std::uint32_t value = 0;
      const std::ptrdiff_t last = std::min<std::ptrdiff_t>(columns, (word + 1) * per_word);
      for (std::ptrdiff_t c = last - 1; c >= word * per_word; --c) value = value * base + from[c];
      words.data()[r * width + word] = value;
    }
  });
}

void unpack_digits(Array<const std::uint32_t, 2> words, int base, int per_word, Array<std::uint8_t, 2> codes) {
  check_digits(codes.shape(0), codes.shape(1), words.shape(0), words.shape(1), base, per_word);
  const std::ptrdiff_t rows = codes.shape(0), columns = codes.shape(1), width = words.shape(1);
  each_row(rows, columns, [&](std::ptrdiff_t r) {
    std::uint8_t* to = codes.data() + r * columns;
    for (std::ptrdiff_t word = 0; word < width; ++word) {
      std::uint32_t value = words.data()[r * width + word];
      const std::ptrdiff_t last = std::min<std::ptrdiff_t>(columns, (word + 1) * per_word);
      for (std::ptrdiff_t c = word * per_word; c < last; ++c, value /= base)
        to[c] = static_cast<std::uint8_t>(value % base);
    }
  });
}

}  // namespace

void bind_packing(nb::module_& module) {
  using namespace nb::literals;
  // Arrays that are written to are never converted: a copy would be filled instead.
  const auto free = nb::call_guard<nb::gil_scoped_release>();
  module.def("pack_bits", &pack_bits, "codes"_a, "bits"_a, "words"_a.noconvert(), free);
  module.def("unpack_bits", &unpack_bits, "words"_a, "bits"_a, "codes"_a.noconvert(), free);
  module.def("pack_digits", &pack_digits, "codes"_a, "base"_a, "per_word"_a, "words"_a.noconvert(), free);
  module.def("unpack_digits", &unpack_digits, "words"_a, "base"_a, "per_word"_a, "codes"_a.noconvert(), free);
}

}  // namespace tercile
