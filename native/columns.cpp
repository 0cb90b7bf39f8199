// Grids whose columns are rounded jointly: encoding, decoding, packing of rows with different numbers of bits, and the
// column loops of GPTQ and of coordinate descent.
#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <vector>

#include "column_code.hpp"
#include "column_problem.hpp"
#include "parallel.hpp"

namespace tercile {
namespace {

constexpr int kChunk = 16;  // columns of a strip that are worth a thread's attention

// Runs body(strip's first row, last, first column, last) for every strip and chunk of columns.
template <typename Body>
void each_chunk(const ColumnCode& code, Index rows, Index columns, Body body) {
  const auto strips = code.strips(rows);
  const Index across = (columns + kChunk - 1) / kChunk;
  parallel(static_cast<Index>(strips.size()) * across, [&](Index piece) {
    const auto [first, last] = strips[piece / across];
    const Index from = piece % across * kChunk;
    body(first, last, from, std::min(columns, from + kChunk));
  });
}

void encode_columns(Array<const float, 2> x, const ColumnCode& code, Array<std::uint8_t, 2> codes) {
  const Index rows = x.shape(0), columns = x.shape(1);
  if (codes.shape(0) != x.shape(0) || codes.shape(1) != x.shape(1))
    throw std::invalid_argument("codes must have the shape of x");
  each_chunk(code, rows, columns, [&](Index first, Index last, Index from, Index to) {
    const Index length = last - first;
    const auto search = code.search(length);
    std::vector<float> target(length), value(length);
    std::vector<std::uint8_t> found(length);
    for (Index c = from; c < to; ++c) {
      for (Index i = 0; i < length; ++i) target[i] = x.data()[(first + i) * columns + c];
      search->run(target.data(), nullptr, length, found.data(), value.data());
      for (Index i = 0; i < length; ++i) codes.data()[(first + i) * columns + c] = found[i];
    }
  });
}

void decode_columns(Array<const std::uint8_t, 2> codes, const ColumnCode& code, Array<float, 2> values) {
  const Index rows = codes.shape(0), columns = codes.shape(1);
  if (values.shape(0) != codes.shape(0) || values.shape(1) != codes.shape(1))
    throw std::invalid_argument("values must have the shape of codes");
  each_chunk(code, rows, columns, [&](Index first, Index last, Index from, Index to) {
    for (Index c = from; c < to; ++c)
      code.values_of(codes.data() + first * columns + c, last - first, columns, values.data() + first * columns + c);
  });
}

// Rows one after the other in one stream of bits, little end first, with no gap; row r takes bits[r] for each code.
std::size_t stream_bits(const Array<const std::uint8_t, 1>& bits, std::size_t columns) {
  std::size_t total = 0;
  for (std::size_t r = 0; r < bits.shape(0); ++r) {
    if (bits.data()[r] < 1 || bits.data()[r] > 8) throw std::invalid_argument("bits must be 1 to 8");
    total += bits.data()[r] * columns;
  }
  return total;
}

void pack_stream(Array<const std::uint8_t, 2> codes, Array<const std::uint8_t, 1> bits, Array<std::uint32_t, 1> words) {
  if (codes.shape(0) != bits.shape(0)) throw std::invalid_argument("bits must hold one number a row of codes");
  if (words.shape(0) != (stream_bits(bits, codes.shape(1)) + 31) / 32)
    throw std::invalid_argument("words do not fit codes");
  const std::uint8_t* from = codes.data();
  std::uint32_t* to = words.data();
  std::uint64_t buffer = 0;
  int filled = 0;
  for (std::size_t r = 0; r < codes.shape(0); ++r)
    for (std::size_t c = 0; c < codes.shape(1); ++c) {
      buffer |= static_cast<std::uint64_t>(*from++) << filled;
      filled += bits.data()[r];
      if (filled >= 32) {
        *to++ = static_cast<std::uint32_t>(buffer);
        buffer >>= 32;
        filled -= 32;
      }
    }
  if (filled) *to = static_cast<std::uint32_t>(buffer);
}

void unpack_stream(Array<const std::uint32_t, 1> words, Array<const std::uint8_t, 1> bits, Array<std::uint8_t, 2> codes) {
  if (codes.shape(0) != bits.shape(0)) throw std::invalid_argument("bits must hold one number a row of codes");
  if (words.shape(0) != (stream_bits(bits, codes.shape(1)) + 31) / 32)
    throw std::invalid_argument("words do not fit codes");
  const std::uint32_t* from = words.data();
  std::uint8_t* to = codes.data();
  std::uint64_t buffer = 0;
  int filled = 0;
  for (std::size_t r = 0; r < codes.shape(0); ++r) {
    const int wide = bits.data()[r];
    const std::uint64_t mask = (1u << wide) - 1u;
    for (std::size_t c = 0; c < codes.shape(1); ++c) {
      if (filled < wide) {
        buffer |= static_cast<std::uint64_t>(*from++) << filled;
        filled += 32;
      }
      *to++ = static_cast<std::uint8_t>(buffer & mask);
      buffer >>= wide;
      filled -= wide;
    }
  }
}

// A strip's own copy of what solvers pass: everything is (columns or groups, rows), as for scalar grids.
struct Strip {
  Index first, length, columns;
  std::vector<float> weight, scale, error, sums, target, importance, value;
  std::vector<std::uint8_t> codes;

  Strip(const Array<const float, 2>& w, const Array<const float, 2>& s, Index from, Index to)
      : first(from), length(to - from), columns(w.shape(0)), weight(cut(w)), scale(cut(s)), error(weight.size()),
        sums(length), target(length), importance(length), value(length), codes(length) {}

  std::vector<float> cut(const Array<const float, 2>& from) const {
    std::vector<float> to(from.shape(0) * length);
    for (std::size_t line = 0; line < from.shape(0); ++line)
      std::copy_n(from.data() + line * from.shape(1) + first, length, to.begin() + line * length);
    return to;
  }

  // Adds error[q] * row[q] of the columns [from, to) to the sums.
  void gather(const float* row, Index from, Index to) {
    for (Index q = from; q < to; ++q) {
      const float f = row[q];
      const float* e = error.data() + q * length;
      for (Index i = 0; i < length; ++i) sums[i] += e[i] * f;
    }
  }

  // Rounds column p as one sequence at weight + sums / pivot.
  void round(Index p, Index group, float pivot, ColumnSearch& search, std::uint8_t* out) {
    const float* w = weight.data() + p * length;
    const float* s = scale.data() + group * length;
    float largest = 0.0f;
    for (Index i = 0; i < length; ++i) largest = std::max(largest, std::abs(s[i]));
    for (Index i = 0; i < length; ++i) {
      // A block of zeros has scale 0: whatever its code, it decodes to 0 and costs nothing.
      target[i] = s[i] != 0.0f ? (w[i] + sums[i] / pivot) / s[i] : 0.0f;
      const float share = largest > 0.0f ? s[i] / largest : 0.0f;
      importance[i] = share * share;
    }
    search.run(target.data(), importance.data(), length, codes.data(), value.data());
    float* e = error.data() + p * length;
    for (Index i = 0; i < length; ++i) e[i] = w[i] - s[i] * value[i];
    std::copy(codes.begin(), codes.end(), out);
  }
};

// The GPTQ column loop of Kernels::solve_tile, each column of a strip rounded as one sequence. Offsets are not used.
void solve_columns(Array<const float, 2> weight, Array<const float, 2> factor, Array<const float, 2> scale,
                   Array<const float, 2> offset, Array<const std::int32_t, 1> group_of, const ColumnCode& code,
                   Array<std::uint8_t, 2> index) {
  check_columns(weight, factor, scale, offset, group_of, index);
  const Index columns = weight.shape(0), rows = weight.shape(1);
  const auto strips = code.strips(rows);
  parallel(static_cast<Index>(strips.size()), [&](Index at) {
    Strip strip(weight, scale, strips[at].first, strips[at].second);
    const auto search = code.search(strip.length);
    for (Index p = columns - 1; p >= 0; --p) {
      const float* row = factor.data() + p * columns;
      std::fill(strip.sums.begin(), strip.sums.end(), 0.0f);
      strip.gather(row, p + 1, columns);
      strip.round(p, group_of.data()[p], row[p], *search, index.data() + p * rows + strip.first);
    }
  });
}

// Coordinate descent as for scalar grids (see native/quantization.cpp): each column of a strip is one coordinate.
void descend_columns(Array<const float, 2> weight, Array<const float, 2> hessian, Array<const float, 2> scale,
                     Array<const float, 2> offset, Array<const std::int32_t, 1> group_of, const ColumnCode& code,
                     int sweeps, bool afresh, bool relaxed, Array<std::uint8_t, 2> index) {
  check_columns(weight, hessian, scale, offset, group_of, index);
  const Index columns = weight.shape(0), rows = weight.shape(1);
  const auto strips = code.strips(rows);
  parallel(static_cast<Index>(strips.size()), [&](Index at) {
    Strip strip(weight, scale, strips[at].first, strips[at].second);
    const auto search = code.search(strip.length);
    for (Index c = 0; c < columns && !afresh; ++c) {
      code.values_of(index.data() + c * rows + strip.first, strip.length, 1, strip.value.data());
      for (Index i = 0; i < strip.length; ++i) {
        const float s = strip.scale[group_of.data()[c] * strip.length + i];
        strip.error[c * strip.length + i] = strip.weight[c * strip.length + i] - s * strip.value[i];
      }
    }
    for (int sweep = 0; sweep < sweeps; ++sweep)
      for (Index p = columns - 1; p >= 0; --p) {
        const float* row = hessian.data() + p * columns;
        std::fill(strip.sums.begin(), strip.sums.end(), 0.0f);
        strip.gather(row, 0, p);
        strip.gather(row, p + 1, columns);
        if (relaxed && sweep % 3 == 1 && sweep + 1 < sweeps) {
          for (Index i = 0; i < strip.length; ++i) strip.error[p * strip.length + i] = -strip.sums[i] / row[p];
        } else {
          strip.round(p, group_of.data()[p], row[p], *search, index.data() + p * rows + strip.first);
        }
      }
  });
}

}  // namespace

void bind_columns(nb::module_& module) {
  using namespace nb::literals;
  nb::class_<ColumnCode>(module, "ColumnCode");
  // Arrays that are written to are never converted: a copy would be filled instead.
  const auto free = nb::call_guard<nb::gil_scoped_release>();
  module.def("encode_columns", &encode_columns, "x"_a, "code"_a, "codes"_a.noconvert(), free);
  module.def("decode_columns", &decode_columns, "codes"_a, "code"_a, "values"_a.noconvert(), free);
  module.def("pack_stream", &pack_stream, "codes"_a, "bits"_a, "words"_a.noconvert(), free);
  module.def("unpack_stream", &unpack_stream, "words"_a, "bits"_a, "codes"_a.noconvert(), free);
  module.def("solve_columns", &solve_columns, "weight"_a, "factor"_a, "scale"_a, "offset"_a, "group_of"_a, "grid"_a,
             "index"_a.noconvert(), free);
  module.def("descend_columns", &descend_columns, "weight"_a, "hessian"_a, "scale"_a, "offset"_a, "group_of"_a,
             "grid"_a, "sweeps"_a, "afresh"_a, "relaxed"_a, "index"_a.noconvert(), free);
}

}  // namespace tercile
