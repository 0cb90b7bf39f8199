// Products of many rows of activations: panels of the matrix are decoded once for all of them.
#include "decoder.hpp"
#include "products.hpp"

namespace tercile {
namespace {

constexpr std::size_t kFloatChunk = 256;  // columns of a panel: it stays in the nearest cache
constexpr std::size_t kByteChunk = 512;

// Parts of columns that share a block and a chunk.
struct Parts {
  Buffer<std::uint32_t> from, columns;
  Buffer<std::size_t> chunk;  // first part of each chunk, and the end
  std::size_t most = 0;       // parts of a chunk

  explicit Parts(const PackedRows& w) {
    for (std::size_t at = 0; at < w.columns;) {
      if (at % kByteChunk == 0) chunk.push_back(from.size());
      const std::size_t to =
          std::min({(at / w.wide + 1) * w.wide, (at / kByteChunk + 1) * kByteChunk, w.columns});
      from.push_back(static_cast<std::uint32_t>(at));
      columns.push_back(static_cast<std::uint32_t>(to - at));
      at = to;
    }
      chunk.push_back(from.size());
    for (std::size_t c = 0; c + 1 < chunk.size(); ++c) most = std::max(most, chunk[c + 1] - chunk[c]);
  }
};

// Rows that are a power of two apart would push each other out of the nearest cache: they are copied to lie otherwise.
struct Apart {
  Buffer<float> copy;
  const float* x;
  std::size_t step;

  Apart(const float* from, std::size_t m, std::size_t columns) : x(from), step(columns) {
    if (columns % 256 || m < 8) return;
    step = columns + 16;
    copy.resize(m * step);
    for (std::size_t t = 0; t < m; ++t) std::copy_n(from + t * columns, columns, copy.data() + t * step);
    x = copy.data();
  }
};

// Rows that a thread takes at a time: more where there are few activations, as each piece has memory of its own to get.
std::size_t piece_rows(std::size_t rows, std::size_t m) {
  const std::size_t share = (rows + threads() - 1) / threads();
  return std::min<std::size_t>(m <= 64 ? 256 : 64, std::max<std::size_t>(64, (share + 31) / 32 * 32));
}

}  // namespace

const std::int8_t* Rounded::tiles(int planes) const {
  std::vector<std::int8_t>& made = tiles_[planes];
  if (made.empty()) {
    made.resize(values.size());
    packed_kernels().tile_bytes(planes, values.data(), step, m, step, made.data());
  }
  return made.data();
}

// Columns are taken in chunks whose decoded rows stay near; within one, a trellis goes on from row to row.
void PackedMatrix::panels(const float* x, std::size_t m, const Output& to) const {
  const PackedKernels& k = packed_kernels();
  const std::size_t high = k.panel_rows, piece = piece_rows(w_.rows, m);
  const Apart apart(x, m, w_.columns);
  by_rows(w_.rows, piece, [&](std::size_t first, std::size_t last) {
    Buffer<float> rows(high * kFloatChunk), panel(high * kFloatChunk), sum(m * piece);
    for (std::size_t from = 0; from < w_.columns; from += kFloatChunk) {
      const std::size_t count = std::min(kFloatChunk, w_.columns - from);
      Decoder decoder(*this, from, from + count);
      for (std::size_t r = first; r < last; r += high) {
        for (std::size_t i = 0; i < std::min(high, last - r); ++i) decoder.floats(r + i, rows.data() + i * kFloatChunk);
        k.panel_floats(rows.data(), kFloatChunk, count, panel.data());
        k.multiply_floats(apart.x + from, apart.step, m, panel.data(), count, true, sum.data() + (r - first), piece);
      }
    }
    k.finish(sum.data(), piece, m, last - first, nullptr, to.bias ? to.bias + first : nullptr, to.add, to.y + first,
             to.step);
  });
}

void PackedMatrix::panels(const Rounded& x, const Output& to) const {
  const PackedKernels& k = packed_kernels();
  const Parts parts(w_);
  const std::size_t m = x.m, count_of_parts = parts.from.size(), high = k.panel_rows, piece = piece_rows(w_.rows, m);
  const bool words = !trellis_ && (w_.planes > 1 || w_.bits == 8);
  Buffer<std::int32_t> start(m * count_of_parts);
  Buffer<float> sums(w_.offset ? m * w_.across : 0);
  for (std::size_t t = 0; t < m; ++t) {
    const std::int8_t* from = x.values.data() + t * x.step;
    for (std::size_t p = 0; p < count_of_parts; ++p) {
      const std::int32_t sum = k.sum_bytes(from + parts.from[p], parts.columns[p]);
      start[t * count_of_parts + p] = -w_.base * sum;
      if (w_.offset) sums[t * w_.across + parts.from[p] / w_.wide] += static_cast<float>(sum);
    }
  }
  const std::int8_t* tiles = x.tiles(words ? w_.planes : 1);
  // Panels hold a dword's codes of all planes: a part may end within one, where both sides are zeros or nobody's.
  Buffer<std::uint32_t> columns(parts.columns);
  const std::uint32_t unit = 4 * (words ? w_.planes : 1);
  for (std::uint32_t& count : columns) count = (count + unit - 1) / unit * unit;
  by_rows(w_.rows, piece, [&](std::size_t first, std::size_t last) {
    Buffer<std::uint8_t> rows(words ? 0 : high * kByteChunk), panel(high * kByteChunk);
    Buffer<float> sum(m * piece), few(high * parts.most), scales(high * parts.most);
    for (std::size_t chunk = 0; chunk + 1 < parts.chunk.size(); ++chunk) {
      const std::size_t from = chunk * kByteChunk, count = std::min(kByteChunk, w_.columns - from);
      const std::size_t part = parts.chunk[chunk], some_parts = parts.chunk[chunk + 1] - part;
      Decoder decoder(*this, from, from + count);
      for (std::size_t r = first; r < last; r += high) {
        const std::size_t some = std::min(high, last - r);
        if (words) {
          // Next comes the panel below, or the first one of the next columns.
          const bool below = r + high < last, right = !below && from + count < w_.columns;
          const std::size_t next_row = right ? first : r + high, next_from = below ? from : right ? from + count : 0;
          const auto at = [&](std::size_t row, std::size_t column) {
            return static_cast<std::ptrdiff_t>(row * w_.row_bytes + column / 8 * w_.bits);
          };
          const std::ptrdiff_t ahead = at(next_row, next_from) - at(r, from);
          k.panel_words(w_, r, some, from, count, ahead, panel.data());
        } else {
          for (std::size_t i = 0; i < some; ++i) decoder.wholes(r + i, rows.data() + i * kByteChunk);
          k.panel_bytes(rows.data(), kByteChunk, runs_of(count) * kRun, panel.data());
        }
        for (std::size_t i = 0; i < some; ++i)
          k.scales(w_, r + i, from / w_.wide, some_parts, w_.unit, few.data() + i * some_parts);
        k.panel_floats(few.data(), some_parts, some_parts, scales.data());
        const PanelParts now{some_parts, columns.data() + part, start.data() + part, count_of_parts, scales.data()};
        k.multiply_bytes(tiles, x.step, from, m, panel.data(), now, sum.data() + (r - first), piece);
      }
    }
    for (std::size_t r = first; w_.offset && r < last; r += high) {
      Buffer<float> offsets(high * w_.across), turned(high * w_.across);
      for (std::size_t i = 0; i < std::min(high, last - r); ++i)
        std::copy_n(w_.offset + (r + i) / w_.tall * w_.across, w_.across, offsets.data() + i * w_.across);
      k.panel_floats(offsets.data(), w_.across, w_.across, turned.data());
      k.multiply_floats(sums.data(), w_.across, m, turned.data(), w_.across, true, sum.data() + (r - first), piece);
    }
    k.finish(sum.data(), piece, m, last - first, x.scales.data(), to.bias ? to.bias + first : nullptr, to.add,
             to.y + first, to.step);
  });
}

void PackedMatrix::multiply(const float* x, std::size_t m, const Output& to) const {
  if (m == 0) return;
  if (m <= kFewRows && !trellis_) return few(x, m, to);
  panels(x, m, to);
}

void PackedMatrix::multiply(const Rounded& x, const Output& to) const {
  if (x.m == 0) return;
  if (x.m <= kFewRows && !trellis_) return few(x, to);
  const bool quads = w_.across == 1 || w_.wide % 4 == 0;
  if (packed_kernels().multiply_bytes && quads) return panels(x, to);
  // The same numbers in floats.
  Buffer<float> again(x.m * w_.columns);
  for (std::size_t t = 0; t < x.m; ++t)
    for (std::size_t c = 0; c < w_.columns; ++c) again[t * w_.columns + c] = x.scales[t] * x.values[t * x.step + c];
  panels(again.data(), x.m, to);
}

}  // namespace tercile
