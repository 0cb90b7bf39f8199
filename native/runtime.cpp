// Products with stored matrices: which kernel, in what pieces, on how many threads. A matrix is decoded a tile at a time.
#include <cmath>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "bind.hpp"
#include "parallel.hpp"
#include "runtime/packed.hpp"

namespace tercile {
namespace {

const PackedKernels& packed_kernels() {
  static const PackedKernels& chosen = []() -> const PackedKernels& {
#if defined(__x86_64__) || defined(_M_X64)
    const std::string name = kernels().name;  // follows TERCILE_KERNELS
    if (name == "avx512" && __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vnni"))
      return packed_kernels_avx512;
    if (name != "plain") return packed_kernels_avx2;
#endif
    return packed_kernels_plain;
  }();
  return chosen;
}

constexpr std::size_t kFewRows = 4;        // up to this many rows of activations, products go code by code
constexpr std::size_t kFloatChunk = 256;   // columns of a panel: it stays in the nearest cache
constexpr std::size_t kByteChunk = 512;
constexpr std::size_t kPieceRows = 64;     // rows that a thread takes at a time

template <typename T>
using Buffer = std::vector<T>;

// Rows of a trellis start anywhere in the stream, and their values depend on the codes of the rows above.
struct TrellisRows {
  int memory;
  std::size_t height;               // of a strip; state is 0 before its first row
  Buffer<std::uint8_t> bits;        // of each row
  Buffer<std::size_t> start;        // first bit of each row
  const float* values;
  const std::uint8_t* whole;

  // The row from which on codes have to be read to know the state at `row`.
  std::size_t warm(std::size_t row) const {
    const std::size_t first = row / height * height;
    for (int known = 0; row > first && known < memory; --row) known += bits[row - 1];
    return row;
  }
};

class PackedMatrix {
 public:
  PackedMatrix(Array<const std::uint32_t, 2> words, std::size_t rows, std::size_t columns, int bits,
               Array<const float, 1> table, std::optional<Array<const std::uint8_t, 1>> whole, int base, float unit,
               bool linear, std::optional<Array<const float, 2>> scale, std::optional<Array<const std::uint16_t, 2>> half,
               std::optional<Array<const float, 2>> offset, std::size_t tall, std::size_t wide, int memory,
               std::optional<Array<const std::uint8_t, 1>> row_bits, std::size_t height)
      : words_(words), table_(table), whole_(whole), scale_(scale), half_(half), offset_(offset) {
    if (rows < 1 || columns < 1 || tall < 1 || wide < 1) throw std::invalid_argument("a packed matrix can't be empty");
    w_ = {};
    w_.words = reinterpret_cast<const std::uint8_t*>(words.data());
    w_.row_bytes = 4 * words.shape(1);
    w_.rows = rows, w_.columns = columns, w_.bits = bits;
    w_.base = base, w_.unit = unit, w_.linear = linear;
    w_.tall = tall, w_.wide = std::min(wide, columns), w_.across = (columns + w_.wide - 1) / w_.wide;
    const std::size_t down = (rows + tall - 1) / tall;
    const auto check = [&](bool there, std::size_t r, std::size_t c, const char* name) {
      if (there && (r != down || c != w_.across)) throw std::invalid_argument(std::string(name) + " must have one a block");
    };
    if (scale.has_value() == half.has_value()) throw std::invalid_argument("scale must be given as float32 or as float16");
    check(scale.has_value(), scale ? scale->shape(0) : 0, scale ? scale->shape(1) : 0, "scale");
    check(half.has_value(), half ? half->shape(0) : 0, half ? half->shape(1) : 0, "scale");
    check(offset.has_value(), offset ? offset->shape(0) : 0, offset ? offset->shape(1) : 0, "offset");
    w_.scale = scale ? scale->data() : nullptr;
    w_.half_scale = half ? half->data() : nullptr;
    w_.offset = offset ? offset->data() : nullptr;
    w_.table = table.data();
    w_.whole = whole ? whole->data() : nullptr;
    const std::size_t states = memory ? std::size_t{1} << memory : 256;
    if (memory < 0 || memory > 16 || table.shape(0) != states) throw std::invalid_argument("table has the wrong length");
    if (whole && whole->shape(0) != states + (memory ? 3 : 0)) throw std::invalid_argument("whole has the wrong length");
    if (memory) {
      if (!whole || !row_bits || row_bits->shape(0) != rows || height < 1)
        throw std::invalid_argument("a trellis needs row_bits, height and whole");
      trellis_ = std::make_unique<TrellisRows>();
      trellis_->memory = memory, trellis_->height = height, trellis_->values = w_.table, trellis_->whole = w_.whole;
      trellis_->bits.assign(row_bits->data(), row_bits->data() + rows);
      std::size_t at = 0;
      for (const std::uint8_t width : trellis_->bits) {
        if (width < 1 || width > 5) throw std::invalid_argument("row_bits must be 1 to 5");
        trellis_->start.push_back(at);
        at += width * columns;
      }
      if ((at + 7) / 8 > bytes()) throw std::invalid_argument("words are too short");
    } else {
      if (bits < 1 || bits > 8) throw std::invalid_argument("bits must be 1 to 8");
      if (words.shape(0) != rows || w_.row_bytes * 8 < columns * bits) throw std::invalid_argument("words are too short");
      find_quads();
    }
  }

  std::size_t nbytes() const {
    return quads_.size() * 4 + (trellis_ ? trellis_->bits.size() + 8 * trellis_->start.size() : 0);
  }

  // y (+)= x times the transposed matrix.
  void multiply(Array<const float, 2> x, bool add, Array<float, 2> y) const {
    check(x, y);
    const std::size_t m = x.shape(0);
    if (m == 0) return;
    const PackedKernels& k = packed_kernels();
    if (m <= kFewRows && !trellis_ && few_floats(k, x.data(), m, add, y.data())) return;
    panels(k, x.data(), m, add, y.data());
  }

  // The same with activations rounded to eight bits: by a scale of their own for each row, or by the given one.
  void multiply_rounded(Array<const float, 2> x, float scale, Array<float, 2> y) const {
    check(x, y);
    const std::size_t m = x.shape(0);
    if (m == 0) return;
    const PackedKernels& k = packed_kernels();
    const std::size_t step = runs_of(w_.columns) * kRun;
    Buffer<std::int8_t> rounded(m * step);
    Buffer<float> scales(m);
    const std::size_t chunk = std::max<std::size_t>(1, (1 << 16) / w_.columns);
    parallel((m + chunk - 1) / chunk, [&](std::ptrdiff_t piece) {
      for (std::size_t t = piece * chunk; t < std::min(m, (piece + 1) * chunk); ++t)
        scales[t] = k.round_row(x.data() + t * w_.columns, w_.columns, scale, rounded.data() + t * step);
    });
    if (m <= kFewRows && !trellis_) return few_wholes(k, rounded, scales, step, m, y.data());
    const bool quads = w_.across == 1 || w_.wide % 4 == 0;
    if (k.multiply_bytes && quads) return byte_panels(k, rounded, scales, step, m, y.data());
    // The same numbers in floats.
    Buffer<float> again(m * w_.columns);
    for (std::size_t t = 0; t < m; ++t)
      for (std::size_t c = 0; c < w_.columns; ++c) again[t * w_.columns + c] = scales[t] * rounded[t * step + c];
    panels(k, again.data(), m, false, y.data());
  }

  void rows(Array<const std::int64_t, 1> ids, Array<float, 2> out) const {
    if (out.shape(0) != ids.shape(0) || out.shape(1) != w_.columns) throw std::invalid_argument("out must be (n, columns)");
    for (std::size_t i = 0; i < ids.shape(0); ++i)
      if (ids.data()[i] < 0 || static_cast<std::size_t>(ids.data()[i]) >= w_.rows)
        throw std::invalid_argument("ids are out of range");
    const PackedKernels& k = packed_kernels();
    const std::size_t n = ids.shape(0), chunk = std::max<std::size_t>(1, (1 << 14) / w_.columns);
    parallel((n + chunk - 1) / chunk, [&](std::ptrdiff_t piece) {
      Decoder decoder(*this, k, 0, w_.columns);
      for (std::size_t i = piece * chunk; i < std::min(n, (piece + 1) * chunk); ++i)
        decoder.floats(ids.data()[i], out.data() + i * w_.columns);
    });
  }

 private:
  // Decodes rows within a range of columns; those of a trellis fastest from the top down.
  class Decoder {
   public:
    Decoder(const PackedMatrix& matrix, const PackedKernels& k, std::size_t first, std::size_t last)
        : m_(matrix), w_(matrix.w_), k_(k), first_(first), count_(last - first), codes_(runs_of(count_) * kRun),
          values_(m_.trellis_ ? 0 : runs_of(count_) * kRun), state_(m_.trellis_ ? count_ : 0) {}

    void floats(std::size_t row, float* out) {
      if (m_.trellis_) {
        advance(row);
        k_.look_up_floats(state_.data(), count_, m_.trellis_->values, out);
      } else {
        k_.codes(w_, row, first_, count_, codes_.data());
        k_.values(w_, codes_.data(), count_, out);
      }
      const std::size_t blocks = row / w_.tall * w_.across;
      for (std::size_t c = first_; c < first_ + count_;) {
        const std::size_t block = c / w_.wide, end = std::min((block + 1) * w_.wide, first_ + count_);
        const float scale = m_.scale_at(blocks + block), offset = w_.offset ? w_.offset[blocks + block] : 0.0f;
        float* value = out + (c - first_);
        for (std::size_t i = 0; i < end - c; ++i) value[i] = value[i] * scale + offset;
        c = end;
      }
    }

    // Whole numbers, filled up with `base` to whole runs.
    void wholes(std::size_t row, std::uint8_t* out) {
      const std::size_t padded = runs_of(count_) * kRun;
      if (m_.trellis_) {
        advance(row);
        k_.look_up_bytes(state_.data(), count_, m_.trellis_->whole, out);
      } else {
        k_.codes(w_, row, first_, count_, out);
        if (w_.whole)
          for (std::size_t i = 0; i < count_; ++i) out[i] = w_.whole[out[i]];
      }
      for (std::size_t i = count_; i < padded; ++i) out[i] = static_cast<std::uint8_t>(w_.base);
    }

   private:
    void advance(std::size_t row) {
      const TrellisRows& t = *m_.trellis_;
      std::size_t from = t.warm(row);
      if (next_ <= row && next_ >= from && next_ > row / t.height * t.height) {
        from = next_;
      } else {
        std::fill(state_.begin(), state_.end(), std::uint16_t{0});
      }
      for (; from <= row; ++from)
        k_.shift_in(w_.words, m_.bytes(), t.start[from] + first_ * t.bits[from], t.bits[from], count_,
                    static_cast<std::uint16_t>((1u << t.memory) - 1u), state_.data());
      next_ = row + 1;
    }

    static constexpr std::size_t kNowhere = ~std::size_t{0};
    const PackedMatrix& m_;
    const PackedRows& w_;
    const PackedKernels& k_;
    std::size_t first_, count_, next_ = kNowhere;
    Buffer<std::uint8_t> codes_;
    Buffer<float> values_;
    Buffer<std::uint16_t> state_;
  };

  std::size_t bytes() const { return words_.shape(0) * words_.shape(1) * 4; }

  float scale_at(std::size_t block) const {
    if (w_.scale) return w_.scale[block];
    const unsigned half = w_.half_scale[block], exponent = half >> 10 & 31, fraction = half & 1023;
    const float size = exponent == 0    ? std::ldexp(static_cast<float>(fraction), -24)
                       : exponent == 31 ? (fraction ? NAN : INFINITY)
                                        : std::ldexp(static_cast<float>(fraction + 1024), static_cast<int>(exponent) - 25);
    return half & 0x8000 ? -size : size;
  }

  void check(const Array<const float, 2>& x, const Array<float, 2>& y) const {
    if (x.shape(1) != w_.columns || y.shape(0) != x.shape(0) || y.shape(1) != w_.rows)
      throw std::invalid_argument("x must be (m, columns) and y (m, rows)");
  }

  void find_quads() {
    if (w_.across == 1 || w_.wide % kRun == 0 || w_.wide % 4) return;
    for (std::size_t run = 0; run < runs_of(w_.columns); ++run)
      for (std::size_t quad = 0; quad < 16; ++quad)
        quads_.push_back(static_cast<std::int32_t>((run * kRun + 4 * quad) / w_.wide - run * kRun / w_.wide));
    w_.quad_block = quads_.data();
  }

  // Calls body(first row, last row) for pieces that are worth a thread.
  template <typename Body>
  void by_rows(std::size_t piece_rows, Body body) const {
    parallel((w_.rows + piece_rows - 1) / piece_rows, [&](std::ptrdiff_t piece) {
      const std::size_t first = piece * piece_rows;
      body(first, std::min(w_.rows, first + piece_rows));
    });
  }

  // Rows of a piece in products code by code: some 64 KB of words, and no more than a share for each thread.
  std::size_t few_rows() const {
    const std::size_t enough = std::max<std::size_t>(8, (1 << 16) / w_.row_bytes);
    const std::size_t share = (w_.rows + threads() - 1) / threads();
    return std::max<std::size_t>(4, std::min(enough, share) / 4 * 4);
  }

  template <typename Value>
  Buffer<float> block_sums(const Value* x, std::size_t step, std::size_t m, const float* scale) const {
    Buffer<float> sums(w_.offset ? m * w_.across : 0);
    for (std::size_t t = 0; t < m && w_.offset; ++t)
      for (std::size_t b = 0; b < w_.across; ++b) {
        double sum = 0;
        for (std::size_t c = b * w_.wide; c < std::min((b + 1) * w_.wide, w_.columns); ++c) sum += x[t * step + c];
        sums[t * w_.across + b] = static_cast<float>(scale ? sum * scale[t] : sum);
      }
    return sums;
  }

  bool few_floats(const PackedKernels& k, const float* x, std::size_t m, bool add, float* y) const {
    const std::size_t step = runs_of(w_.columns) * kRun;
    Buffer<float> arranged(m * step);
    for (std::size_t t = 0; t < m; ++t) k.arrange(x + t * w_.columns, w_.columns, arranged.data() + t * step);
    const Buffer<float> sums = block_sums(x, w_.columns, m, nullptr);
    const FloatRows rows{arranged.data(), m, step, sums.data()};
    Buffer<float> apart(add ? m * w_.rows : 0);
    float* out = add ? apart.data() : y;
    by_rows(few_rows(), [&](std::size_t first, std::size_t last) {
      Buffer<float> space(4 * (w_.across + 16));
      if (k.dot_floats(w_, first, last, rows, space.data(), out, w_.rows)) return;
      Decoder decoder(*this, k, 0, w_.columns);
      Buffer<float> row(step);
      for (std::size_t r = first; r < last; ++r) {
        decoder.floats(r, row.data());
        for (std::size_t t = 0; t < m; ++t) out[t * w_.rows + r] = k.dot(row.data(), x + t * w_.columns, w_.columns);
      }
    });
    for (std::size_t i = 0; i < apart.size(); ++i) y[i] += apart[i];
    return true;
  }

  void few_wholes(const PackedKernels& k, const Buffer<std::int8_t>& x, const Buffer<float>& scale, std::size_t step,
                  std::size_t m, float* y) const {
    const bool whole_runs = w_.across == 1 || w_.wide % kRun == 0;
    const std::size_t runs = runs_of(w_.columns), parts = whole_runs ? w_.across : runs;
    const std::size_t in_part = !whole_runs ? 1 : w_.across == 1 ? runs : w_.wide / kRun;
    Buffer<std::int32_t> start(m * parts * 16);
    for (std::size_t t = 0; t < m; ++t)
      for (std::size_t run = 0; run < runs; ++run) {
        std::int32_t* to = start.data() + (t * parts + run / in_part) * 16;
        const std::int8_t* from = x.data() + t * step + run * kRun;
        for (std::size_t quad = 0; quad < 16; ++quad)
          to[quad] -= w_.base * (from[4 * quad] + from[4 * quad + 1] + from[4 * quad + 2] + from[4 * quad + 3]);
      }
    const Buffer<float> sums = block_sums(x.data(), step, m, scale.data());
    const WholeRows rows{x.data(), m, step, scale.data(), start.data(), parts, sums.data()};
    by_rows(few_rows(), [&](std::size_t first, std::size_t last) {
      Buffer<float> space(4 * (w_.across + 16));
      k.dot_wholes(w_, first, last, rows, space.data(), y, w_.rows);
    });
  }

  // Dense products of decoded panels. Columns are taken in chunks whose decoded rows stay near; within one, a trellis
  // goes on from row to row.
  void panels(const PackedKernels& k, const float* x, std::size_t m, bool add, float* y) const {
    const std::size_t high = k.panel_rows;
    by_rows(kPieceRows, [&](std::size_t first, std::size_t last) {
      Buffer<float> rows(high * kFloatChunk), panel(high * kFloatChunk), corner;
      for (std::size_t from = 0; from < w_.columns; from += kFloatChunk) {
        const std::size_t count = std::min(kFloatChunk, w_.columns - from);
        Decoder decoder(*this, k, from, from + count);
        for (std::size_t r = first; r < last; r += high) {
          const std::size_t some = std::min(high, last - r);
          for (std::size_t i = 0; i < some; ++i) decoder.floats(r + i, rows.data() + i * kFloatChunk);
          k.panel_floats(rows.data(), kFloatChunk, count, panel.data());
          const bool more = add || from > 0;
          if (some == high) {
            k.multiply_floats(x + from, w_.columns, m, panel.data(), count, more, y + r, w_.rows);
            continue;
          }
          corner.resize(m * high);
          k.multiply_floats(x + from, w_.columns, m, panel.data(), count, false, corner.data(), high);
          for (std::size_t t = 0; t < m; ++t)
            for (std::size_t i = 0; i < some; ++i) {
              float& to = y[t * w_.rows + r + i];
              to = corner[t * high + i] + (more ? to : 0.0f);
            }
        }
      }
    });
  }

  struct Part {
    std::size_t from, to;  // columns that share a block and a chunk
  };

  void byte_panels(const PackedKernels& k, const Buffer<std::int8_t>& x, const Buffer<float>& scale, std::size_t step,
                   std::size_t m, float* y) const {
    Buffer<Part> parts;
    for (std::size_t from = 0; from < w_.columns;) {
      const std::size_t block = (from / w_.wide + 1) * w_.wide, chunk = (from / kByteChunk + 1) * kByteChunk;
      const std::size_t to = std::min({block, chunk, w_.columns});
      parts.push_back({from, to});
      from = to;
    }
    Buffer<std::int32_t> start(m * parts.size());
    for (std::size_t t = 0; t < m; ++t)
      for (std::size_t p = 0; p < parts.size(); ++p) {
        std::int32_t sum = 0;
        for (std::size_t c = parts[p].from; c < parts[p].to; ++c) sum += x[t * step + c];
        start[t * parts.size() + p] = -w_.base * sum;
      }
    const Buffer<float> sums = block_sums(x.data(), step, m, scale.data());
    const std::size_t high = k.panel_rows;
    by_rows(kPieceRows, [&](std::size_t first, std::size_t last) {
      Buffer<std::uint8_t> rows(high * kByteChunk), panel(high * kByteChunk);
      Buffer<float> corner(m * kPieceRows), scales(high);
      std::size_t part = 0;
      for (std::size_t from = 0; from < w_.columns; from += kByteChunk) {
        const std::size_t count = std::min(kByteChunk, w_.columns - from), begin = part;
        Decoder decoder(*this, k, from, from + count);
        for (std::size_t r = first; r < last; r += high) {
          const std::size_t some = std::min(high, last - r);
          for (std::size_t i = 0; i < some; ++i) decoder.wholes(r + i, rows.data() + i * kByteChunk);
          k.panel_bytes(rows.data(), kByteChunk, runs_of(count) * kRun, panel.data());
          for (part = begin; part < parts.size() && parts[part].from < from + count; ++part) {
            const Part& p = parts[part];
            for (std::size_t i = 0; i < some; ++i)
              scales[i] = scale_at((r + i) / w_.tall * w_.across + p.from / w_.wide);
            k.multiply_bytes(x.data() + p.from, step, m, panel.data() + (p.from - from) * high, (p.to - p.from + 3) / 4 * 4,
                             start.data() + part, parts.size(), scales.data(), corner.data() + (r - first), kPieceRows);
          }
        }
      }
      for (std::size_t t = 0; t < m; ++t)
        for (std::size_t r = first; r < last; ++r) {
          float value = corner[t * kPieceRows + (r - first)] * (w_.unit * scale[t]);
          if (w_.offset) value += k.dot(w_.offset + r / w_.tall * w_.across, sums.data() + t * w_.across, w_.across);
          y[t * w_.rows + r] = value;
        }
    });
  }

  PackedRows w_;
  Array<const std::uint32_t, 2> words_;
  Array<const float, 1> table_;
  std::optional<Array<const std::uint8_t, 1>> whole_;
  std::optional<Array<const float, 2>> scale_;
  std::optional<Array<const std::uint16_t, 2>> half_;
  std::optional<Array<const float, 2>> offset_;
  Buffer<std::int32_t> quads_;
  std::unique_ptr<TrellisRows> trellis_;
};

}  // namespace

void bind_runtime(nb::module_& module) {
  using namespace nb::literals;
  const auto free = nb::call_guard<nb::gil_scoped_release>();
  nb::class_<PackedMatrix>(module, "PackedMatrix")
      .def(nb::init<Array<const std::uint32_t, 2>, std::size_t, std::size_t, int, Array<const float, 1>,
                    std::optional<Array<const std::uint8_t, 1>>, int, float, bool, std::optional<Array<const float, 2>>,
                    std::optional<Array<const std::uint16_t, 2>>, std::optional<Array<const float, 2>>, std::size_t,
                    std::size_t, int, std::optional<Array<const std::uint8_t, 1>>, std::size_t>(),
           "words"_a.noconvert(), "rows"_a, "columns"_a, "bits"_a, "table"_a, "whole"_a.none(), "base"_a, "unit"_a,
           "linear"_a, "scale"_a.none(), "half"_a.none(), "offset"_a.none(), "tall"_a, "wide"_a, "memory"_a,
           "row_bits"_a.none(), "height"_a)
      .def_prop_ro("nbytes", &PackedMatrix::nbytes, "Bytes held beside the arrays that it was made of.")
      .def("multiply", &PackedMatrix::multiply, "x"_a, "add"_a, "y"_a.noconvert(), free)
      .def("multiply_rounded", &PackedMatrix::multiply_rounded, "x"_a, "scale"_a, "y"_a.noconvert(), free)
      .def("rows", &PackedMatrix::rows, "ids"_a, "out"_a.noconvert(), free);
  module.def("packed_kernels", [] { return std::string(packed_kernels().name); },
             "Name of the instruction set that products with stored matrices use.");
}

}  // namespace tercile
