// Codes of any width packed row by row into 32-bit words with no gap but the tail of a row's last word.
//
// Grids with 2^b levels are a plain bit stream, little end first: code i of a row takes bits [b*i, b*i + b).
// Grids whose level count is no power of two (ternary) are packed in that base: `per_word` codes are the digits of one
// word, least significant first, which stores a ternary code in 1.6 bits.
#include "bind.hpp"
#include "parallel.hpp"

namespace tercile {
namespace {

void pack_bits(Array<const std::uint8_t, 2> codes, int bits, Array<std::uint32_t, 2> words) {
  const std::ptrdiff_t rows = codes.shape(0), columns = codes.shape(1), width = words.shape(1);
  parallel(rows, [&](std::ptrdiff_t r) {
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
  const std::ptrdiff_t rows = codes.shape(0), columns = codes.shape(1), width = words.shape(1);
  const std::uint32_t mask = (1u << bits) - 1u;
  parallel(rows, [&](std::ptrdiff_t r) {
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
  const std::ptrdiff_t rows = codes.shape(0), columns = codes.shape(1), width = words.shape(1);
  parallel(rows, [&](std::ptrdiff_t r) {
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
  const std::ptrdiff_t rows = codes.shape(0), columns = codes.shape(1), width = words.shape(1);
  parallel(rows, [&](std::ptrdiff_t r) {
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
  module.def("pack_bits", &pack_bits, "codes"_a, "bits"_a, "words"_a);
  module.def("unpack_bits", &unpack_bits, "words"_a, "bits"_a, "codes"_a);
  module.def("pack_digits", &pack_digits, "codes"_a, "base"_a, "per_word"_a, "words"_a);
  module.def("unpack_digits", &unpack_digits, "words"_a, "base"_a, "per_word"_a, "codes"_a);
}

}  // namespace tercile
